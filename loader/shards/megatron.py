# SPDX-License-Identifier: Apache-2.0
"""Megatron-LM's indexed datasets: `NAME.bin`, all tokens, beside `NAME.idx`, where they are.

The index, little-endian: 9 bytes "MMIDIDX", 0, 0 | u64 version 1 | u8 dtype | u64 n sequences |
u64 m, documents + 1 | i32 length[n], in tokens | i64 pointer[n], in bytes | i64 first[m],
the first sequence of each document, at last n. A sample is a document, whatever sequences it is
made of; a shard is a run of documents of about 64 MiB. Finding reads 16 bytes of index a document,
reading a shard its own part of index and tokens. Every number is checked before it is used.
Source: megatron/core/datasets/indexed_dataset.py describes the layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShardError
from ..storage import ShortObjectError, Store
from .index import ShardIndex, ShardInfo
from .listing import check_options, find_files
from .shard import Ask
from .token_runs import RUN_BYTES, RunShard, read_run, run_info

OPTIONS = ("files",)
_MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<9sQBQQ")
# 1 to 8 are Megatron's, 9 and 10 those that fairseq adds. 6 and 7 are floats, in either order.
_DTYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2", 9: "u4", 10: "u8"}
_BLOCK = 1 << 18  # numbers of the index read at once


@dataclass(frozen=True)
class _Index:
    """The checked head of an `.idx` file."""

    store: Store
    stem: str
    dtype: np.dtype
    num_sequences: int
    num_documents: int

    @property
    def where(self) -> str:
        return f"{self.store.url}/{self.stem}.idx"

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Return the tokens of sequences `start` to `stop`: int64."""
        return self._numbers(_HEAD.size, np.dtype("<i4"), start, stop)

    def pointers(self, start: int, stop: int) -> np.ndarray:
        """Return the first bytes of sequences `start` to `stop`: int64."""
        at = _HEAD.size + 4 * self.num_sequences
        return self._numbers(at, np.dtype("<i8"), start, stop)

    def sequences(self, start: int, stop: int) -> np.ndarray:
        """Return the first sequences of documents `start` to `stop`: int64, ascending, checked."""
        at = _HEAD.size + 12 * self.num_sequences
        found = self._numbers(at, np.dtype("<i8"), start, stop)
        is_inside = not found.size or (found[0] >= 0 and found[-1] <= self.num_sequences)
        if not is_inside or (np.diff(found) < 0).any():
            raise ShardError(
                f"{self.where}: documents {start} to {stop} begin at sequences that do not ascend "
                f"within {self.num_sequences}; write the index again"
            )
        return found

    def _numbers(self, at: int, dtype: np.dtype, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, dtype)
        if out.size:
            begin = at + start * dtype.itemsize
            self.store.get_range_into(f"{self.stem}.idx", begin, out.view(np.uint8))
        return out.astype(np.int64, copy=False)


def find(store: Store, options: Mapping[str, Any]) -> ShardIndex | None:
    """Return the runs of documents of all `.idx` files of a store, None without any.

    Args:
        store: Where to look.
        options: `files`, the `.idx` files meant.

    Raises:
        ShardError: An index is malformed, or its `.bin` is of another length.
        StorageError: A file is missing or cannot be read.
    """
    names = find_files(store, options, (".idx",))
    if not names:
        return None
    check_options(store.url, "megatron", options, OPTIONS)
    indexes = (_open(store, name.removesuffix(".idx")) for name in names)
    return ShardIndex(info for index in indexes for info in _runs(index))


def read(store: Store, info: ShardInfo, ask: Ask) -> RunShard:
    """Read a run of documents, or some of them; see `read_run`."""
    index = _open(store, info.basename.removesuffix(".bin"))
    where = f"{index.where}, documents from {info.part} on"
    if info.part + info.num_samples > index.num_documents:
        raise ShardError(f"{where}: there are {index.num_documents}; make the index again")
    first = index.sequences(info.part, info.part + info.num_samples + 1)
    start, stop = int(first[0]), int(first[-1])
    lengths, pointers = index.lengths(start, stop), index.pointers(start, stop)
    ends = np.cumsum(lengths)
    size = int(ends[-1]) * index.dtype.itemsize if ends.size else 0
    expected = info.start + (ends - lengths) * index.dtype.itemsize
    is_sound = (lengths >= 0).all() and size == info.raw_bytes
    if not is_sound or not np.array_equal(pointers, expected):
        raise ShardError(
            f"{where}: lengths and pointers of sequences {start} to {stop} do not make the "
            f"{info.raw_bytes} bytes from {info.start} on; write the index again"
        )
    if index.dtype.name != info.column_encodings[0].partition(":")[2]:
        raise ShardError(f"{where}: the tokens are {index.dtype.name} now; make the index again")
    before = np.concatenate(([0], ends))[first - start]
    return read_run(store, info, ask, np.diff(before))


