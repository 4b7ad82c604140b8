# SPDX-License-Identifier: Apache-2.0
"""moot.index.parquet: a shard index as a table, for corpora of very many shards of any format.

A million shards are read in well under a second. Nothing in it is trusted: what index.json is
checked for is checked here, on whole columns, and the digest is computed anew. It says of which
index.json it was made, and is refused once that is another one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from ..errors import ShardError
from ..storage import MissingObjectError, Store
from .claims import check_claims
from .columns import Columns, Kind, Texts, empty_texts, join_texts, narrow, narrow_codes
from .index import INDEX_NAME, ShardIndex

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_NAME = "moot.index.parquet"
TABLE_VERSION = "1"
_NUMBERS = ("samples", "raw_bytes", "stored_bytes")
_EXTRA = ("start", "part")
_GROUP_ROWS = 1 << 17  # read one after the other, so that Arrow's memory stays small
_BLOCK_BYTES = 1 << 16
_NUM_BLOCKS = 8


def write_index(store: Store, index: ShardIndex, options: Mapping[str, Any] | None = None) -> None:
    """Store an index beside the shards it names, so that it is read in place of finding them.

    Args:
        store: Where the shards lie. If they have an index.json, `index` must be what it says.
        index: As `find_shards` returned it.
        options: Those it was found with; who reads it with others is told.

    Raises:
        StorageError: The store cannot be read or written.
    """
    import pyarrow.parquet as pq

    source = _describe_source(store)
    table = to_table(index)
    table = table.replace_schema_metadata({
        **table.schema.metadata,
        b"moot.source": json.dumps(source).encode(),
        b"moot.options": _spelled(options),
    })
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=["kind"],
        column_encoding=dict.fromkeys(_NUMBERS, "DELTA_BINARY_PACKED"),
        write_statistics=False,
    )
    store.put(TABLE_NAME, sink.getbuffer())


def read_stored_index(store: Store, options: Mapping[str, Any] | None = None) -> ShardIndex | None:
    """Read and check moot.index.parquet; None where there is none.

    Args:
        store: Where the shards lie.
        options: What their format is told; None takes those that the index was made with.

    Raises:
        StorageError: It cannot be read.
        ShardError: It is malformed, was made with other options, or the index.json it was made of
            has changed since.
    """
    try:
        data = store.get(TABLE_NAME)
    except MissingObjectError:
        return None
    import pyarrow as pa

    where = f"{store.url}/{TABLE_NAME}"
    try:
        index, metadata = _from_parquet(data, where)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{where} is no Parquet table ({error}); delete it") from error
    _check_source(store, where, metadata)
    made_with = metadata.get(b"moot.options", b"{}")
    if options is not None and _spelled(options) != made_with:
        raise ShardError(
            f"{where} was made with the options {made_with.decode('utf-8', 'replace')}, not with "
            f"{_spelled(options).decode()}: leave them out, or make it again with `moot index`"
        )
    pa.default_memory_pool().release_unused()
    return index


def _from_parquet(data: bytes, where: str) -> tuple[ShardIndex, dict[bytes, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    schema = file.schema_arrow

    def column(name: str) -> Iterator[pa.Array]:
        for group in range(file.num_row_groups):
            yield from (
                file.read_row_group(group, columns=[name], use_threads=False).column(0).chunks
            )

    return _from_arrow(schema, column, where), schema.metadata or {}


def pack_index(index: ShardIndex) -> bytes:
    """Return an index as bytes (an Arrow IPC stream), to be sent to another process."""
    import pyarrow as pa

    table, sink = to_table(index), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_GROUP_ROWS)
    return sink.getvalue().to_pybytes()


def unpack_index(data: bytes, where: str) -> ShardIndex:
    """Return the index that bytes hold, checked like any other.

    Raises:
        ShardError: They hold none.
    """
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(data).read_all()
        return _from_arrow(table.schema, lambda name: table.column(name).iterchunks(), where)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{where}: no index arrived ({error})") from error


def to_table(index: ShardIndex) -> pa.Table:
    """Return an index as an Arrow table, its columns not copied where that is possible."""
    import pyarrow as pa

    columns = index.columns.canonical()
    arrays: dict[str, Any] = {"kind": columns.kind.astype(np.uint32)}
    arrays |= {name: getattr(columns, name) for name in _NUMBERS}
    arrays["name"] = _to_arrow(columns.names, pa.large_string())
    arrays["digests"] = _to_arrow(columns.digests, pa.large_binary())
    if columns.zip_names is not None:
        arrays["zip_name"] = _to_arrow(columns.zip_names, pa.large_string())
    for name in _EXTRA:
        if getattr(columns, name) is not None:
            arrays[name] = getattr(columns, name)
    metadata = {
        "moot.version": TABLE_VERSION,
        "moot.digest": index.digest,
        "moot.kinds": json.dumps([kind.to_list() for kind in columns.kinds]),
    }
    return pa.table(arrays).replace_schema_metadata(metadata)


def _to_arrow(texts: Texts, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    offsets = texts.offsets.astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts.data)]
    return pa.Array.from_buffers(kind, len(texts), buffers)


def _from_arrow(
    schema: pa.Schema, column: Callable[[str], Iterable[pa.Array]], where: str
) -> ShardIndex:
    """Return the index of a table, its columns taken and checked one by one."""
    import pyarrow as pa

    metadata = schema.metadata or {}
    version = metadata.get(b"moot.version", b"").decode("utf-8", "replace")
    if version != TABLE_VERSION:
        raise ShardError(
            f"{where}: version {version!r} is not {TABLE_VERSION}, the one read here; make it again"
        )
    _check_schema(where, schema)
    kinds = _read_kinds(where, metadata)
    values: dict[str, Any] = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        parts = [_to_numpy(where, array) for array in column(name)]
        if pa.types.is_integer(kind):
            values[name] = np.concatenate([np.zeros(0, kind.to_pandas_dtype()), *parts])
        else:
            values[name] = join_texts(parts or [empty_texts(0)])
    columns = Columns(
        kinds=kinds,
        kind=narrow_codes(values.pop("kind"), len(kinds)),
        names=values.pop("name"),
        zip_names=values.pop("zip_name", None),
        **values,
    )
    check_claims(where, columns)
    index = ShardIndex.of(columns.canonical())
    if index.digest != metadata.get(b"moot.digest", b"").decode("utf-8", "replace"):
        raise ShardError(f"{where}: its digest is not that of what it holds; make it again")
    return index


def _check_schema(where: str, schema: pa.Schema) -> None:
    import pyarrow as pa

    types = {"kind": pa.uint32(), "digests": pa.large_binary(), "name": pa.large_string()}
    types |= dict.fromkeys((*_NUMBERS, *_EXTRA), pa.int64()) | {"zip_name": pa.large_string()}
    found = dict(zip(schema.names, schema.types, strict=True))
    needed = types.keys() - {*_EXTRA, "zip_name"}
    is_index = needed <= found.keys() and all(types.get(k) == v for k, v in found.items())
    if not is_index or len(found) != len(schema.names):
        raise ShardError(f"{where}: its columns are not those of an index; make it again")


def _to_numpy(where: str, array: pa.Array) -> Any:
    """Copy a part of a column out of Arrow's memory: an array, or texts."""
    import pyarrow as pa

    array.validate(full=True)
    if array.null_count:
        raise ShardError(f"{where}: a value is missing; make it again")
    if pa.types.is_integer(array.type):
        return array.to_numpy().copy()
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return empty_texts(len(array))
    wide = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    used = np.frombuffer(data, np.uint8)[wide[0] : wide[-1]].copy()
    return Texts(used, narrow(wide - wide[0]))


