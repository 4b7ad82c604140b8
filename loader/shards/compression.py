# SPDX-License-Identifier: Apache-2.0
"""Whole-file compression of shards: zstd, into the caller's buffer.

Decompression fills a buffer of exactly the size that the index states and refuses a file that holds
more or less, so a small file cannot grow past it. One call without the GIL.
"""

from __future__ import annotations

import numpy as np
import zstandard

from ..errors import ShardError

OTHERS = ("br", "bz2", "gz", "snappy")
_LEVELS = range(1, 23)


def compression_level(compression: str) -> int:
    """Return the level of `zstd` or `zstd:N`; others are refused.

    Raises:
        ShardError: The compression is not zstd, or its level is not 1 to 22.
    """
    family, _, level = compression.partition(":")
    if family in OTHERS:
        raise ShardError(f"compression {compression!r} is not supported; write the shards as zstd")
    if family != "zstd" or (":" in compression and not level.isdecimal()):
        raise ShardError(f"unknown compression {compression!r}; use none, 'zstd' or 'zstd:N'")
    if level and int(level) not in _LEVELS:
        raise ShardError(f"compression {compression!r}: the level of zstd is 1 to 22")
    return int(level or 3)


def compress(data: bytes, compression: str) -> bytes:
    """Return `data` as one zstd frame."""
    import pyarrow

    codec = pyarrow.Codec("zstd", compression_level=compression_level(compression))
    return codec.compress(data, asbytes=True)


def decompress(where: str, data: np.ndarray, compression: str | None, out: np.ndarray) -> np.ndarray:
    """Decompress a whole file into `out`, which it must fill exactly; return `out`.

    Args:
        where: The name for messages.
        data: uint8, the file as stored.
        compression: As the index states it.
        out: uint8 [raw_bytes], writable.

    Raises:
        ShardError: The data is not of that compression, is cut short, or holds more or less.
    """
    del compression
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        size = reader.readinto(memoryview(out))
        has_more = bool(reader.read(1))
    except zstandard.ZstdError as error:
        raise ShardError(
            f"{where} does not decompress to the {out.size} bytes the index states: {error}; "
            "write the shard again"
        ) from error
    if size != out.size or has_more:
        raise ShardError(
            f"{where} does not decompress to the {out.size} bytes the index states; write it again"
        )
    return out
