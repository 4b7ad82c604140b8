# SPDX-License-Identifier: Apache-2.0
"""A shard in memory: decoded columns, whatever format they came in.

A shard owns its bytes and is immutable: any number of threads may read it. Gathering and packing
know only `Elements`, the checked table of where a column's elements lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .. import _core
from ..errors import ShardError
from .encodings import make_decoder, scalar_dtype
from .index import ShardInfo

Allocate = Callable[[int], np.ndarray]
Verify = Literal["strict", "ranges", "none"]


def plain_bytes(num_bytes: int) -> np.ndarray:
    """Return uint8 [num_bytes], writable, uninitialised: memory of no pool."""
    return np.empty(num_bytes, np.uint8)


@dataclass(frozen=True)
class Ask:
    """What is wanted of a shard.

    Attributes:
        columns: None wants all.
        allocate: Gives uint8 [num_bytes], writable: the buffers that the shard keeps, or that are
            needed while it is read.
        verify: "strict" checks the hash of the whole file and so reads all of it; "ranges" checks
            each sample against `hashes` and else reads what is wanted unverified; "none" checks
            nothing but the layout. What was not verified is counted in `Shard.unverified_bytes`.
        rows: Samples wanted, ascending int64; None wants all. A format may give more. Those not
            read have no elements.
        hashes: uint64 [n], xxh3_64 of the bytes of every sample of the shard, None if unknown.
    """

    columns: tuple[str, ...] | None = None
    allocate: Allocate = plain_bytes
    verify: Verify = "strict"
    rows: np.ndarray | None = None
    hashes: np.ndarray | None = None

    def wanted(self, info: ShardInfo, where: str) -> np.ndarray | None:
        """Return `rows`, checked against the shard; None for all.

        Raises:
            ShardError: They do not ascend, or leave the shard.
        """
        if self.rows is None:
            return None
        rows = np.asarray(self.rows, np.int64)
        is_inside = not rows.size or (rows[0] >= 0 and rows[-1] < info.num_samples)
        if rows.ndim != 1 or not is_inside or (np.diff(rows) <= 0).any():
            raise ShardError(
                f"{where}: rows must ascend within the {info.num_samples} samples of the shard"
            )
        return rows

    def named(self, info: ShardInfo, where: str) -> tuple[str, ...]:
        """Return the columns wanted, in the order of the index.

        Raises:
            ShardError: The shard has no column of that name.
        """
        if self.columns is None:
            return info.column_names
        for name in self.columns:
            if name not in info.column_names:
                held = ", ".join(info.column_names)
                raise ShardError(f"{where}: no column {name!r}; it holds {held}")
        return tuple(name for name in info.column_names if name in self.columns)


class Shard(ABC):
    """The decoded columns of one shard.

    Attributes:
        info: What the index says of it.
        where: Its name in messages.
        unverified_bytes: What was read for it and compared with no hash.
    """

    def __init__(self, info: ShardInfo, where: str) -> None:
        self.info = info
        self.where = where
        self.unverified_bytes = 0
        self._elements: dict[str, _core.Elements] = {}

    @property
    def num_samples(self) -> int:
        """Samples in the shard."""
        return self.info.num_samples

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""

    @abstractmethod
    def _find(self, column: str) -> _core.Elements:
        """Build the table of a column that the shard has."""

    @abstractmethod
    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; arrays are read-only, images encoded bytes.

        Raises:
            ShardError: There is no such column or sample, or the bytes are not what they claim.
        """

    def elements(self, column: str) -> _core.Elements:
        """Return where a column's elements lie: an ndarray's values, a scalar, a text's bytes.

        Raises:
            ShardError: There is no such column, or a sample is malformed.
        """
        found = self._elements.get(column)
        if found is None:
            self.encoding(column)
            try:
                found = self._elements[column] = self._find(column)
            except _core.ShardFault as error:
                raise ShardError(str(error)) from None
        return found

    def lengths(self, column: str) -> np.ndarray:
        """Return the elements of each sample: uint32 [n]; values of an ndarray, bytes of a text.

        Raises:
            ShardError: There is no such column, or a sample is malformed.
        """
        return self.elements(column).lengths

    def scalars(self, column: str) -> np.ndarray:
        """Return a column of fixed scalars: [n] of its dtype, a copy.

        Raises:
            ShardError: There is no such column, or it does not hold scalars.
        """
        encoding = self.encoding(column)
        dtype = scalar_dtype(encoding)
        if dtype is None:
            raise ShardError(f"{self.where}: column {column!r} is {encoding}, not a scalar")
        rows = np.arange(self.num_samples, dtype=np.int32)
        ones = np.ones(rows.size, np.int64)
        out = np.empty(rows.size, dtype)
        gather([self], column, np.zeros_like(rows), rows, ones - 1, ones, out)
        return out

    def sample_hashes(self) -> np.ndarray | None:
        """Return xxh3_64 of each sample's stored bytes: uint64 [n], as `Ask.hashes` takes them.

        None where a sample has no bytes of its own in the stored file.
        """
        return None

    def sample_bytes(self) -> np.ndarray | None:
        """Return the bytes that each sample takes in the raw file: uint64 [n].

        None where a sample has no bytes of its own there.
        """
        return None

    def encoding(self, column: str) -> str:
        """Return the encoding of a column; ShardError if there is none of that name."""
        try:
            return self.info.column_encodings[self.info.column_names.index(column)]
        except ValueError:
            held = ", ".join(self.info.column_names)
            raise ShardError(f"{self.where}: no column {column!r}; it holds {held}") from None


