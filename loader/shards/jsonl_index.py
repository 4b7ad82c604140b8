# SPDX-License-Identifier: Apache-2.0
"""The index of JSON lines, which lies beside them: made once by `index_jsonl`, and read.

Nothing in such files says where their samples are. So one pass over them notes, for every range of
lines or compressed file, its place, its length as stored and as lines, the samples, and an xxh3_64.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from ..errors import ShardError
from ..storage import Store
from .arrow_columns import value_dtype
from .index import ShardIndex, ShardInfo
from .lines import arrow_type, count_lines, without_mark
from .listing import check_options, find_files, is_of, texts_of
from .ranged_file import RangedFile

INDEX_NAME = "index.jsonl.json"
VERSION = 1
OPTIONS = ("files", "columns")
SHARD_BYTES = 1 << 26
MAX_SHARD_BYTES = 2**32 - 1
_COMPRESSIONS = {"gz": "gz", "zst": "zstd", "zstd": "zstd"}
_PLAIN = (".jsonl", ".ndjson")
ENDINGS = (*_PLAIN, *(f"{p}.{z}" for p in (*_PLAIN, ".json") for z in _COMPRESSIONS))
_BLOCK_BYTES = 1 << 23
_HASH = "xxh3_64"


def index_jsonl(
    store: Store, options: Mapping[str, Any] | None = None, *, shard_bytes: int = SHARD_BYTES
) -> ShardIndex:
    """Make the index of the JSON lines of a store in one pass, put it beside them and return it.

    Args:
        store: Where they lie.
        options: `files`, if not all; `columns`, for what is returned.
        shard_bytes: About how long the ranges of plain files become.

    Raises:
        ShardError: There are no such files, a compressed one is corrupt, or one cannot be a shard.
        StorageError: A file cannot be read, or the index cannot be written.
    """
    options = options or {}
    check_options(store.url, "jsonl", options, OPTIONS)
    columns = columns_of(store.url, options.get("columns", "text"))
    names = find_files(store, options, ENDINGS)
    if not names:
        raise ShardError(f"{store.url} holds no JSON lines; they end in {', '.join(ENDINGS)}")
    files = []
    for name in names:
        scan = _scan_packed if _compression(name) else _scan_plain
        shards = list(scan(store, name, shard_bytes))
        files.append({"name": name, "shards": shards})
    text = json.dumps({"version": VERSION, "files": files}, separators=(",", ":"))
    store.put(INDEX_NAME, text.encode("utf-8"))
    return ShardIndex(read_jsonl_index(store, columns))


def columns_of(where: str, value: Any) -> dict[str, str]:
    """Return the encodings of the fields to read, by name.

    Raises:
        ShardError: The option `columns` names one twice or of an encoding that is not read.
    """
    columns = {}
    for text in texts_of(where, "columns", value):
        name, _, encoding = text.partition(":")
        columns[name] = encoding or "str"
        try:
            arrow_type(columns[name])
        except ShardError as error:
            raise ShardError(f"{where}: option 'columns', field {name!r}: {error}") from None
    return columns


def _compression(name: str) -> str | None:
    return _COMPRESSIONS.get(name.rpartition(".")[2])


def _scan_plain(store: Store, name: str, shard_bytes: int) -> Iterator[list[Any]]:
    """Give [start, stored bytes, raw bytes, samples, digest] of every range of a plain file."""
    start, size, samples, digest = 0, 0, 0, xxhash.xxh3_64()
    for part in _whole_lines(RangedFile(store, name, read_ahead=1), min(_BLOCK_BYTES, shard_bytes)):
        if size and size + part.size > shard_bytes:
            yield from _entry(store, name, start, size, size, samples, digest.hexdigest())
            start, size, samples, digest = start + size, 0, 0, xxhash.xxh3_64()
        lines = part if start + size else without_mark(part)
        size, samples = size + part.size, samples + count_lines(lines)
        digest.update(part.data)
    yield from _entry(store, name, start, size, size, samples, digest.hexdigest())


def _scan_packed(store: Store, name: str, shard_bytes: int) -> Iterator[list[Any]]:
    """Give the one entry of a compressed file."""
    del shard_bytes
    file = _HashedFile(RangedFile(store, name, read_ahead=1))
    size, samples = 0, 0
    try:
        for part in _whole_lines(_unpacked(file, name), _BLOCK_BYTES):
            lines = part if size else without_mark(part)
            size, samples = size + part.size, samples + count_lines(lines)
    except (OSError, EOFError, ValueError) as error:
        raise ShardError(f"{store.url}/{name} does not decompress: {error}; copy it") from error
    while file.read(_BLOCK_BYTES):
        pass
    yield from _entry(store, name, 0, file.num_bytes, size, samples, file.digest.hexdigest())


def _entry(
    store: Store, name: str, start: int, stored: int, raw: int, samples: int, digest: str
) -> Iterator[list[Any]]:
    if max(stored, raw) > MAX_SHARD_BYTES:
        raise ShardError(f"{store.url}/{name}: {raw} bytes cannot be one shard; split the file")
    if samples:
        yield [start, stored, raw, samples, digest]


class _HashedFile(io.RawIOBase):
    """A file that is read from front to end, and the hash of what was."""

    def __init__(self, file: RangedFile) -> None:
        super().__init__()
        self._file = file
        self.digest = xxhash.xxh3_64()
        self.num_bytes = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what comes next; return the bytes."""
        size = self._file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:size])
        self.num_bytes += size
        return size


