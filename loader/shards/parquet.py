# SPDX-License-Identifier: Apache-2.0
"""Parquet files: a shard is a row group, fetched by the ranges of the columns asked for.

Texts become `str`, bytes `bytes`, lists of numbers `ndarray:<dtype>`, numbers themselves; columns
of other types are left out. Row groups are decoded batch by batch into the caller's memory. Pages
are compared with their checksums where the writer made any; since Arrow does not tell whether it
did, all bytes count as unverified. Single rows cannot be read: Arrow has no way to skip pages.

Footers are not trusted either. pyarrow ends the process on some broken ones when it is asked for a
column of a row group (`RowGroupMetaData.column`, Arrow 26), so only Arrow's reader looks at those;
sizes of row groups are therefore estimates: their share of the file, and of the columns wanted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..errors import ShardError
from ..storage import Store
from .arrow_columns import ColumnBuilder, encoding_of, value_dtype
from .index import ShardIndex, ShardInfo
from .listing import check_options, find_files, texts_of
from .ranged_file import RangedFile
from .shard import ArrayShard, Ask

OPTIONS = ("files", "columns")
MAX_COLUMN_BYTES = 2**32 - 1
MAX_ROWS = 1 << 28
_NUM_THREADS = 16
_BATCH_BYTES = 1 << 20
_KEPT_BYTES = 1 << 25  # of footers, as they are stored


def find(store: Store, options: Mapping[str, Any]) -> ShardIndex | None:
    """Return the row groups of the Parquet files of a store, None without any.

    Args:
        store: Where to look; the footer of every file is read, side by side.
        options: `files`, else every `.parquet` file; `columns`, else every column that can be read.

    Raises:
        ShardError: A footer is malformed, files differ in their columns, or a column that is named
            is missing or of a type that is not read.
        StorageError: A file cannot be read.
    """
    names = find_files(store, options, (".parquet", ".pq"))
    if not names:
        return None
    check_options(store.url, "parquet", options, OPTIONS)
    wanted = None
    if "columns" in options:
        wanted = texts_of(store.url, "columns", options["columns"])
    with ThreadPoolExecutor(min(_NUM_THREADS, len(names)), "moot-footers") as pool:
        footers = pool.map(lambda name: _describe(store, name, wanted), names)
        return ShardIndex(info for part in _alike(store, names, footers) for info in part)


def read(store: Store, info: ShardInfo, ask: Ask) -> ArrayShard:
    """Read the columns wanted of a row group, all rows of it whatever `ask.rows` says.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is not the file the index describes, is corrupt, or a value is null.
    """
    import pyarrow.parquet as pq

    where = f"{store.url}/{info.basename}, row group {info.part}"
    ask.wanted(info, where)
    names = ask.named(info, where)
    footer, size = _footers.get(store, info.basename)
    _check_group(where, footer, info)
    file = _GroupFile(store, info.basename, size, ask)
    builders = {}
    for name in names:
        encoding = info.column_encodings[info.column_names.index(name)]
        sizes = (info.num_samples, MAX_COLUMN_BYTES)
        builders[name] = ColumnBuilder(f"{where}, column {name!r}", encoding, *sizes, ask.allocate)
    with _faults(where):
        checks = ask.verify != "none"
        opened = pq.ParquetFile(
            file, metadata=footer, pre_buffer=True, page_checksum_verification=checks
        )
        _pour(opened, info, builders)
    columns = {name: builder.flat() for name, builder in builders.items()}
    return ArrayShard(info, columns, where, file.num_fetched)


def _pour(opened: Any, info: ShardInfo, builders: Mapping[str, ColumnBuilder]) -> None:
    row_bytes = max(1, info.raw_bytes // info.num_samples)
    size = min(max(64, _BATCH_BYTES // row_bytes), 1 << 14)
    batches = opened.iter_batches(
        batch_size=size, row_groups=[info.part], columns=list(builders), use_threads=False
    )
    for batch in batches:
        for name, builder in builders.items():
            builder.add(batch.column(name))


class _GroupFile(RangedFile):
    """A file from which Arrow fetches the ranges of the columns it decodes, once each."""

    def __init__(self, store: Store, name: str, size: int, ask: Ask) -> None:
        super().__init__(store, name, size=size)
        self._ask = ask
        self.num_fetched = 0

    def _view(self, size: int) -> np.ndarray:
        buffer = self._ask.allocate(size)
        if size and self._store.get_range_into(self.name, self._position, buffer) != self.size:
            where = f"{self._store.url}/{self.name}"
            raise ShardError(f"{where} was replaced since its footer was read; open it again")
        self.num_fetched += size
        return buffer


class _Probe(RangedFile):
    """A file that notes what Arrow would fetch, and gives nothing."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        super().__init__(store, name, size=size)
        self.num_wanted = 0

    def _view(self, size: int) -> np.ndarray:
        self.num_wanted += size
        raise OSError("only the ranges are of interest")


