# SPDX-License-Identifier: Apache-2.0
"""Files of nothing but tokens, as nanoGPT (`.bin`), llm.c (`.bin`) and numpy (`.npy`) write them.

There are no documents in them: a sample is a stretch of `sample_tokens` tokens, the last of a
file may be shorter; of a two-dimensional `.npy` it is a row. A shard is a run of about 64 MiB.
The header of llm.c, 256 words of which the first is a date, is found by itself; those of `.npy` are
read by numpy, and objects are refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShardError
from ..storage import ShortObjectError, Store
from .index import ShardIndex, ShardInfo
from .listing import check_options, find_files, whole_number
from .shard import Ask
from .token_runs import DTYPES, RUN_BYTES, RunShard, read_run, run_info

OPTIONS = ("files", "dtype", "sample_tokens")
_HELD_OUT = ("val", "test", "eval", "dev")
_HEAD_BYTES = 1024  # llm.c's header, more than numpy's
# First word of llm.c's header (of GPT-2 tokens, of Llama-3 tokens): its version, the dtype.
_LLMC: dict[int, tuple[int, np.dtype]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}


@dataclass(frozen=True)
class _Tokens:
    """Where the tokens of a file lie: from byte `start` to the end of the file."""

    name: str
    dtype: np.dtype
    start: int
    num_tokens: int
    sample_tokens: int


def find(store: Store, options: Mapping[str, Any]) -> ShardIndex | None:
    """Return the runs of tokens in the `.bin` and `.npy` files of a store, None without any.

    Args:
        store: Where to look; the head of every file is read.
        options: `files`; `dtype` of `.bin` files without a header, default uint16; `sample_tokens`,
            default 2048.

    Raises:
        ShardError: A file is no file of tokens, or one for training lies beside one held out and
            `files` does not say which are meant.
        StorageError: A file cannot be read.
    """
    names = find_files(store, options, (".bin", ".npy"))
    if not names:
        return None
    check_options(store.url, "raw", options, OPTIONS)
    if "files" not in options:
        _check_splits(store, names)
    dtype = options.get("dtype", "uint16")
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise ShardError(f"{store.url}: option 'dtype' is {dtype!r}; known are {known}")
    length = whole_number(store.url, options, "sample_tokens", 2048)
    found = (_look(store, name, np.dtype(dtype).newbyteorder("<"), length) for name in names)
    return ShardIndex(info for tokens in found for info in _runs(tokens))


def read(store: Store, info: ShardInfo, ask: Ask) -> RunShard:
    """Read a run of samples, or some of them; see `read_run`."""
    dtype = np.dtype(info.column_encodings[0].partition(":")[2])
    num_tokens, length = info.raw_bytes // dtype.itemsize, info.part
    is_whole = length > 0 and info.raw_bytes % dtype.itemsize == 0
    if not is_whole or -(-num_tokens // length) != info.num_samples:
        raise ShardError(
            f"{store.url}/{info.basename}: {info.num_samples} samples of {length} tokens do not "
            f"make {info.raw_bytes} bytes; make the index again"
        )
    ends = np.minimum(np.arange(1, info.num_samples + 1) * length, num_tokens)
    return read_run(store, info, ask, np.diff(ends, prepend=0))


def _check_splits(store: Store, names: list[str]) -> None:
    held_out = [name for name in names if name.rpartition("/")[2].startswith(_HELD_OUT)]
    if held_out and len(held_out) < len(names):
        other = next(name for name in names if name not in held_out)
        raise ShardError(
            f"{store.url} holds {held_out[0]} beside {other}: name those meant by the option "
            f"'files', such as files={other}"
        )


def _look(store: Store, name: str, dtype: np.dtype, length: int) -> _Tokens:
    """Read the head of a file."""
    where = f"{store.url}/{name}"
    head = np.empty(_HEAD_BYTES, np.uint8)
    try:
        size = store.get_range_into(name, 0, head)
    except ShortObjectError as error:
        size = error.size_bytes
        head = np.empty(size, np.uint8)
        if size:
            store.get_range_into(name, 0, head)
    if name.endswith(".npy"):
        return _look_npy(where, name, head, size, length)
    start = 0
    if head.size == _HEAD_BYTES and int(head[:4].view("<i4")[0]) in _LLMC:
        start = _HEAD_BYTES
        dtype = _llmc_dtype(where, head.view("<i4"), size)
    if (size - start) % dtype.itemsize:
        raise ShardError(
            f"{where}: {size - start} bytes are no whole number of {dtype.name}; "
            "set the option 'dtype', or copy the file again"
        )
    return _Tokens(name, dtype, start, (size - start) // dtype.itemsize, length)


def _llmc_dtype(where: str, words: np.ndarray, size: int) -> np.dtype:
    version, num_tokens = int(words[1]), int(words[2])
    expected, dtype = _LLMC[int(words[0])]
    if version != expected:
        raise ShardError(f"{where}: version {version} of the header of llm.c is not {expected}")
    if num_tokens * dtype.itemsize != size - _HEAD_BYTES:
        raise ShardError(
            f"{where}: {size} bytes, but its header states {num_tokens} tokens; copy it again"
        )
    return dtype


def _look_npy(where: str, name: str, head: np.ndarray, size: int, length: int) -> _Tokens:
    stream = io.BytesIO(head.tobytes())
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} is not read")
        shape, is_fortran, dtype = readers[version](stream)
    except ValueError as error:
        raise ShardError(f"{where} is no .npy file that can be read: {error}") from error
    is_plain = dtype.name in DTYPES and dtype.newbyteorder("<") == dtype
    if not is_plain or len(shape) not in (1, 2) or (is_fortran and len(shape) == 2):
        raise ShardError(
            f"{where}: an array of {dtype} and shape {shape} is not read; save integers of one or "
            "two axes, in C order and little-endian"
        )
    start, num_tokens = stream.tell(), int(np.prod(shape, dtype=object))
    if min(shape) < 0 or start + num_tokens * dtype.itemsize != size:
        raise ShardError(
            f"{where} is {size} bytes, its header states {num_tokens} {dtype.name}; copy it again"
        )
    if len(shape) == 2:
        length = max(1, shape[1])
    return _Tokens(name, dtype, start, num_tokens, length)


def _runs(tokens: _Tokens) -> Iterator[ShardInfo]:
    sample_bytes = tokens.sample_tokens * tokens.dtype.itemsize
    end = tokens.start + tokens.num_tokens * tokens.dtype.itemsize
    run_bytes = max(1, RUN_BYTES // sample_bytes) * sample_bytes
    for start in range(tokens.start, end, run_bytes):
        size = min(run_bytes, end - start)
        yield run_info(
            *("raw", tokens.name, tokens.dtype),
            samples=-(-size // sample_bytes),
            start=start,
            size=size,
            part=tokens.sample_tokens,
        )
