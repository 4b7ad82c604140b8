# SPDX-License-Identifier: Apache-2.0
"""index.json: what shards there are, and what each claims about itself.

Nothing in it is trusted: types, sizes, encodings and names are checked before a byte of a shard is
read; names that leave the corpus (absolute, or with `..`) and pickled columns are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import xxhash

from ..errors import ShardError
from ..storage import Store
from .compression import compression_level
from .encodings import fixed_size

INDEX_NAME = "index.json"
VERSION = 2
MAX_SHARD_BYTES = 2**32 - 1  # sample offsets are 32 bits


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as the index describes it; sizes in bytes, `column_sizes` None where variable."""

    shard_id: int
    basename: str
    raw_bytes: int
    zip_basename: str | None
    zip_bytes: int
    compression: str | None
    raw_hashes: dict[str, str]
    zip_hashes: dict[str, str]
    num_samples: int
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]
    format: str = "mds"
    start: int = 0
    """First byte of the shard in its stored file; a shard may be a part of one."""
    part: int = 0
    """Which part of the file it is, as its format counts (Parquet: the row group)."""

    @property
    def stored_name(self) -> str:
        """The file that is in the bucket: the compressed one if there is one."""
        return self.zip_basename or self.basename

    @property
    def stored_bytes(self) -> int:
        """The length of the stored file."""
        return self.zip_bytes if self.zip_basename else self.raw_bytes


class ShardIndex(Sequence[ShardInfo]):
    """The shards of a corpus, in order; shard i has shard_id i.

    Attributes:
        samples: [n] int64, the samples of each shard.
        raw_bytes: [n] int64, decoded.
        stored_bytes: [n] int64, as they are fetched.
        digest: Names the whole index: equal where all shards and their hashes are.
    """

    def __init__(self, shards: Iterable[ShardInfo]) -> None:
        self._shards = list(shards)
        self.samples = np.array([shard.num_samples for shard in self._shards], np.int64)
        self.raw_bytes = np.array([shard.raw_bytes for shard in self._shards], np.int64)
        self.stored_bytes = np.array([shard.stored_bytes for shard in self._shards], np.int64)
        text = "\n".join(map(repr, self._shards))
        self.digest = xxhash.xxh3_128_hexdigest(text.encode("utf-8"))

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, place: int) -> ShardInfo: ...
    @overload
    def __getitem__(self, place: slice) -> list[ShardInfo]: ...
    def __getitem__(self, place: int | slice) -> ShardInfo | list[ShardInfo]:
        return self._shards[place]


def read_index(store: Store) -> ShardIndex:
    """Read and check the index.json of a corpus.

    Raises:
        StorageError: There is no index.json, or it cannot be read.
        ShardError: It is not what an index must be.
    """
    where = f"{store.url}/{INDEX_NAME}"
    try:
        index = json.loads(store.get(INDEX_NAME))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where} is not JSON ({error}); write the corpus again") from error
    version = index.get("version") if isinstance(index, dict) else None
    if version != VERSION:
        raise ShardError(f"{where}: version {version!r} is not {VERSION}, the one read here")
    shards = index.get("shards")
    if not isinstance(shards, list):
        raise ShardError(f"{where}: 'shards' is not a list; write the corpus again")
    columns: dict[tuple, tuple] = {}
    return ShardIndex(_read_shard(where, i, entry, columns) for i, entry in enumerate(shards))


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
        try:
            compression_level(_typed(where, entry, "compression", str))
        except ShardError as error:
            raise ShardError(f"{where}: {error}") from None
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
    names, encodings, sizes = found
    are_texts = all(isinstance(text, str) for text in names + encodings)
    if not are_texts or len({len(values) for values in found}) != 1 or not names:
        raise ShardError(f"{where}: names, encodings and sizes of the columns do not match")
    if len(set(names)) != len(names):
        raise ShardError(f"{where}: a column is named twice in {list(names)}")
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        try:
            expected = fixed_size(encoding)
        except ShardError as error:
            raise ShardError(f"{where}, column {name!r}: {error}") from None
        if size != expected or isinstance(size, bool):
            raise ShardError(
                f"{where}, column {name!r}: {encoding} has size {expected}, the index says {size!r}"
            )
    return columns.setdefault(found, found)


def _read_file(where: str, entry: Any) -> tuple[str, int, dict[str, str]]:
    if not isinstance(entry, dict):
        raise ShardError(f"{where}: not an object")
    basename = _typed(where, entry, "basename", str)
    parts = basename.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in basename or "\0" in basename:
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