def _read_kinds(where: str, metadata: dict[bytes, bytes]) -> tuple[Kind, ...]:
    try:
        rows = [_tupled(row) for row in json.loads(metadata.get(b"moot.kinds", b""))]
        return tuple(Kind(*row) for row in rows)
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{where}: its kinds of shards cannot be read ({error})") from error


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _spelled(options: Mapping[str, Any] | None) -> bytes:
    return json.dumps(dict(options or {}), sort_keys=True, default=list).encode()


def _describe_source(store: Store) -> dict[str, Any] | None:
    """Return what tells an index.json from another one: its size, and the hash of parts of it."""
    try:
        size = store.head(INDEX_NAME)
    except MissingObjectError:
        return None
    num = min(_NUM_BLOCKS, -(-size // _BLOCK_BYTES))
    starts = [(size - min(size, _BLOCK_BYTES)) * i // max(1, num - 1) for i in range(num)]
    blocks = [np.empty(min(_BLOCK_BYTES, size - start), np.uint8) for start in starts]
    with ThreadPoolExecutor(_NUM_BLOCKS, "moot-source") as pool:
        read = store.get_range_into
        list(pool.map(lambda start, block: read(INDEX_NAME, start, block), starts, blocks))
    state = xxhash.xxh3_128()
    for block in blocks:
        state.update(block.tobytes())
    return {"name": INDEX_NAME, "size": size, "hash": state.hexdigest()}


def _check_source(store: Store, where: str, metadata: dict[bytes, bytes]) -> None:
    try:
        made_of = json.loads(metadata.get(b"moot.source", b""))
    except ValueError as error:
        raise ShardError(f"{where}: it does not say what it was made of; make it again") from error
    if made_of != _describe_source(store):
        raise ShardError(
            f"{where} is stale: it was not made of the {INDEX_NAME} that lies beside it now; "
            "delete it, or make it again with `moot index`"
        )
