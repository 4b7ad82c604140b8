# SPDX-License-Identifier: Apache-2.0
"""MDS shards, read whole or only the samples wanted; their layout checked natively.

A whole file is fetched in ranges, verified and decompressed. Of an uncompressed one, some samples
can be read alone: the table of offsets, then runs of samples, laid out in memory as a small shard.
What the bytes claim is checked before it is used, whatever they are; a lie is a ShardError that
names shard and sample.
Source: csrc/mds.h describes the layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import ShardError
from ..storage import MissingObjectError, ShortObjectError, Store
from .compression import decompress
from .encodings import make_decoder
from .hashing import check_digest, check_samples, hash_samples
from .index import ShardIndex, ShardInfo
from .index_json import read_index
from .ranges import find_runs, read_spans, rows_of
from .shard import Ask, Shard

_HEAD_BYTES = 4096  # read along with the table of offsets: most configs are smaller


class MDSShard(Shard):
    """A raw shard in memory, its layout checked. Made by `read` or `parse_shard`.

    Args:
        info: What the index says.
        buffer: uint8, a file in MDS layout.
        where: The name for messages.
        held: The samples of the shard that the buffer holds, int64, ascending; None for all.
    """

    def __init__(
        self, info: ShardInfo, buffer: np.ndarray, where: str, held: np.ndarray | None = None
    ) -> None:
        super().__init__(info, where)
        self._buffer = buffer
        self._held = held
        columns = zip(info.column_names, info.column_encodings, info.column_sizes, strict=True)
        num = info.num_samples if held is None else held.size
        if held is not None:
            where = f"{where}, of the {num} samples that were read"
        try:
            self._native = _core.MdsShard(buffer, list(columns), where, num)
        except (_core.ShardFault, ValueError) as error:
            raise ShardError(f"{error}; write the shard again") from None
        _check_config(info, where, buffer[slice(*self._native.config_span)])

    @property
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""
        return self._buffer.nbytes + 4 * (self._native.num_samples + 1)

    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; see `Shard.values`."""
        decode = make_decoder(self.encoding(column))
        wanted = np.asarray(rows, np.int64).reshape(-1)
        values = []
        for row, (begin, end) in zip(wanted.tolist(), self._spans(column, wanted), strict=True):
            try:
                values.append(decode(self._buffer[begin:end].tobytes()))
            except (ValueError, ArithmeticError, RecursionError) as error:
                where = f"{self.where}, sample {row}, column {column!r}"
                raise ShardError(f"{where}: {error}") from error
        return values

    def cells(self, column: str) -> list[memoryview]:
        """Return the bytes of every sample as they are encoded, views of the shard's own.

        Raises:
            ShardError: There is no such column, a sample is malformed, or was not read.
        """
        self.encoding(column)
        held = self._buffer.data
        spans = self._spans(column, np.arange(self.num_samples))
        return [held[begin:end] for begin, end in spans]

    def sample_hashes(self) -> np.ndarray | None:
        """Return xxh3_64 of each sample's stored bytes; see `Shard.sample_hashes`."""
        if self._held is not None:
            raise ShardError(f"{self.where}: only some samples were read, hashes need them all")
        return hash_samples(self._buffer, _offsets(self._buffer, self.num_samples))

    def sample_bytes(self) -> np.ndarray | None:
        """Return the bytes of each sample in the raw file; see `Shard.sample_bytes`."""
        if self._held is not None:
            raise ShardError(f"{self.where}: only some samples were read, sizes need them all")
        return np.diff(_offsets(self._buffer, self.num_samples)).astype(np.uint64)

    def _spans(self, column: str, rows: np.ndarray) -> list[list[int]]:
        if self._held is not None:
            places = np.searchsorted(self._held, rows)
            found = self._held[np.minimum(places, self._held.size - 1)] if self._held.size else -1
            if (missing := np.flatnonzero(found != rows)).size:
                raise ShardError(f"{self.where}: sample {rows[missing[0]]} was not read")
            rows = places
        try:
            return self._native.spans(column, rows).tolist()
        except _core.ShardFault as error:
            raise ShardError(str(error)) from None

    def _find(self, column: str) -> _core.Elements:
        table = self._native.elements(column)
        if self._held is None:
            return table
        # The elements of a cell are its last bytes, whatever stands before them.
        spans = self._native.spans(column, np.arange(self._held.size))
        begin = np.zeros(self.num_samples, np.int64)
        count = np.zeros(self.num_samples, np.uint32)
        count[self._held] = table.lengths
        sizes = np.dtype(table.dtype).itemsize * table.lengths.astype(np.int64)
        begin[self._held] = spans[:, 1] - sizes
        return _core.Elements(self._buffer, begin, count, table.dtype, self.where)


def find(store: Store, options: Mapping[str, Any]) -> ShardIndex | None:
    """Return the shards that index.json lists, None where there is no such file."""
    del options
    try:
        return read_index(store)
    except MissingObjectError:
        return None