def _open(store: Store, stem: str) -> _Index:
    """Read and check the head of an index."""
    where, head = f"{store.url}/{stem}.idx", np.empty(_HEAD.size, np.uint8)
    try:
        size = store.get_range_into(f"{stem}.idx", 0, head)
    except ShortObjectError as error:
        raise ShardError(f"{where} is {error.size_bytes} bytes, no index; copy it again") from error
    magic, version, code, num_sequences, num_entries = _HEAD.unpack(head.tobytes())
    if magic != _MAGIC or version != 1:
        raise ShardError(f"{where} is no index of Megatron-LM of version 1 (mmap)")
    if code not in _DTYPES:
        raise ShardError(f"{where}: type {code} is none of integers; tokens must be integers")
    # Multimodal indexes end in one more byte a sequence.
    expected = _HEAD.size + 12 * num_sequences + 8 * num_entries
    if num_entries < 1 or size not in (expected, expected + num_sequences):
        raise ShardError(
            f"{where} is {size} bytes, {num_sequences} sequences and {num_entries - 1} documents "
            f"take {expected}; copy or write it again"
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder("<")
    return _Index(store, stem, dtype, num_sequences, num_entries - 1)


def _runs(index: _Index) -> Iterator[ShardInfo]:
    """Cut the documents of an index into runs, reading it in blocks."""
    end, size = _end(index), index.store.head(f"{index.stem}.bin")
    if size != end:
        raise ShardError(
            f"{index.store.url}/{index.stem}.bin is {size} bytes, its index states {end}; "
            "copy the files again"
        )
    first, begin = 0, 0  # of the run that is open
    for document, starts in _starts(index, end):
        if (np.diff(starts, prepend=begin) < 0).any() or starts[-1] > end:
            raise ShardError(f"{index.where}: pointers do not ascend; write the index again")
        while starts[-1] - begin >= RUN_BYTES:
            at = int(np.searchsorted(starts, begin + RUN_BYTES))
            stop = document + at
            yield _info(index, first, stop, begin, int(starts[at]))
            first, begin = stop, int(starts[at])
    if first < index.num_documents:
        yield _info(index, first, index.num_documents, begin, end)


def _starts(index: _Index, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """Give (first document, the first byte of it and those after it) block by block.

    The last block ends with the end of the last document.
    """
    total = index.num_documents + 1
    document = 0
    while document < total:
        stop = min(total, document + _BLOCK)
        first = index.sequences(document, stop)
        while first[-1] - first[0] >= 4 * _BLOCK and first.size > 1:  # documents of many sequences
            first = first[: first.size // 2]
        low, high = int(first[0]), min(int(first[-1]) + 1, index.num_sequences)
        pointers = np.append(index.pointers(low, high), end)
        yield document, pointers[np.minimum(first - low, pointers.size - 1)]
        document += first.size


def _end(index: _Index) -> int:
    """Return the bytes of all sequences, by the last of them."""
    last = index.num_sequences - 1
    [sequences] = index.sequences(index.num_documents, index.num_documents + 1)
    if sequences != index.num_sequences:
        raise ShardError(
            f"{index.where}: the documents end at sequence {sequences} of {index.num_sequences}; "
            "write the index again"
        )
    if last < 0:
        return 0
    [pointer], [length] = index.pointers(last, last + 1), index.lengths(last, last + 1)
    return int(pointer) + int(length) * index.dtype.itemsize


def _info(index: _Index, first: int, stop: int, begin: int, end: int) -> ShardInfo:
    return run_info(
        *("megatron", f"{index.stem}.bin", index.dtype),
        samples=stop - first,
        start=begin,
        size=end - begin,
        part=first,
    )
