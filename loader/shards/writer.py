# SPDX-License-Identifier: Apache-2.0
"""What the writers of all formats share: samples to encoded cells, collected up to a size.

A cell is one value of one column as MDS encodes it. Whatever the format, a sample enters as values
(`write`) or as cells that are encoded already (`write_encoded`), and leaves when the next one would
make what is collected larger than the limit. Not thread-safe: one writer, one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from ..errors import ShardError
from ..storage import Store
from .encodings import fixed_size, make_encoder

Cell = bytes | memoryview
SIZE_BYTES = 4  # a size or an offset, in MDS and in Arrow
Own = TypeVar("Own", bound="Writer")


class Writer(ABC):
    """Collects samples and hands them on in pieces of a size. Use it in a `with` block.

    Args:
        store: Where to.
        columns: Name to encoding, as `{"tokens": "ndarray:uint16", "id": "str"}`.
        piece_bytes: A piece is handed on before it grows above this; a larger sample has its own.

    Raises:
        ShardError: There is no column, or an encoding is unknown or not written.
    """

    MAX_PIECE_BYTES: int

    def __init__(self, store: Store, columns: Mapping[str, str], piece_bytes: int) -> None:
        if not columns:
            raise ShardError(f"{store.url}: a corpus needs at least one column")
        self._store = store
        self._columns = {name: columns[name] for name in sorted(columns)}
        self._fixed = {name: fixed_size(text) for name, text in self._columns.items()}
        self._encoders = {name: make_encoder(text) for name, text in self._columns.items()}
        self._piece_bytes = piece_bytes
        self._empty_bytes = 0  # a piece without samples
        self._sample_bytes = SIZE_BYTES * (1 + list(self._fixed.values()).count(None))
        self._cells: list[list[Cell]] = [[] for _ in self._columns]
        self._num_bytes = 0  # of the samples collected
        self._num_written = 0
        self._published: dict[str, int] = {}
        self._is_closed = False

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        self._is_closed = True

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return self._num_written

    @property
    def published(self) -> dict[str, int]:
        """Files of samples published so far, by name: their bytes."""
        return dict(self._published)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add a sample; may publish what is full.

        Raises:
            TypeError: A value is not of the type its column needs.
            ValueError: A column is missing or unknown, or a value does not fit its column.
            ShardError: The writer is closed, or the sample alone is too large.
        """
        self._check_open()
        cells = self._encode(sample)
        grown = self._sample_bytes + sum(map(len, cells))
        self._check_size(self._num_written, grown)
        if self._cells[0] and grown > self._room:
            self._hand_on()
        for column, cell in zip(self._cells, cells, strict=True):
            column.append(cell)
        self._num_bytes += grown
        self._num_written += 1

    def write_encoded(self, columns: Mapping[str, Sequence[Cell]]) -> None:
        """Add samples whose values are encoded already, without a step of Python for each.

        Args:
            columns: For every column its cells, equally many. They are kept until their piece is
                handed on, and are trusted to be what the encoding means; only lengths are checked.

        Raises:
            ValueError: A column is missing or unknown, columns differ in length, or a cell does not
                have the fixed size of its encoding.
            ShardError: The writer is closed, or a sample alone is too large.
        """
        self._check_open()
        if columns.keys() != self._columns.keys():
            raise ValueError(self._mismatch(columns))
        cells = [columns[name] for name in self._columns]
        ends = np.cumsum(self._grown(cells))
        start = 0
        while start < ends.size:
            used = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, used + self._room, side="right"))
            if stop <= start and self._cells[0]:
                self._hand_on()
                continue
            stop = max(stop, start + 1)
            for held, column in zip(self._cells, cells, strict=True):
                held.extend(column[start:stop])
            self._num_bytes += int(ends[stop - 1]) - used
            self._num_written += stop - start
            start = stop

    def close(self) -> None:
        """Publish what is left. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._cells[0]:
            self._hand_on()
        self._finish()

    @property
    def _room(self) -> int:
        """Bytes that samples may still add to what is collected."""
        return self._piece_bytes - self._empty_bytes - self._num_bytes

    @abstractmethod
    def _flush(self, cells: list[list[Cell]]) -> None:
        """Write a piece: the cells of each column, in the order of their names."""

    @abstractmethod
    def _finish(self) -> None:
        """Publish what belongs behind the last piece."""

    def _put(self, name: str, data: bytes) -> None:
        self._store.put(name, data)
        self._published[name] = len(data)

    def _hand_on(self) -> None:
        cells, self._cells = self._cells, [[] for _ in self._columns]
        self._num_bytes = 0
        self._flush(cells)

    def _encode(self, sample: Mapping[str, Any]) -> list[Cell]:
        if sample.keys() != self._columns.keys():
            raise ValueError(self._mismatch(sample))
        cells: list[Cell] = []
        for name, encode in self._encoders.items():
            try:
                cells.append(encode(sample[name]))
            except (TypeError, ValueError) as error:
                where = f"sample {self._num_written}, column {name!r} ({self._columns[name]})"
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{where}: {error}") from error
        return cells

    def _grown(self, cells: list[Sequence[Cell]]) -> np.ndarray:
        """Return the bytes each sample adds to a piece: int64 [n]; checks all sizes."""
        num = len(cells[0])
        total = np.full(num, self._sample_bytes, np.int64)
        for (name, fixed), column in zip(self._fixed.items(), cells, strict=True):
            if len(column) != num:
                raise ValueError(f"column {name!r} has {len(column)} cells, another has {num}")
            sizes = np.fromiter(map(len, column), np.int64, num)
            if fixed is not None and (wrong := np.flatnonzero(sizes != fixed)).size:
                row = int(wrong[0])
                where = f"sample {self._num_written + row}, column {name!r} ({self._columns[name]})"
                raise ValueError(f"{where}: {fixed} bytes are needed, not {sizes[row]}")
            total += sizes
        if num:
            row = int(total.argmax())
            self._check_size(self._num_written + row, int(total[row]))
        return total

    def _check_open(self) -> None:
        if self._is_closed:
            raise ShardError(f"{self._store.url}: the writer is closed")

    def _check_size(self, sample: int, num_bytes: int) -> None:
        if self._empty_bytes + num_bytes > self.MAX_PIECE_BYTES:
            raise ShardError(
                f"{self._store.url}, sample {sample}: {num_bytes} bytes exceed a shard"
            )

    def _mismatch(self, sample: Mapping[str, Any]) -> str:
        missing = ", ".join(sorted(self._columns.keys() - sample.keys())) or "none"
        unknown = ", ".join(sorted(map(str, sample.keys() - self._columns.keys()))) or "none"
        return f"sample {self._num_written}: missing columns: {missing}; unknown columns: {unknown}"
