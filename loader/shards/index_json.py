# SPDX-License-Identifier: Apache-2.0
"""index.json: what MDS shards there are, and what each claims about itself.

Nothing in it is trusted: types, sizes, encodings and names are checked before a byte of a shard is
read; names that leave the corpus (absolute, or with `..`) and pickled columns are refused. An entry
is checked while the text is parsed and kept as columns, so that an index of many shards costs the
memory of its text.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import ShardError
from ..storage import Store
from .claims import check_columns, check_compression, leaves_corpus
from .index import INDEX_NAME, MAX_SHARD_BYTES, VERSION, IndexBuilder, ShardIndex, ShardInfo


def read_index(store: Store) -> ShardIndex:
    """Read and check the index.json of a corpus.

    Raises:
        StorageError: There is no index.json, or it cannot be read.
        ShardError: It is not what an index must be.
    """
    return parse_index(store.get(INDEX_NAME), f"{store.url}/{INDEX_NAME}")


def parse_index(text: bytes, where: str) -> ShardIndex:
    """Read and check the text of an index.json.

    Raises:
        ShardError: It is not what an index must be.
    """
    parser = _Parser(where)
    try:
        index = json.loads(text, object_hook=parser.take)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where} is not JSON ({error}); write the corpus again") from error
    version = index.get("version") if isinstance(index, dict) else None
    if version != VERSION:
        raise ShardError(f"{where}: version {version!r} is not {VERSION}, the one read here")
    shards = index.get("shards")
    if not isinstance(shards, list):
        raise ShardError(f"{where}: 'shards' is not a list; write the corpus again")
    return parser.finish(shards)


class _Taken(int):
    """Stands in the parsed text for an entry that became a row: its number."""


class _Parser:
    """Turns the entries of shards into rows, in the order in which they are met."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._builder = IndexBuilder()
        self._columns: dict[tuple, tuple] = {}
        self._error: ShardError | None = None

    def take(self, entry: dict[str, Any]) -> Any:
        """Take a JSON object, if it is the entry of a shard; the first wrong one ends it."""
        if self._error is not None or "raw_data" not in entry or "samples" not in entry:
            return entry
        place = len(self._builder)
        try:
            self._builder.add(_read_shard(self._where, place, entry, self._columns))
        except ShardError as error:
            self._error = error  # the version of the index comes last, and is to be blamed first
            return entry
        return _Taken(place)

    def finish(self, shards: list[Any]) -> ShardIndex:
        """Return the rows, if they are the list of shards and nothing else."""
        for place, entry in enumerate(shards):
            if isinstance(entry, _Taken) and entry == place:
                continue
            if self._error is not None:
                raise self._error
            _read_shard(self._where, place, entry, self._columns)
            raise ShardError(f"{self._where}, shard {place}: an entry stands outside the list")
        if len(shards) != len(self._builder):
            raise ShardError(f"{self._where}: entries of shards stand outside the list 'shards'")
        return ShardIndex.of(self._builder.columns())


def _read_shard(where: str, shard_id: int, entry: Any, columns: dict[tuple, tuple]) -> ShardInfo:
    where = f"{where}, shard {shard_id}"
    if not isinstance(entry, dict):
        raise ShardError(f"{where}: not an object")
    if entry.get("format") != "mds" or entry.get("version") != VERSION:
        raise ShardError(
            f"{where}: format {entry.get('format')!r} version {entry.get('version')!r} is not "
            f"read; only mds version {VERSION} is"
        )
    compression = entry.get("compression")
    if compression is not None:
        check_compression(where, _typed(where, entry, "compression", str))
    basename, raw_bytes, raw_hashes = _read_file(f"{where}, raw_data", entry.get("raw_data"))
    zipped: tuple[str | None, int, dict[str, str]] = (None, 0, {})
    if compression is not None:
        zipped = _read_file(f"{where}, zip_data", entry.get("zip_data"))
    num_samples = _typed(where, entry, "samples", int)
    if num_samples < 0 or 4 * (num_samples + 2) > raw_bytes:
        raise ShardError(f"{where}: {num_samples} samples cannot be in {raw_bytes} bytes")
    names, encodings, sizes = _read_columns(where, entry, columns)
    return ShardInfo(
        shard_id=shard_id,
        basename=basename,
        raw_bytes=raw_bytes,
        zip_basename=zipped[0],
        zip_bytes=zipped[1],
        compression=compression,
        raw_hashes=raw_hashes,
        zip_hashes=zipped[2],
        num_samples=num_samples,
        column_names=names,
        column_encodings=encodings,
        column_sizes=sizes,
    )


def _read_columns(where: str, entry: dict[str, Any], columns: dict[tuple, tuple]) -> tuple:
    keys = ("column_names", "column_encodings", "column_sizes")
    lists = [_typed(where, entry, key, list) for key in keys]
    found = tuple(tuple(values) for values in lists)
    try:
        if found in columns:  # one tuple for all shards alike
            return columns[found]
    except TypeError:
        raise ShardError(f"{where}: columns must be named by texts and sized by numbers") from None
    check_columns(where, *found, fixed=True)
    return columns.setdefault(found, found)


def _read_file(where: str, entry: Any) -> tuple[str, int, dict[str, str]]:
    if not isinstance(entry, dict):
        raise ShardError(f"{where}: not an object")
    basename = _typed(where, entry, "basename", str)
    if leaves_corpus(basename):
        raise ShardError(f"{where}: the file name {basename!r} leaves the corpus; it is refused")
    num_bytes = _typed(where, entry, "bytes", int)
    if not 0 <= num_bytes <= MAX_SHARD_BYTES:
        raise ShardError(f"{where}: {num_bytes} bytes is not the size of a shard")
    hashes = _typed(where, {"hashes": entry.get("hashes") or {}}, "hashes", dict)
    if not all(isinstance(text, str) for text in hashes.values()):
        raise ShardError(f"{where}: hashes must be texts")
    return basename, num_bytes, hashes


def _typed(where: str, entry: dict[str, Any], key: str, kind: type) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ShardError(f"{where}: {key!r} is {value!r}, not of type {kind.__name__}")
    return value
