# SPDX-License-Identifier: Apache-2.0
"""Arrow arrays to flat columns: which types are read as what, and batches poured into one buffer.

A column is filled batch by batch. So Arrow's own memory stays small and warm in the cache, the big
buffer comes from the caller, and a column that grows past its bound stops there, whatever its
dictionary says. Measured, this costs no more than decoding the whole into fresh memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShardError
from .encodings import DTYPE_CODES, scalar_dtype
from .shard import Allocate, Flat


def encoding_of(kind: Any) -> str | None:
    """Return the encoding that a column of an Arrow type is read as, None if it is not read."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return encoding_of(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "str"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "bytes"
    if types.is_boolean(kind):
        return "uint8"
    if types.is_integer(kind) or types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()).name
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and (types.is_integer(kind.value_type) or types.is_floating(kind.value_type)):
        return f"ndarray:{np.dtype(kind.value_type.to_pandas_dtype()).name}"
    return None


def value_dtype(encoding: str) -> np.dtype:
    """Return the type of the values of a flat column: of a text or bytes, uint8."""
    if encoding.startswith("ndarray:"):
        return np.dtype(encoding.split(":")[1]).newbyteorder("<")
    return scalar_dtype(encoding) or np.dtype(np.uint8)


class ColumnBuilder:
    """One column, poured from Arrow arrays into memory of the caller.

    Args:
        where: The shard and the column, for messages.
        encoding: What the column must be read as.
        num_rows: Samples of the shard.
        max_bytes: What its values may take.
        allocate: Gives the memory; how much, is told by the first rows, and again if they were not
            like the rest.
    """

    def __init__(
        self, where: str, encoding: str, num_rows: int, max_bytes: int, allocate: Allocate
    ) -> None:
        self._where = where
        self._encoding = encoding
        self._dtype = value_dtype(encoding)
        self._max_bytes = max_bytes
        self._allocate = allocate
        self._buffer = np.empty(0, np.uint8)
        self._ends = np.zeros(num_rows + 1, np.int64)
        self._num_rows = 0
        self._num_bytes = 0

    def add(self, array: Any) -> None:
        """Append the rows of an Arrow array.

        Raises:
            ShardError: It is of another type, holds a null, more rows or more bytes than may be.
        """
        from pyarrow import types

        if encoding_of(array.type) != self._encoding:
            raise ShardError(f"{self._where} holds {array.type}, the index says {self._encoding}")
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if array.null_count:
            raise self._null(int(np.argmax(array.is_null().to_numpy(zero_copy_only=False))))
        if self._num_rows + len(array) >= self._ends.size:
            raise ShardError(f"{self._where} holds more than the {self._ends.size - 1} samples")
        values, ends = self._parts(array)
        self._pour(values, self._num_rows + len(array))
        self._ends[self._num_rows + 1 :][: len(array)] = self._ends[self._num_rows] + ends
        self._num_rows += len(array)

    def extend(self, column: Any) -> None:
        """Append the chunks of an Arrow column; see `add`."""
        for chunk in column.chunks:
            self.add(chunk)

    def flat(self) -> Flat:
        """Return the column.

        Raises:
            ShardError: It holds fewer rows than it must.
        """
        if self._num_rows + 1 != self._ends.size:
            rows = f"{self._num_rows} samples of {self._ends.size - 1}"
            raise ShardError(f"{self._where} holds {rows}; the file was cut or replaced")
        values = self._buffer[: self._num_bytes].view(self._dtype)
        values.flags.writeable = False
        return Flat(values, self._ends)

    def _parts(self, array: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of an array without nulls, and where each row ends in them."""
        from pyarrow import types

        if self._encoding in ("str", "bytes"):
            return _text_parts(array)
        if self._encoding in DTYPE_CODES:
            if types.is_boolean(array.type):
                array = array.cast("uint8")
            return array.to_numpy(zero_copy_only=False), np.arange(1, len(array) + 1)
        values = array.flatten()
        if types.is_fixed_size_list(array.type):
            ends = np.arange(1, len(array) + 1) * array.type.list_size
        else:
            ends = np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        if values.null_count:
            at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise self._null(int(np.searchsorted(ends, at, side="right")))
        return values.to_numpy(zero_copy_only=False), ends

    def _pour(self, values: np.ndarray, num_rows: int) -> None:
        """Append the values that make `num_rows` rows in all."""
        data = np.ascontiguousarray(values).astype(self._dtype, copy=False).view(np.uint8)
        needed = self._num_bytes + data.size
        if needed > self._max_bytes:
            raise ShardError(f"{self._where} takes more than {self._max_bytes} bytes, refused")
        if needed > self._buffer.size:
            expected = needed * (self._ends.size - 1) // num_rows
            spare = 0 if self._encoding in DTYPE_CODES else expected // 16
            grown = self._allocate(min(expected + spare, self._max_bytes))
            grown[: self._num_bytes] = self._buffer[: self._num_bytes]
            self._buffer = grown
        self._buffer[self._num_bytes : needed] = data
        self._num_bytes = needed

    def _null(self, row: int) -> ShardError:
        return ShardError(
            f"{self._where}, sample {self._num_rows + row} is null; write an empty value instead, "
            "or leave the sample out"
        )


def _text_parts(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of texts, and where each ends in them, without a copy."""
    from pyarrow import types

    if types.is_string_view(array.type) or types.is_binary_view(array.type):
        array = array.cast("large_binary")
    is_large = types.is_large_string(array.type) or types.is_large_binary(array.type)
    _, offsets, data = array.buffers()
    if not len(array):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    dtype = np.dtype("<i8" if is_large else "<i4")
    start = array.offset * dtype.itemsize
    cuts = np.frombuffer(offsets, dtype, len(array) + 1, start).astype(np.int64)
    held = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return held[cuts[0] : cuts[-1]], cuts[1:] - cuts[0]