class _Footers:
    """The footers last used, by URL and name, and the lengths of their files. Thread-safe.

    Every row group of a file needs its footer, and the shards of a file are not read one after the
    other. `find` reads each anew; a file that changes afterwards is told by its length.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def get(self, store: Store, name: str) -> tuple[Any, int]:
        """Return the metadata of a file and its length, from memory or from its end."""
        with self._lock:
            found = self._kept.get((store.url, name))
            if found is not None:
                self._kept.move_to_end((store.url, name))
        return found or self.read(store, name)

    def read(self, store: Store, name: str) -> tuple[Any, int]:
        """Return the metadata of a file and its length, read by one or two ranges at its end."""
        import pyarrow.parquet as pq

        file = RangedFile(store, name)
        with _faults(f"{store.url}/{name}"):
            footer = pq.read_metadata(file)
        with self._lock:
            old = self._kept.pop((store.url, name), None)
            self._num_bytes += footer.serialized_size - (old[0].serialized_size if old else 0)
            self._kept[store.url, name] = footer, file.size
            while self._num_bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._num_bytes -= self._kept.popitem(last=False)[1][0].serialized_size
        return footer, file.size


_footers = _Footers()


def _describe(store: Store, name: str, wanted: list[str] | None) -> list[ShardInfo]:
    """Return the row groups of a file."""
    where, (footer, size) = f"{store.url}/{name}", _footers.read(store, name)
    columns, share = _columns(where, footer, wanted)
    if share < 1 and footer.num_row_groups:
        share = _share(store, name, tuple(columns))
    groups = [footer.row_group(part) for part in range(footer.num_row_groups)]
    total = max(1, sum(max(0, group.total_byte_size) for group in groups))
    shards = []
    for part, group in enumerate(groups):
        if not 0 <= group.num_rows <= MAX_ROWS:
            raise ShardError(f"{where}, row group {part}: {group.num_rows} rows are refused")
        raw_bytes = max(0, group.total_byte_size)
        info = ShardInfo(
            shard_id=0,
            basename=name,
            raw_bytes=int(raw_bytes * share),
            zip_basename=name,
            zip_bytes=int(size * share * raw_bytes / total),
            compression=None,
            raw_hashes={},
            zip_hashes={},
            num_samples=group.num_rows,
            column_names=tuple(columns),
            column_encodings=tuple(columns.values()),
            column_sizes=tuple(_fixed(encoding) for encoding in columns.values()),
            format="parquet",
            part=part,
        )
        shards += [info] if group.num_rows else []
    return shards


def _share(store: Store, name: str, columns: tuple[str, ...]) -> float:
    """Return which part of the bytes of its first row group some columns take."""
    import pyarrow
    import pyarrow.parquet as pq

    footer, size = _footers.get(store, name)
    found = []
    for asked in (columns, None):
        probe = _Probe(store, name, size)
        # The probe's own error ends it; a broken footer is named when it is read.
        with suppress(pyarrow.ArrowException, OSError, ValueError):
            opened = pq.ParquetFile(probe, metadata=footer, pre_buffer=True)
            next(opened.iter_batches(row_groups=[0], columns=asked, use_threads=False), None)
        found.append(probe.num_wanted)
    return min(1.0, found[0] / found[1]) if found[1] else 1.0


def _fixed(encoding: str) -> int | None:
    is_scalar = encoding not in ("str", "bytes") and not encoding.startswith("ndarray")
    return value_dtype(encoding).itemsize if is_scalar else None


def _columns(where: str, footer: Any, wanted: list[str] | None) -> tuple[dict[str, str], float]:
    """Return the encodings of the columns that are read, by name, and their part of all."""
    with _faults(where):
        schema = footer.schema.to_arrow_schema()
    found = {field.name: encoding_of(field.type) for field in schema}
    if len(found) != len(schema):
        raise ShardError(f"{where}: a column is named twice in {schema.names}")
    for name in wanted or ():
        if found.get(name) is None:
            kind = f"of type {schema.field(name).type}" if name in found else "not in the file"
            raise ShardError(f"{where}: column {name!r} is {kind} and cannot be read")
    columns = {
        name: encoding
        for name, encoding in found.items()
        if encoding is not None and (wanted is None or name in wanted)
    }
    if not columns:
        kinds = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise ShardError(f"{where}: no column holds texts, numbers or lists of numbers; {kinds}")
    return columns, len(columns) / len(found)


def _alike(store: Store, names: list[str], parts: Iterator[list[ShardInfo]]) -> Iterator[list]:
    """Pass the row groups of all files on; their columns must be the same."""
    first: ShardInfo | None = None
    for name, part in zip(names, parts, strict=True):
        for info in part[:1]:
            first = first or info
            if info.column_encodings != first.column_encodings or (
                info.column_names != first.column_names
            ):
                held = dict(zip(info.column_names, info.column_encodings, strict=True))
                other = dict(zip(first.column_names, first.column_encodings, strict=True))
                raise ShardError(
                    f"{store.url}/{name} has columns {held}, {first.basename} has {other}; name "
                    "those that all files have by the option 'columns'"
                )
        yield part


def _check_group(where: str, footer: Any, info: ShardInfo) -> None:
    is_there = info.part < footer.num_row_groups
    rows = footer.row_group(info.part).num_rows if is_there else 0
    if rows != info.num_samples:
        raise ShardError(
            f"{where} has {rows} rows, the index states {info.num_samples}; the file was replaced: "
            "make the index again"
        )


@contextmanager
def _faults(where: str) -> Iterator[None]:
    """Turn what Arrow raises into a ShardError; the errors of the store pass."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{where} cannot be decoded: {error}; copy or write it again") from error