def _unpacked(file: _HashedFile, name: str) -> Any:
    """Return a reader of what a compressed file holds; it raises where the file was cut."""
    import pyarrow

    if _compression(name) == "gz":
        return gzip.GzipFile(fileobj=io.BufferedReader(file, _BLOCK_BYTES))
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


def _whole_lines(file: Any, block_bytes: int) -> Iterator[np.ndarray]:
    """Give the bytes of a file in parts that end with a line."""
    rest = b""
    while block := file.read(block_bytes):
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            continue
        yield np.frombuffer(rest + block[:cut], np.uint8)
        rest = block[cut:]
        if len(rest) > MAX_SHARD_BYTES:
            raise ValueError("a line of more than 4 GiB")
    if rest:
        yield np.frombuffer(rest, np.uint8)


def read_jsonl_index(store: Store, columns: Mapping[str, str]) -> Iterator[ShardInfo]:
    """Give the shards that the index of a store lists.

    Raises:
        ShardError: The index is malformed.
        StorageError: It cannot be read.
    """
    where = f"{store.url}/{INDEX_NAME}"
    try:
        index = json.loads(store.get(INDEX_NAME))
        if index["version"] != VERSION:
            raise ValueError(f"version {index['version']!r} is not {VERSION}, the one read here")
        files = [
            (file["name"], [_checked(*shard) for shard in file["shards"]])
            for file in index["files"]
        ]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ShardError(f"{where} is malformed ({error}); make it again: moot index") from error
    for name, shards in files:
        if not isinstance(name, str) or not is_of(name, ("",)):
            raise ShardError(f"{where}: the file name {name!r} is refused")
        for entry in shards:
            yield _info(name, entry, columns)


def _checked(start: int, stored: int, raw: int, samples: int, digest: str) -> tuple:
    numbers = (start, stored, raw, samples)
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"{numbers} are no sizes")
    if max(stored, raw) > MAX_SHARD_BYTES or samples > raw:
        raise ValueError(f"{samples} samples in {raw} bytes cannot be a shard")
    if not isinstance(digest, str) or len(bytes.fromhex(digest)) != 8:
        raise ValueError(f"{digest!r} is no {_HASH}")
    return start, stored, raw, samples, digest


def _info(name: str, entry: tuple, columns: Mapping[str, str]) -> ShardInfo:
    start, stored, raw, samples, digest = entry
    compression = _compression(name)
    digests = {_HASH: digest}
    return ShardInfo(
        shard_id=0,
        basename=name,
        raw_bytes=raw,
        zip_basename=name if compression else None,
        zip_bytes=stored if compression else 0,
        compression=compression,
        raw_hashes={} if compression else digests,
        zip_hashes=digests if compression else {},
        num_samples=samples,
        column_names=tuple(columns),
        column_encodings=tuple(columns.values()),
        column_sizes=tuple(
            None if text == "str" or text.startswith("ndarray") else value_dtype(text).itemsize
            for text in columns.values()
        ),
        format="jsonl",
        start=start,
    )
