# SPDX-License-Identifier: Apache-2.0
"""Whole-file compression of shards: zstd, gz, bz2, br and snappy, into the caller's buffer.

Decompression fills a buffer of exactly the size that the index states and refuses a file that holds
more or less, so a small file cannot grow past it. It runs without the GIL.
Brotli and Snappy come with Arrow, which is needed anyway: its Brotli fills the buffer itself and is
as fast as the `brotli` package; its Snappy costs one copy, which only `cramjam` would save.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable

import numpy as np
import zstandard

from ..errors import ShardError

# Family: levels, default (as in mosaicml-streaming, for equal files), extension of the file.
_FAMILIES: dict[str, tuple[range, int, str]] = {
    "zstd": (range(1, 23), 3, "zstd"),
    "gz": (range(10), 9, "gz"),
    "bz2": (range(1, 10), 9, "bz2"),
    "br": (range(12), 11, "br"),
    "snappy": (range(0), 0, "snappy"),
}
_FEED_BYTES = 1 << 18  # what zlib is handed at once: it copies what it has not used up
_STEP_BYTES = 1 << 20  # what zlib and bz2 may return at once


def compression_level(compression: str) -> int:
    """Return the level of `family` or `family:level`; 0 for snappy, which has none.

    Raises:
        ShardError: The family is unknown, or the level is not one of its levels.
    """
    family, colon, level = compression.partition(":")
    if family not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise ShardError(f"unknown compression {compression!r}; use none, {known}, or 'zstd:N'")
    levels, default, _ = _FAMILIES[family]
    if not colon:
        return default
    if not levels:
        raise ShardError(f"compression {compression!r}: {family} has no levels")
    if not level.isdecimal() or int(level) not in levels:
        bounds = f"{levels[0]} to {levels[-1]}"
        raise ShardError(f"compression {compression!r}: the level of {family} is {bounds}")
    return int(level)


def extension(compression: str) -> str:
    """Return what the name of a file of this compression ends in, without the dot."""
    compression_level(compression)
    return _FAMILIES[compression.partition(":")[0]][2]


def compress(data: bytes, compression: str) -> bytes:
    """Return `data` compressed, in one piece."""
    level, family = compression_level(compression), compression.partition(":")[0]
    if family == "gz":
        packer = zlib.compressobj(level, wbits=31)  # no time in the header: equal data, equal file
        return packer.compress(data) + packer.flush()
    if family == "bz2":
        return bz2.compress(data, level)
    import pyarrow

    arrow_name = {"br": "brotli"}.get(family, family)
    options = {} if family == "snappy" else {"compression_level": level}
    return pyarrow.Codec(arrow_name, **options).compress(data, asbytes=True)


def decompress(
    where: str, data: np.ndarray, compression: str | None, out: np.ndarray
) -> np.ndarray:
    """Decompress a whole file into `out`, which it must fill exactly; return `out`.

    Args:
        where: The name for messages.
        data: uint8, the file as stored.
        compression: As the index states it.
        out: uint8 [raw_bytes], writable.

    Raises:
        ShardError: The data is not of that compression, is cut short, or holds more or less.
    """
    family = (compression or "").partition(":")[0]
    compression_level(compression or "")
    fills: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
        "zstd": _fill_zstd,
        "gz": _fill_gz,
        "bz2": _fill_bz2,
        "br": _fill_br,
        "snappy": _fill_snappy,
    }
    try:
        is_exact = fills[family](data, out)
    except (zstandard.ZstdError, zlib.error, OSError, EOFError, ValueError) as error:
        reason = f": {error}"
    else:
        if is_exact:
            return out
        reason = ""
    raise ShardError(
        f"{where} does not decompress to the {out.size} bytes the index states{reason}; "
        "write the shard again"
    )


def _fill_zstd(data: np.ndarray, out: np.ndarray) -> bool:
    reader = zstandard.ZstdDecompressor().stream_reader(data.data, read_across_frames=True)
    size = reader.readinto(out.data)
    return size == out.size and not reader.read(1)


def _fill_gz(data: np.ndarray, out: np.ndarray) -> bool:
    """Fill `out` from one gzip member or several."""
    at, unpacker = 0, zlib.decompressobj(wbits=31)
    for start in range(0, data.size, _FEED_BYTES):
        rest: bytes | memoryview = data.data[start : start + _FEED_BYTES]
        while len(rest):
            if unpacker.eof:
                unpacker = zlib.decompressobj(wbits=31)
            part = unpacker.decompress(rest, _STEP_BYTES)
            if at + len(part) > out.size:
                return False
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    return unpacker.eof and at == out.size


def _fill_bz2(data: np.ndarray, out: np.ndarray) -> bool:
    """Fill `out` from one bzip2 stream or several."""
    rest: bytes | memoryview = data.data
    at = 0
    while len(rest):
        unpacker = bz2.BZ2Decompressor()
        while not unpacker.eof:
            part = unpacker.decompress(rest, _STEP_BYTES)
            rest = b""  # the unpacker holds the rest
            is_cut = not part and unpacker.needs_input and not unpacker.eof
            if is_cut or at + len(part) > out.size:
                return False
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        rest = unpacker.unused_data
    return data.size > 0 and at == out.size


def _fill_br(data: np.ndarray, out: np.ndarray) -> bool:
    import pyarrow

    source = pyarrow.BufferReader(pyarrow.py_buffer(data))
    with pyarrow.CompressedInputStream(source, "brotli") as stream:
        at = 0
        while at < out.size and (size := stream.readinto(out.data[at:])):
            at += size
        return at == out.size and not stream.read(1)


def _fill_snappy(data: np.ndarray, out: np.ndarray) -> bool:
    import pyarrow

    if _snappy_bytes(data) != out.size:  # Arrow would leave the rest of a larger buffer undefined
        return False
    plain = pyarrow.Codec("snappy").decompress(pyarrow.py_buffer(data), out.size)
    out[:] = np.frombuffer(plain, np.uint8)
    return True


def _snappy_bytes(data: np.ndarray) -> int:
    """Return the length that a Snappy block states in its first bytes, -1 where it states none."""
    size = 0
    for place, byte in enumerate(data[:5].tolist()):
        size |= (byte & 127) << (7 * place)
        if byte < 128:
            return size
    return -1
