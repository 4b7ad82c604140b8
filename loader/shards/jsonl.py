# SPDX-License-Identifier: Apache-2.0
"""JSON lines, plain or compressed: a shard is a range of lines, or a compressed file.

Their index (jsonl_index.py) says where ranges begin and what their hashes are. A field that is read
must be there in every line. Single lines cannot be read alone: a range is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ShardError
from ..storage import ShortObjectError, Store
from .arrow_columns import ColumnBuilder, value_dtype
from .compression import decompress
from .hashing import check_digest
from .index import ShardIndex, ShardInfo
from .jsonl_index import ENDINGS, INDEX_NAME, OPTIONS, columns_of, read_jsonl_index
from .lines import arrow_type, parse_lines
from .listing import check_options, find_files, texts_of
from .shard import ArrayShard, Ask


def find(store: Store, options: Mapping[str, Any]) -> ShardIndex | None:
    """Return the shards that the index of a store lists, None where there are no JSON lines.

    Args:
        store: Where to look.
        options: `columns`, the fields to read, as texts "name" (a text) or "name:encoding", where
            the encoding is str, a number (int64, float32) or a list of them (ndarray:uint16);
            default text. `files`, which of the files that the index lists; default all.

    Raises:
        ShardError: There are such files but no index, or the index is malformed.
        StorageError: The index cannot be read.
    """
    if not store.exists(INDEX_NAME):
        names = find_files(store, options, ENDINGS)
        if not names:
            return None
        raise ShardError(
            f"{store.url} holds {names[0]} and no {INDEX_NAME}: make it once by the command "
            f"`moot index {store.url}`, or name the format of what else lies there"
        )
    check_options(store.url, "jsonl", options, OPTIONS)
    columns = columns_of(store.url, options.get("columns", "text"))
    shards = list(read_jsonl_index(store, columns))
    if "files" in options:
        files = texts_of(store.url, "files", options["files"])
        for name in set(files) - {info.basename for info in shards}:
            raise ShardError(f"{store.url}/{INDEX_NAME} lists no file {name!r}; index it first")
        shards = [info for info in shards if info.basename in files]
    return ShardIndex(shards)


def read(store: Store, info: ShardInfo, ask: Ask) -> ArrayShard:
    """Read the columns wanted of a shard, all samples of it whatever `ask.rows` says.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is not what the index describes, or a line is no object with those fields.
    """
    import pyarrow

    where = f"{store.url}/{info.basename}"
    ask.wanted(info, where)
    encodings = dict(zip(info.column_names, info.column_encodings, strict=True))
    names = ask.named(info, where)
    raw = _fetch(store, info, ask, where)
    builders = {
        name: ColumnBuilder(
            f"{where}, field {name!r}",
            encodings[name],
            info.num_samples,
            raw.size * value_dtype(encodings[name]).itemsize,
            ask.allocate,
        )
        for name in names
    }
    schema = pyarrow.schema([(name, arrow_type(encodings[name])) for name in names])
    num = parse_lines(where, raw, builders, schema, info.start)
    if num != info.num_samples:
        raise ShardError(
            f"{where} holds {num} samples, the index states {info.num_samples}; index it again"
        )
    columns = {name: builder.flat() for name, builder in builders.items()}
    return ArrayShard(info, columns, where, info.stored_bytes if ask.verify == "none" else 0)


def _fetch(store: Store, info: ShardInfo, ask: Ask, where: str) -> np.ndarray:
    """Return the lines of a shard, verified and decompressed."""
    stored = ask.allocate(info.stored_bytes)
    try:
        size = store.get_range_into(info.stored_name, info.start, stored)
    except ShortObjectError as error:
        size = error.size_bytes
    if size < info.start + info.stored_bytes or (info.zip_basename and size != info.zip_bytes):
        raise ShardError(
            f"{where} is {size} bytes, the index states {info.start + info.stored_bytes}; the file "
            "was cut or replaced: copy it again, or index it again"
        )
    if ask.verify != "none":
        check_digest(where, stored, info.zip_hashes or info.raw_hashes)
    if info.zip_basename is None:
        return stored
    return decompress(where, stored, info.compression, ask.allocate(info.raw_bytes))
