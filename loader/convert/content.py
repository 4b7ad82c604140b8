# SPDX-License-Identifier: Apache-2.0
"""The content of samples, whatever format they are in: encoded cells, and a digest over them.

Two runs of samples have equal digests if and only if (but for collisions of 128 bits) they hold the
same values in the same order, also where one is MDS and the other Parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xxhash

from ..shards import Shard, gather
from ..shards.encodings import array_layout
from ..shards.mds import MDSShard
from ..shards.writer import Cell


def encoded_cells(shard: Shard, column: str) -> Sequence[Cell]:
    """Return every sample's value of a column as MDS encodes it: [n].

    Raises:
        ShardError: There is no such column, or a sample is malformed.
    """
    if isinstance(shard, MDSShard):
        return shard.cells(column)
    table = shard.elements(column)
    lengths = table.lengths.astype(np.int64)
    rows = np.arange(lengths.size, dtype=np.int32)
    starts = np.zeros(rows.size, np.int64)
    values = np.empty(int(lengths.sum()), table.dtype)
    gather([shard], column, np.zeros_like(rows), rows, starts, lengths, values)
    return flat_cells(values, lengths, shard.encoding(column))


def flat_cells(values: np.ndarray, lengths: np.ndarray, encoding: str) -> Sequence[Cell]:
    """Return the cells of values that lie end to end, `lengths` (int64 [n]) of them a sample."""
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    ends = np.cumsum(lengths * values.itemsize)
    cells = [data[a:b] for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False)]
    if not is_shaped(encoding):
        return cells
    heads = {count: _head(count) for count in np.unique(lengths).tolist()}
    return [heads[n] + cell for n, cell in zip(lengths.tolist(), cells, strict=True)]


def is_shaped(encoding: str) -> bool:
    """Tell whether each cell states its own shape before its values."""
    return encoding.startswith("ndarray") and array_layout(encoding)[1] is None


def empty_rows(encoding: str, cells: Sequence[Cell]) -> list[int]:
    """Return the samples whose array has no values."""
    if not is_shaped(encoding):
        return []
    tag = 0 if array_layout(encoding)[0] is not None else 1
    return [row for row, cell in enumerate(cells) if len(cell) == _values_at(cell, tag)]


class ContentDigest:
    """A digest of samples that are handed in run by run; where runs end does not matter.

    Args:
        columns: The names of those that count.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._hashes = {name: (xxhash.xxh3_128(), xxhash.xxh3_128()) for name in sorted(columns)}

    def update(self, cells: Mapping[str, Sequence[Cell]], encodings: Mapping[str, str]) -> None:
        """Add samples: for each column their encoded cells, equally many, and their encoding."""
        for name, (sizes, values) in self._hashes.items():
            payloads: Sequence[Cell] = cells[name]
            if is_shaped(encodings[name]):
                payloads = [_payload(cell) for cell in payloads]
            sizes.update(np.fromiter(map(len, payloads), "<u4", len(payloads)).tobytes())
            values.update(b"".join(payloads))

    def hexdigest(self) -> str:
        """Return the digest of all samples so far."""
        whole = xxhash.xxh3_128()
        for name, (sizes, values) in self._hashes.items():
            whole.update(repr((name, sizes.hexdigest(), values.hexdigest())).encode("utf-8"))
        return whole.hexdigest()


def _head(count: int) -> bytes:
    """Return the shape of an array of one axis, as MDS puts it before the values."""
    width = next(k for k in range(4) if count < 1 << (8 << k))
    return bytes([1 << 2 | width]) + count.to_bytes(1 << width, "little")


def _values_at(cell: Cell, tag: int) -> int:
    """Return where the values of a shaped cell begin, behind the type (if `tag`) and the shape."""
    return tag + 1 + (cell[tag] >> 2) * (1 << (cell[tag] & 3))


def _payload(cell: Cell) -> Cell:
    """Return the values alone where the shape says no more than their number."""
    return cell[1 + (1 << (cell[0] & 3)) :] if cell[0] >> 2 == 1 else cell
