# SPDX-License-Identifier: Apache-2.0
"""Parquet files, written: row groups of a size, so that a reader takes parts; each file put whole.

Tokens are lists of the integers they are, without nulls, their bytes split by place
(BYTE_STREAM_SPLIT): of the encodings of the format that is the smallest for tokens, and the
fastest to read. Scalars have statistics and all columns a page index, for readers that select.
A file shows up whole or not at all; a corpus of several shows up file by file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ShardError
from ..storage import Store
from .compression import compression_level
from .encodings import array_layout, scalar_dtype
from .writer import Cell, Writer

_CODECS = {"zstd": "zstd", "gz": "gzip", "br": "brotli", "snappy": "snappy"}
_BINARY = ("bytes", "jpeg", "png")


class ParquetWriter(Writer):
    """Writes samples as Parquet files; `write`, `write_encoded` and `close` are `Writer`'s.

    Args:
        store: Where to; it must hold no file of these names yet.
        columns: Name to encoding, as `{"tokens": "ndarray:uint16", "id": "str"}`. Arrays need a
            type and one axis; of a fixed length they become lists of that length.
        compression: None, or a family with or without a level: "zstd:3", "gz:9", "br", "snappy".
        row_group_bytes: Bytes of samples in a row group, uncompressed.
        size_limit: Bytes of samples after which a file is published and a new one begins.
        replace: Write over files that are there, as a run that starts again does.

    Raises:
        ShardError: An encoding or the compression cannot be in Parquet, or a size is out of range.
    """

    MAX_PIECE_BYTES = 2**31 - 1  # offsets of Arrow's lists are signed and 32 bits

    def __init__(
        self,
        store: Store,
        columns: Mapping[str, str],
        *,
        compression: str | None = "zstd:3",
        row_group_bytes: int = 1 << 24,
        size_limit: int = 1 << 28,
        replace: bool = False,
    ) -> None:
        super().__init__(store, columns, row_group_bytes)
        for name, size in (("row_group_bytes", row_group_bytes), ("size_limit", size_limit)):
            if not 0 < size <= self.MAX_PIECE_BYTES:
                raise ShardError(f"{name} {size} is not in 1 to {self.MAX_PIECE_BYTES} bytes")
        self._size_limit = size_limit
        self._schema = _schema(store.url, self._columns)
        self._options = {**_layout(self._columns), **_codec(compression)}
        self._replace = replace
        self._num_files = 0
        self._sink = io.BytesIO()
        self._file: Any = None
        self._file_bytes = 0

    def _flush(self, cells: list[list[Cell]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        num_bytes = sum(sum(map(len, column)) for column in cells)
        if self._file is not None and self._file_bytes + num_bytes > self._size_limit:
            self._publish()
        columns = zip(self._schema, self._columns.items(), cells, strict=True)
        try:
            arrays = [_array(field.type, text, part) for field, (_, text), part in columns]
        except (pa.ArrowInvalid, ValueError) as error:
            raise ShardError(f"{self._store.url}/{self._file_name}: {error}") from error
        if self._file is None:
            self._sink = io.BytesIO()
            self._file = pq.ParquetWriter(self._sink, self._schema, **self._options)
        batch = pa.record_batch(arrays, schema=self._schema)
        self._file.write_batch(batch, row_group_size=max(1, batch.num_rows))
        self._file_bytes += num_bytes

    def _finish(self) -> None:
        if self._file is not None:
            self._publish()

    @property
    def _file_name(self) -> str:
        return f"shard.{self._num_files:05}.parquet"

    def _publish(self) -> None:
        self._file.close()
        self._file = None
        if not self._replace and self._store.exists(self._file_name):
            raise ShardError(
                f"{self._store.url}/{self._file_name} is there already; choose an empty place"
            )
        self._put(self._file_name, self._sink.getvalue())
        self._num_files += 1
        self._file_bytes = 0


def parquet_columns(columns: Mapping[str, str]) -> None:
    """Check that columns of these encodings can be in Parquet.

    Raises:
        ShardError: One cannot; the message names it.
    """
    for name, encoding in columns.items():
        try:
            _arrow_type(encoding)
        except ShardError as error:
            raise ShardError(f"column {name!r}: {error}") from None


def _schema(where: str, columns: Mapping[str, str]) -> Any:
    import pyarrow as pa

    try:
        parquet_columns(columns)
    except ShardError as error:
        raise ShardError(f"{where}: {error}") from None
    fields = ((name, _arrow_type(text)) for name, text in columns.items())
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def _arrow_type(encoding: str) -> Any:
    import pyarrow as pa

    dtype = scalar_dtype(encoding)
    if dtype is not None:
        return pa.from_numpy_dtype(dtype)
    if not encoding.startswith("ndarray"):
        return pa.binary() if encoding in _BINARY else pa.string()
    name, shape = array_layout(encoding)
    if name is None or (shape is not None and len(shape) > 1):
        raise ShardError(f"{encoding!r} cannot be in Parquet; arrays need a type and one axis")
    element = pa.field("element", pa.from_numpy_dtype(np.dtype(name)), nullable=False)
    return pa.list_(element, -1 if shape is None else shape[0])


def _layout(columns: Mapping[str, str]) -> dict[str, Any]:
    """Return how the pages of the columns are laid out."""
    arrays = {name for name, text in columns.items() if text.startswith("ndarray")}
    others = [name for name in columns if name not in arrays]
    scalars = [name for name in others if scalar_dtype(columns[name]) is not None]
    return {
        "use_dictionary": others or False,
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in arrays} or None,
        "write_statistics": scalars or False,
        "write_page_index": True,
    }


def _codec(compression: str | None) -> dict[str, Any]:
    if compression is None:
        return {"compression": "none"}
    compression_level(compression)
    family, _, level = compression.partition(":")
    if family not in _CODECS:
        raise ShardError(f"Parquet has no compression {family!r}; use one of {', '.join(_CODECS)}")
    has_level = level and family != "snappy"
    return {
        "compression": _CODECS[family],
        "compression_level": int(level) if has_level else None,
    }


def _array(kind: Any, encoding: str, cells: list[Cell]) -> Any:
    """Return the Arrow array of encoded cells."""
    import pyarrow as pa

    dtype = scalar_dtype(encoding)
    if dtype is not None:
        return pa.array(np.frombuffer(b"".join(cells), dtype))
    if not encoding.startswith("ndarray"):
        buffers = [None, _offsets(cells, 1), pa.py_buffer(b"".join(cells))]
        array = pa.Array.from_buffers(kind, len(cells), buffers)
        array.validate(full=True)  # texts must be UTF-8
        return array
    name, shape = array_layout(encoding)
    element = np.dtype(name).newbyteorder("<")
    if shape is None:
        cells = [_values(cell) for cell in cells]
    values = pa.array(np.frombuffer(b"".join(cells), element))
    if shape is not None:
        assert len(values) == math.prod(shape) * len(cells)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    offsets = pa.Array.from_buffers(
        pa.int32(), len(cells) + 1, [None, _offsets(cells, element.itemsize)]
    )
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _values(cell: Cell) -> Cell:
    """Return the elements of an encoded array without its shape, which must be one axis."""
    if cell[0] >> 2 != 1:
        raise ValueError(f"an array of {cell[0] >> 2} axes cannot be in Parquet, which holds lists")
    return cell[1 + (1 << (cell[0] & 3)) :]


def _offsets(cells: list[Cell], itemsize: int) -> Any:
    import pyarrow as pa

    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, cells), np.int64, len(cells)) // itemsize, out=offsets[1:])
    return pa.py_buffer(offsets)
