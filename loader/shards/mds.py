# SPDX-License-Identifier: Apache-2.0
"""MDS shards, read: fetched in ranges, verified, decompressed, parsed and gathered natively.

A Shard owns its bytes and is immutable: any number of threads may read it. What the bytes claim is
checked before it is used, whatever they are; a lie is a ShardError that names shard and sample.
Source: csrc/mds.h describes the layout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import ShardError
from ..storage import ShortObjectError, Store
from .compression import decompress, pooled_bytes
from .encodings import make_decoder, scalar_dtype
from .hashing import check_digest
from .index import ShardInfo, read_index

__all__ = ["Shard", "ShardInfo", "fetch_shard", "gather", "parse_shard", "read_index"]


class Shard:
    """One raw shard in memory, its layout checked. Made by `fetch_shard` or `parse_shard`."""

    def __init__(self, info: ShardInfo, buffer: np.ndarray, where: str) -> None:
        self.info = info
        self._buffer = buffer
        self._where = where
        columns = zip(info.column_names, info.column_encodings, info.column_sizes, strict=True)
        try:
            self.native = _core.MdsShard(buffer, list(columns), where, info.num_samples)
        except (_core.ShardFault, ValueError) as error:
            raise ShardError(f"{error}; write the shard again") from None
        _check_config(info, where, buffer[slice(*self.native.config_span)])

    @property
    def num_samples(self) -> int:
        """Samples in the shard."""
        return self.info.num_samples

    @property
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""
        return self._buffer.nbytes + 4 * (self.num_samples + 1)

    def lengths(self, column: str) -> np.ndarray:
        """Return the elements of each sample: uint32 [n]; values of an ndarray, bytes of a text.

        Raises:
            ShardError: There is no such column, or a sample is malformed.
        """
        self._encoding(column)
        try:
            return self.native.lengths(column)
        except _core.ShardFault as error:
            raise ShardError(str(error)) from None

    def scalars(self, column: str) -> np.ndarray:
        """Return a column of fixed scalars: [n] of its dtype, a copy.

        Raises:
            ShardError: There is no such column, or it does not hold scalars.
        """
        encoding = self._encoding(column)
        dtype = scalar_dtype(encoding)
        if dtype is None:
            raise ShardError(f"{self._where}: column {column!r} is {encoding}, not a scalar")
        rows = np.arange(self.num_samples, dtype=np.int32)
        ones = np.ones(rows.size, np.int64)
        out = np.empty(rows.size, dtype)
        gather([self], column, np.zeros_like(rows), rows, ones - 1, ones, out)
        return out

    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; arrays are read-only, images encoded bytes.

        Raises:
            ShardError: There is no such column or sample, or the bytes are not what they claim.
        """
        decode = make_decoder(self._encoding(column))
        wanted = np.asarray(rows, np.int64).reshape(-1)
        try:
            spans = self.native.spans(column, wanted).tolist()
        except _core.ShardFault as error:
            raise ShardError(str(error)) from None
        values = []
        for row, (begin, end) in zip(wanted.tolist(), spans, strict=True):
            try:
                values.append(decode(self._buffer[begin:end].tobytes()))
            except (ValueError, ArithmeticError, RecursionError) as error:
                where = f"{self._where}, sample {row}, column {column!r}"
                raise ShardError(f"{where}: {error}") from error
        return values

    def _encoding(self, column: str) -> str:
        try:
            return self.info.column_encodings[self.info.column_names.index(column)]
        except ValueError:
            held = ", ".join(self.info.column_names)
            raise ShardError(f"{self._where}: no column {column!r}; it holds {held}") from None


def fetch_shard(store: Store, info: ShardInfo, *, verify: bool = True) -> Shard:
    """Read a shard from its corpus.

    Args:
        store: The store the index was read from.
        info: The shard.
        verify: Compare the stored file with the strongest hash the index lists for it.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is cut short, too long, corrupt, or not the shard the index describes.
    """
    where = f"{store.url}/{info.stored_name}"
    stored = pooled_bytes(info.stored_bytes)
    try:
        size_bytes = store.get_range_into(info.stored_name, 0, stored)
    except ShortObjectError as error:
        raise _wrong_length(where, info, error.size_bytes) from error
    if size_bytes != info.stored_bytes:
        raise _wrong_length(where, info, size_bytes)
    if verify:
        check_digest(where, stored, info.zip_hashes if info.zip_basename else info.raw_hashes)
    raw = decompress(where, stored, info.raw_bytes) if info.zip_basename else stored
    return parse_shard(info, raw, where)


def parse_shard(info: ShardInfo, buffer: np.ndarray, where: str | None = None) -> Shard:
    """Check the layout of raw bytes, which the shard then owns and nobody may write to.

    Args:
        info: What the index says.
        buffer: uint8 [raw_bytes], the uncompressed file.
        where: The name for messages; default the file's name.

    Raises:
        ShardError: The bytes are not that shard.
    """
    return Shard(info, buffer, where or info.basename)


def gather(
    shards: Sequence[Shard],
    column: str,
    shard_pos: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    out: np.ndarray,
) -> None:
    """Copy element ranges of many samples, one after the other, into one array.

    One native call without the GIL. Every bound is checked before the first element is written.
    Seven plain arguments: an object for them would be made once a batch only to be undone.

    Args:
        shards: The shards that `shard_pos` counts.
        column: The same column of each: an ndarray, a scalar, or bytes of any other encoding.
        shard_pos: [m] int32, position in `shards`.
        rows: [m] int32, sample in that shard.
        starts: [m] int64, first element.
        stops: [m] int64, behind the last element.
        out: 1-D, filled to its last element; the column's dtype or a wider integer.

    Raises:
        ShardError: A piece leaves its sample, a sample is malformed, or `out` cannot hold its type.
        ValueError: The arrays do not fit each other.
    """
    for shard in shards:
        shard._encoding(column)
    natives = [shard.native for shard in shards]
    try:
        _core.gather(natives, column, shard_pos, rows, starts, stops, out)
    except _core.ShardFault as error:
        raise ShardError(str(error)) from None


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
