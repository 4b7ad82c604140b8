# SPDX-License-Identifier: Apache-2.0
"""labels.parquet: the labels, length and hash of every sample, beside the shards it was made of.

One row a sample in the order of the corpus, one row group a shard that holds any, so that the
labels of a shard are one ranged read. In the file's metadata: the digest of the index it belongs
to, what its lengths count, names of states, and the cells of each shard. Nothing in it is trusted;
one that belongs to another index is refused by name. Thread-safe.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, ShardError
from ..shards.columns import ends_of
from ..shards.ranged_file import RangedFile
from ..storage import MissingObjectError, Store
from .cells import MAX_CELLS, Cells

if TYPE_CHECKING:
    import pyarrow as pa

LABELS_NAME = "labels.parquet"
LABELS_VERSION = "1"
LENGTH = "length"
SIZE = "sample_bytes"
HASH = "xxh3_64"
OWN_COLUMNS = (LENGTH, SIZE, HASH)
LABEL_DTYPES = ("uint8", "uint16", "uint32")
_MAX_FOOTER_BYTES = 1 << 28
_SLACK_BYTES = 1 << 20


@dataclass(frozen=True)
class LengthOf:
    """What a stored length counts: the elements of a column, or the tokens of its texts.

    Attributes:
        column: Of the shards.
        tokenizer: The digest of the tokenizer that turned texts into tokens, None without one.
    """

    column: str
    tokenizer: str | None = None

    def __str__(self) -> str:
        made = "" if self.tokenizer is None else f" under tokenizer {self.tokenizer}"
        return f"column {self.column!r}{made}"


class Sidecar:
    """The sidecar of one stream. Made by `open_sidecar`.

    Attributes:
        where: Its URL.
        columns: Label columns and, if they are stored, `length`, `sample_bytes` and `xxh3_64`, to
            their dtypes.
        length_of: What `length` counts; None where that is not stated.
        states: Names of states of label columns, in the order of their numbers.
        cells: Of all shards; None where no cells are stored.
        first_cell: [shards + 1] int64, the cells of each shard.
    """

    def __init__(self, store: Store, size: int, metadata: Any, samples: np.ndarray) -> None:
        self.where = f"{store.url}/{LABELS_NAME}"
        self._store = store
        self._size = size
        self._metadata = metadata
        self._samples = samples
        self._idle: list[tuple[RangedFile, Any]] = []
        self._group = np.cumsum(samples > 0) - 1
        self.columns = _read_schema(self.where, metadata)
        _check_groups(self.where, metadata, samples[samples > 0])
        kept = metadata.metadata or {}
        self.length_of = _read_length_of(self.where, kept)
        self.states = _read_states(self.where, kept, self.columns)
        self.cells, self.first_cell = _read_cells(self.where, kept, self.columns, samples)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold labels."""
        return tuple(name for name in self.columns if name not in OWN_COLUMNS)

    def read(self, shard_pos: int, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Read columns of one shard, counted within the stream: one request.

        Raises:
            ConfigError: There is no such column.
            StorageError: It cannot be read.
            ShardError: It is corrupt.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            held = ", ".join(self.columns)
            raise ConfigError(f"{self.where}: no column {missing[0]!r}; it holds {held}")
        num = int(self._samples[shard_pos])
        if not num or not columns:
            return {name: np.zeros(num, self.columns[name]) for name in columns}
        table = self._read_group(int(self._group[shard_pos]), sorted(set(columns)), num)
        if table.num_rows != num or any(column.null_count for column in table.columns):
            raise ShardError(f"{self.where}, shard {shard_pos}: not {num} labels; label it again")
        return {name: table[name].to_numpy() for name in columns}

    def _read_group(self, group: int, columns: Sequence[str], num: int) -> pa.Table:
        import pyarrow as pa

        begin, end = self._span(group, columns, num)
        try:
            file, reader = self._idle.pop()
        except IndexError:
            file, reader = self._open_reader()
        file.fetch(begin, end - begin)
        try:
            table = reader.read_row_group(group, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ShardError(f"{self.where}, row group {group}: {error}; label it again") from error
        self._idle.append((file, reader))
        return table

    def _open_reader(self) -> tuple[RangedFile, Any]:
        """Return a file and its reader: one a thread that reads, since opening takes a while."""
        import pyarrow.parquet as pq

        file = RangedFile(self._store, LABELS_NAME, size=self._size)
        return file, pq.ParquetFile(file, metadata=self._metadata, pre_buffer=False)

    def _span(self, group: int, columns: Sequence[str], num: int) -> tuple[int, int]:
        """Return the bytes of the file that hold some columns of a row group."""
        described = self._metadata.row_group(group)
        begins, ends = [], []
        for i, name in enumerate(self.columns):
            if name not in columns:
                continue
            chunk = described.column(i)
            begin = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
                begin = chunk.dictionary_page_offset
            begins.append(begin)
            ends.append(begin + chunk.total_compressed_size)
            if not 0 <= chunk.total_uncompressed_size <= 64 * num + _SLACK_BYTES:
                raise ShardError(f"{self.where}, row group {group}: sizes that cannot be")
        begin, end = min(begins), max(ends)
        if not 0 <= begin < end <= self._size or end - begin > 64 * num + len(ends) * _SLACK_BYTES:
            raise ShardError(f"{self.where}, row group {group}: lies outside the file")
        return begin, end


def open_sidecar(store: Store, samples: np.ndarray, digest: str) -> Sidecar | None:
    """Open the labels beside a shard set; None where there are none.

    Args:
        store: Where the shards lie.
        samples: [n] int64, of each shard.
        digest: Of their index.

    Raises:
        StorageError: It cannot be read.
        ShardError: It is malformed, or belongs to another index.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"{store.url}/{LABELS_NAME}"
    try:
        file = RangedFile(store, LABELS_NAME)
    except MissingObjectError:
        return None
    limits = {"thrift_string_size_limit": _MAX_FOOTER_BYTES}
    try:
        metadata = pq.ParquetFile(file, pre_buffer=False, **limits).metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{where} is no Parquet table ({error}); delete it") from error
    kept = metadata.metadata or {}
    version = _text(kept, b"moot.version")
    if version != LABELS_VERSION:
        raise ShardError(
            f"{where}: version {version!r} is not {LABELS_VERSION}, the one read here; label the "
            "corpus again"
        )
    if _text(kept, b"moot.digest") != digest:
        raise ShardError(
            f"{where} is stale: its index is {_text(kept, b'moot.digest')!r}, that of the shards "
            f"here {digest!r}; delete it, or label the corpus again"
        )
    return Sidecar(store, file.size, metadata, samples)


def pack_metadata(
    digest: str,
    states: Mapping[str, Sequence[str]],
    cells: Cells | None,
    first_cell: np.ndarray,
    length_of: LengthOf | None = None,
) -> dict[str, str]:
    """Return what a sidecar's metadata holds.

    Args:
        digest: Of the index.
        states: Names of states by column.
        cells: Of all shards in a row; None stores none.
        first_cell: [shards + 1] int64.
        length_of: What the lengths count; None stores no lengths.
    """
    import pyarrow as pa

    kept = {
        "moot.version": LABELS_VERSION,
        "moot.digest": digest,
        "moot.states": json.dumps({name: list(names) for name, names in states.items()}),
    }
    if length_of is not None:
        kept["moot.length_of"] = json.dumps(asdict(length_of))
    if cells is None:
        return kept
    shard = np.repeat(np.arange(len(first_cell) - 1, dtype=np.uint32), np.diff(first_cell))
    table = pa.table({
        "shard": shard,
        "documents": cells.documents.astype(np.uint64),
        "tokens": cells.tokens.astype(np.uint64),
        **{f"label.{name}": values for name, values in cells.labels.items()},
    })
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    kept["moot.cells"] = base64.b64encode(sink.getvalue()).decode()
    return kept


def _text(kept: Mapping[bytes, bytes], key: bytes) -> str:
    return kept.get(key, b"").decode("utf-8", "replace")


def _read_schema(where: str, metadata: Any) -> dict[str, np.dtype]:
    import pyarrow as pa

    try:
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, ValueError) as error:
        raise ShardError(f"{where}: its columns cannot be read ({error})") from error
    types = {pa.uint8(): "uint8", pa.uint16(): "uint16", pa.uint32(): "uint32"}
    found: dict[str, np.dtype] = {}
    for field in schema:
        own = {LENGTH: pa.uint32(), SIZE: pa.uint64(), HASH: pa.uint64()}
        needed = own.get(field.name)
        dtype = types.get(field.type) if needed is None else needed.to_pandas_dtype()
        if dtype is None or (needed is not None and field.type != needed) or field.name in found:
            raise ShardError(f"{where}: column {field.name!r} is {field.type}, no label; delete it")
        found[field.name] = np.dtype(dtype)
    return found


def _check_groups(where: str, metadata: Any, samples: np.ndarray) -> None:
    num = metadata.num_row_groups
    rows = [metadata.row_group(i).num_rows for i in range(num)] if num == len(samples) else []
    if num != len(samples) or rows != samples.tolist():
        raise ShardError(
            f"{where}: its {num} row groups are not the {len(samples)} shards with samples; label "
            "the corpus again"
        )


def _read_length_of(where: str, kept: Mapping[bytes, bytes]) -> LengthOf | None:
    if b"moot.length_of" not in kept:
        return None
    try:
        found = LengthOf(**json.loads(kept[b"moot.length_of"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{where}: what its lengths count cannot be read ({error})") from error
    if not isinstance(found.column, str) or not isinstance(found.tokenizer, str | None):
        raise ShardError(f"{where}: what its lengths count is no name; label the corpus again")
    return found


def _read_states(
    where: str, kept: Mapping[bytes, bytes], columns: Mapping[str, np.dtype]
) -> dict[str, tuple[str, ...]]:
    try:
        states = json.loads(kept.get(b"moot.states", b"{}"))
        found = {name: tuple(names) for name, names in states.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{where}: its names of states cannot be read ({error})") from error
    for name, names in found.items():
        if name not in columns or not all(isinstance(text, str) for text in names):
            raise ShardError(f"{where}: names of states of {name!r} are no texts, or not needed")
    return found


def _read_cells(
    where: str, kept: Mapping[bytes, bytes], columns: Mapping[str, np.dtype], samples: np.ndarray
) -> tuple[Cells | None, np.ndarray]:
    import pyarrow as pa

    if b"moot.cells" not in kept:
        return None, np.zeros(len(samples) + 1, np.int64)
    try:
        data = base64.b64decode(kept[b"moot.cells"], validate=True)
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{where}: its cells cannot be read ({error})") from error
    arrays = {name: table[name] for name in table.column_names}
    counted = (("shard", "uint32"), ("documents", "uint64"), ("tokens", "uint64"))
    types: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in counted}
    types |= {f"label.{name}": dtype for name, dtype in columns.items()}
    is_table = {"shard", "documents", "tokens"} < arrays.keys() <= types.keys()
    for name, array in arrays.items():
        is_table = is_table and array.type == pa.from_numpy_dtype(types[name])
        is_table = is_table and not array.null_count
    if not is_table or table.num_rows > MAX_CELLS:
        raise ShardError(f"{where}: its cells are not what cells must be; label the corpus again")
    values = {name: array.to_numpy() for name, array in arrays.items()}
    shard = values.pop("shard").astype(np.int64)
    documents, tokens = (values.pop(name).astype(np.int64) for name in ("documents", "tokens"))
    is_sane = not len(shard) or (
        shard[-1] < len(samples) and bool((np.diff(shard) >= 0).all()) and documents.min() > 0
    )
    held = np.zeros(len(samples), np.int64)
    if is_sane:
        np.add.at(held, shard, documents)
    if not is_sane or not np.array_equal(held, samples):
        raise ShardError(f"{where}: its cells do not count the samples of the shards; label again")
    labels = {name.removeprefix("label."): array for name, array in values.items()}
    first = ends_of(np.bincount(shard, minlength=len(samples)))
    return Cells(labels, documents, tokens), first