def read(store: Store, info: ShardInfo, ask: Ask) -> MDSShard:
    """Read a shard from its corpus.

    All columns are read, whatever is asked. Single samples are read where the file is uncompressed
    and need not be verified as a whole. A whole file is compared with the strongest hash that the
    index lists for it or, where `ask.verify` is "ranges", with the hashes of its samples.

    Args:
        store: The store the index was read from.
        info: The shard.
        ask: What is wanted.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is cut short, too long, corrupt, or not the shard the index describes.
    """
    where = f"{store.url}/{info.stored_name}"
    rows = ask.wanted(info, where)
    try:
        if rows is None or info.zip_basename is not None or ask.verify == "strict":
            return _read_whole(store, info, ask, where)
        return _read_rows(store, info, ask, where, rows)
    except ShortObjectError as error:
        raise _wrong_length(where, info, error.size_bytes) from error


def parse_shard(info: ShardInfo, buffer: np.ndarray, where: str | None = None) -> MDSShard:
    """Check the layout of raw bytes, which the shard then owns and nobody may write to.

    Args:
        info: What the index says.
        buffer: uint8 [raw_bytes], the uncompressed file.
        where: The name for messages; default the file's name.

    Raises:
        ShardError: The bytes are not that shard.
    """
    return MDSShard(info, buffer, where or info.basename)


def _read_whole(store: Store, info: ShardInfo, ask: Ask, where: str) -> MDSShard:
    stored = ask.allocate(info.stored_bytes)
    size_bytes = store.get_range_into(info.stored_name, 0, stored)
    if size_bytes != info.stored_bytes:
        raise _wrong_length(where, info, size_bytes)
    digests = info.zip_hashes if info.zip_basename else info.raw_hashes
    by_sample = ask.verify == "ranges" and ask.hashes is not None
    if ask.verify != "none" and not by_sample:
        check_digest(where, stored, digests)
    raw = stored
    if info.zip_basename is not None:
        raw = decompress(where, stored, info.compression, ask.allocate(info.raw_bytes))
    shard = parse_shard(info, raw, where)
    if by_sample and ask.hashes is not None:
        offsets = _offsets(raw, info.num_samples)
        check_samples(where, raw, offsets, np.arange(info.num_samples), ask.hashes)
    elif ask.verify == "none" or not digests:
        shard.unverified_bytes = info.stored_bytes
    return shard


def _offsets(raw: np.ndarray, num_samples: int) -> np.ndarray:
    return raw[4 : 8 + 4 * num_samples].view("<u4").astype(np.int64)


def _read_rows(store: Store, info: ShardInfo, ask: Ask, where: str, rows: np.ndarray) -> MDSShard:
    offsets, config = _read_head(store, info, where)
    runs = find_runs(rows, offsets)
    held = rows_of(runs)
    if held.size == info.num_samples:
        return _read_whole(store, info, ask, where)
    start = 8 + 4 * held.size + config.size
    local = start + np.concatenate(([0], np.cumsum(np.diff(offsets)[held])))
    buffer = ask.allocate(int(local[-1]))
    buffer[:4] = np.array([held.size], "<u4").view(np.uint8)
    buffer[4 : 8 + 4 * held.size] = local.astype("<u4").view(np.uint8)
    buffer[8 + 4 * held.size : start] = config
    read_spans(store, info.stored_name, offsets[runs], buffer[start:])
    shard = MDSShard(info, buffer, where, held)
    if ask.verify == "ranges" and ask.hashes is not None:
        check_samples(where, buffer, local, held, ask.hashes)
    else:
        shard.unverified_bytes = buffer.size - start
    return shard


def _read_head(store: Store, info: ShardInfo, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the checked offsets, int64 [n + 1], and the bytes of the config."""
    table_bytes = 8 + 4 * info.num_samples
    head = np.empty(min(table_bytes + _HEAD_BYTES, info.raw_bytes), np.uint8)
    size_bytes = store.get_range_into(info.stored_name, 0, head)
    if size_bytes != info.raw_bytes:
        raise _wrong_length(where, info, size_bytes)
    num = int(head[:4].view("<u4")[0])
    offsets = head[4:table_bytes].view("<u4").astype(np.int64)
    if num != info.num_samples or offsets[-1] != info.raw_bytes:
        raise ShardError(f"{where}: its header is not that of a shard; write it again")
    if offsets[0] < table_bytes or (np.diff(offsets) < 0).any():
        at = int(np.argmax(np.diff(offsets) < 0))
        raise ShardError(f"{where}, sample {at}: offsets do not ascend; write the shard again")
    config = head[table_bytes : offsets[0]]
    if offsets[0] > head.size:
        config = np.empty(int(offsets[0]) - table_bytes, np.uint8)
        store.get_range_into(info.stored_name, table_bytes, config)
    return offsets, config


def _check_config(info: ShardInfo, where: str, config: np.ndarray) -> None:
    try:
        written = json.loads(config.tobytes())
        columns = [tuple(written[f"column_{key}"]) for key in ("names", "encodings", "sizes")]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ShardError(f"{where}: its header is not that of a shard; write it again") from None
    if columns != [info.column_names, info.column_encodings, info.column_sizes]:
        raise ShardError(f"{where}: its columns are not those the index states; write it again")


def _wrong_length(where: str, info: ShardInfo, size_bytes: int) -> ShardError:
    return ShardError(
        f"{where} is {size_bytes} bytes, the index states {info.stored_bytes}; "
        "the file was cut or replaced: copy or write it again"
    )
