# SPDX-License-Identifier: Apache-2.0
"""MDS shards, read: fetched in ranges, verified, decompressed, and their layout checked natively.

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
from ..storage import ShortObjectError, Store
from .compression import decompress
from .encodings import make_decoder
from .hashing import check_digest
from .index import INDEX_NAME, ShardIndex, ShardInfo, read_index
from .shard import Ask, Shard


class MDSShard(Shard):
    """One raw shard in memory, its layout checked. Made by `read` or `parse_shard`."""

    def __init__(self, info: ShardInfo, buffer: np.ndarray, where: str) -> None:
        super().__init__(info, where)
        self._buffer = buffer
        columns = zip(info.column_names, info.column_encodings, info.column_sizes, strict=True)
        try:
            self._native = _core.MdsShard(buffer, list(columns), where, info.num_samples)
        except (_core.ShardFault, ValueError) as error:
            raise ShardError(f"{error}; write the shard again") from None
        _check_config(info, where, buffer[slice(*self._native.config_span)])

    @property
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""
        return self._buffer.nbytes + 4 * (self.num_samples + 1)

    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; see `Shard.values`."""
        decode = make_decoder(self.encoding(column))
        wanted = np.asarray(rows, np.int64).reshape(-1)
        try:
            spans = self._native.spans(column, wanted).tolist()
        except _core.ShardFault as error:
            raise ShardError(str(error)) from None
        values = []
        for row, (begin, end) in zip(wanted.tolist(), spans, strict=True):
            try:
                values.append(decode(self._buffer[begin:end].tobytes()))
            except (ValueError, ArithmeticError, RecursionError) as error:
                where = f"{self.where}, sample {row}, column {column!r}"
                raise ShardError(f"{where}: {error}") from error
        return values

    def cells(self, column: str) -> list[memoryview]:
        """Return the bytes of every sample as they are encoded, views of the shard's own.

        Raises:
            ShardError: There is no such column, or a sample is malformed.
        """
        self.encoding(column)
        try:
            spans = self._native.spans(column, np.arange(self.num_samples)).tolist()
        except _core.ShardFault as error:
            raise ShardError(str(error)) from None
        held = memoryview(self._buffer)
        return [held[begin:end] for begin, end in spans]

    def _find(self, column: str) -> _core.Elements:
        return self._native.elements(column)


def find(store: Store, options: Mapping[str, str]) -> ShardIndex | None:
    """Return the shards that index.json lists, None where there is no such file."""
    del options
    return read_index(store) if store.exists(INDEX_NAME) else None


def read(store: Store, info: ShardInfo, ask: Ask) -> MDSShard:
    """Read a shard from its corpus, whole.

    Args:
        store: The store the index was read from.
        info: The shard.
        ask: All columns are read, whatever it says; "strict" compares the stored file with the
            strongest hash the index lists for it.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is cut short, too long, corrupt, or not the shard the index describes.
    """
    where = f"{store.url}/{info.stored_name}"
    stored = ask.allocate(info.stored_bytes)
    try:
        size_bytes = store.get_range_into(info.stored_name, 0, stored)
    except ShortObjectError as error:
        raise _wrong_length(where, info, error.size_bytes) from error
    if size_bytes != info.stored_bytes:
        raise _wrong_length(where, info, size_bytes)
    if ask.verify == "strict":
        check_digest(where, stored, info.zip_hashes if info.zip_basename else info.raw_hashes)
    raw = stored
    if info.zip_basename is not None:
        raw = decompress(where, stored, info.compression, ask.allocate(info.raw_bytes))
    return parse_shard(info, raw, where)


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