@dataclass(frozen=True)
class Flat:
    """A column laid end to end: sample i is `values[offsets[i] : offsets[i + 1]]`.

    `values` is 1-D and contiguous: elements of an array or scalar column, uint8 of texts and
    bytes. `offsets` is int64 [n + 1], ascending.
    """

    values: np.ndarray
    offsets: np.ndarray
    keep: Any = field(default=None, repr=False)
    """Whatever owns the memory, where numpy does not know it."""


class ArrayShard(Shard):
    """A shard whose columns are flat arrays: what every format but MDS decodes to."""

    def __init__(
        self, info: ShardInfo, columns: Mapping[str, Flat], where: str, unverified_bytes: int = 0
    ) -> None:
        super().__init__(info, where)
        self.unverified_bytes = unverified_bytes
        self._columns = dict(columns)

    @property
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""
        flats = self._columns.values()
        return sum(flat.values.nbytes + 3 * flat.offsets.nbytes for flat in flats)

    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; see `Shard.values`."""
        flat, encoding = self._flat(column), self.encoding(column)
        parts = flat_arrays(flat, rows, self.where)
        if encoding.startswith("ndarray"):
            return parts
        decode, found = make_decoder(encoding), []
        for row, part in zip(rows, parts, strict=True):
            try:
                found.append(decode(part.tobytes()))
            except (ValueError, ArithmeticError, RecursionError) as error:
                where = f"{self.where}, sample {row}, column {column!r}"
                raise ShardError(f"{where}: {error}") from error
        return found

    def _find(self, column: str) -> _core.Elements:
        return flat_elements(self._flat(column), self.num_samples, column, self.where)

    def _flat(self, column: str) -> Flat:
        try:
            return self._columns[column]
        except KeyError:
            read = ", ".join(self._columns)
            raise ShardError(f"{self.where}: column {column!r} was not read; {read} were") from None


def flat_arrays(flat: Flat, rows: Sequence[int] | np.ndarray, where: str) -> list[np.ndarray]:
    """Return the values of some samples of a flat column, as views.

    Raises:
        ShardError: There is no such sample.
    """
    found, num = [], len(flat.offsets) - 1
    for row in np.asarray(rows, np.int64).tolist():
        if not 0 <= row < num:
            raise ShardError(f"{where}: no sample {row}, it has {num}")
        found.append(flat.values[flat.offsets[row] : flat.offsets[row + 1]])
    return found


def flat_elements(flat: Flat, num_samples: int, column: str, where: str) -> _core.Elements:
    """Return where the elements of a flat column lie.

    Raises:
        ShardError: It does not hold as many samples, or its offsets do not ascend.
    """
    if len(flat.offsets) != num_samples + 1:
        held = len(flat.offsets) - 1
        raise ShardError(f"{where}: column {column!r} holds {held} samples of {num_samples}")
    begin = flat.offsets[:-1] * flat.values.itemsize
    count = np.diff(flat.offsets)
    if count.size and (count.min() < 0 or count.max() >= 2**32):
        raise ShardError(f"{where}: column {column!r} has offsets that do not ascend")
    data, dtype = flat.values.view(np.uint8), flat.values.dtype.name
    return _core.Elements(data, begin, count.astype(np.uint32), dtype, where)


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
    tables = [shard.elements(column) for shard in shards]
    gather_elements(tables, shard_pos, rows, starts, stops - starts, out)


def gather_elements(
    tables: Sequence[_core.Elements],
    table: np.ndarray,
    rows: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    out: np.ndarray,
) -> None:
    """Do what `gather` does where the elements of the shards are at hand.

    Args:
        tables: Where the elements of each shard lie.
        table: [m] int32, position in `tables`.
        rows: [m] int32, sample in that shard.
        offsets: [m] int64, first element.
        lengths: [m] int64, how many.
        out: As for `gather`.
    """
    try:
        _core.gather(tables, table, rows, offsets, lengths, out)
    except _core.ShardFault as error:
        raise ShardError(str(error)) from None
