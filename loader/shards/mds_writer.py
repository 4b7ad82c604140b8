# SPDX-License-Identifier: Apache-2.0
"""MDS shards, written: one shard in memory at a time, the index last.

Files are laid out as mosaicml-streaming lays them out, so that either side reads the other's.
A reader sees no corpus before index.json is published, and none at all after an exception inside
the `with`. Many writers write one corpus together when each has a folder of its own, a part
(`store.child("00003")`); `merge_index` then makes them one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ShardError, StorageError
from ..storage import Store
from .compression import compress, compression_level, extension
from .hashing import check_digest, digest
from .index import INDEX_NAME, MAX_SHARD_BYTES, VERSION
from .writer import SIZE_BYTES, Cell, Writer

JOURNAL_NAME = "index.partial.json"
_FILES = ("raw_data", "zip_data")


class MDSWriter(Writer):
    """Writes samples as shards into a store; `write`, `write_encoded` and `close` are `Writer`'s.

    Args:
        store: Where to; it must not hold an index yet.
        columns: Name to encoding, as `{"tokens": "ndarray:uint16", "id": "str"}`.
        compression: None, or a family with or without a level: "zstd", "zstd:7", "gz:9", "bz2",
            "br:11", "snappy".
        hashes: hashlib's or xxhash's names, each listed for the raw and the compressed file.
        size_limit: Bytes of a raw shard after which a new one begins; a larger sample has its own.
        resume: Go on where a writer of the same settings was cut short, or had ended. Every full
            shard is noted in a small journal; those that are still whole are kept, and
            `num_samples` tells how many samples they hold: these are not to be written again.

    Raises:
        ShardError: A column, the compression or a hash is unknown.
        StorageError: The store holds an index already, or was written with other settings.
    """

    MAX_PIECE_BYTES = MAX_SHARD_BYTES

    def __init__(
        self,
        store: Store,
        columns: Mapping[str, str],
        *,
        compression: str | None = None,
        hashes: Sequence[str] = ("xxh64",),
        size_limit: int = 1 << 26,
        resume: bool = False,
    ) -> None:
        super().__init__(store, columns, size_limit)
        if not 0 < size_limit <= MAX_SHARD_BYTES:
            raise ShardError(f"size_limit {size_limit} is not in 1 to {MAX_SHARD_BYTES} bytes")
        for algorithm in hashes:
            digest(algorithm, b"")
        if compression is not None:
            compression_level(compression)
        self._compression = compression
        self._hashes = sorted(set(hashes))
        self._settings = {
            "column_encodings": list(self._columns.values()),
            "column_names": list(self._columns),
            "column_sizes": list(self._fixed.values()),
            "compression": compression,
            "format": "mds",
            "hashes": self._hashes,
            "size_limit": size_limit,
            "version": VERSION,
        }
        self._config = json.dumps(self._settings, sort_keys=True).encode("utf-8")
        self._empty_bytes = 2 * SIZE_BYTES + len(self._config)
        self._shards: list[dict[str, Any]] = []
        self._has_journal = resume
        if resume:
            self._adopt()
        elif store.exists(INDEX_NAME):
            raise StorageError(f"{store.url} holds a corpus already; delete it or change the URL")

    def _adopt(self) -> None:
        """Keep the shards that are noted, up to the first that is not whole."""
        names = (name for name in (JOURNAL_NAME, INDEX_NAME) if self._store.exists(name))
        name = next(names, None)
        for entry in _read_entries(self._store, name) if name is not None else ():
            if {key: entry.get(key) for key in self._settings} != self._settings:
                raise StorageError(
                    f"{self._store.url}/{name} is of a writer with other columns, compression, "
                    "hashes or size_limit; write with the same ones, or delete what is there"
                )
            if not _is_whole(self._store, entry):
                break
            self._shards.append(entry)
        self._num_written = sum(entry["samples"] for entry in self._shards)

    def _flush(self, cells: list[list[Cell]]) -> None:
        sizes = [np.fromiter(map(len, column), np.int64, len(column)) for column in cells]
        offsets = np.zeros(len(cells[0]) + 1, np.int64)
        np.cumsum(sum(sizes) + self._sample_bytes - SIZE_BYTES, out=offsets[1:])
        offsets += SIZE_BYTES * (1 + offsets.size) + len(self._config)
        head = np.array([len(cells[0])], "<u4").tobytes() + offsets.astype("<u4").tobytes()
        raw = b"".join([head, self._config, *self._interleave(cells, sizes)])
        basename = f"shard.{len(self._shards):05}.mds"
        entry = {**self._settings, "samples": len(cells[0]), "zip_data": None}
        entry["raw_data"] = self._file_entry(basename, raw)
        stored = raw
        if self._compression is not None:
            basename += f".{extension(self._compression)}"
            stored = compress(raw, self._compression)
            entry["zip_data"] = self._file_entry(basename, stored)
        self._put(basename, stored)
        self._shards.append(entry)
        if self._has_journal:
            _put_entries(self._store, JOURNAL_NAME, self._shards)

    def _interleave(self, cells: list[list[Cell]], sizes: list[np.ndarray]) -> list[Any]:
        """Return, sample by sample, the sizes of its variable cells and then all its cells."""
        variable = [
            size for size, fixed in zip(sizes, self._fixed.values(), strict=True) if fixed is None
        ]
        if not variable:
            cells, step = list(cells), len(cells)
        else:
            table = np.stack(variable, axis=1).astype("<u4").tobytes()
            width = SIZE_BYTES * len(variable)
            heads: list[Cell] = [table[at : at + width] for at in range(0, len(table), width)]
            cells, step = [heads, *cells], len(cells) + 1
        pieces: list[Any] = [b""] * (step * len(cells[0]))
        for place, column in enumerate(cells):
            pieces[place::step] = column
        return pieces

    def _finish(self) -> None:
        _put_entries(self._store, INDEX_NAME, self._shards)
        if self._has_journal:
            self._store.delete(JOURNAL_NAME)

    def _file_entry(self, basename: str, data: bytes) -> dict[str, Any]:
        hashes = {algorithm: digest(algorithm, data) for algorithm in self._hashes}
        return {"basename": basename, "bytes": len(data), "hashes": hashes}


def merge_index(store: Store, parts: Sequence[str]) -> int:
    """Publish the index of a corpus whose parts were written side by side; their files stay.

    Args:
        store: The folder that holds the parts.
        parts: Names of folders below it, each with an index.json of its own, in the order in which
            their samples are to stand.

    Returns:
        The samples of all parts.

    Raises:
        StorageError: A part has no index, or the store has one already.
        ShardError: The index of a part is malformed.
    """
    if store.exists(INDEX_NAME):
        raise StorageError(f"{store.url} holds a corpus already; delete it or change the URL")
    merged: list[dict[str, Any]] = []
    for part in parts:
        entries = _read_entries(store.child(part), INDEX_NAME)
        for file in filter(None, (entry[kind] for entry in entries for kind in _FILES)):
            file["basename"] = f"{part.strip('/')}/{file['basename']}"
        merged += entries
    _put_entries(store, INDEX_NAME, merged)
    return sum(entry["samples"] for entry in merged)


def _put_entries(store: Store, name: str, entries: list[dict[str, Any]]) -> None:
    index = {"shards": entries, "version": VERSION}
    store.put(name, json.dumps(index, sort_keys=True).encode("utf-8"))


def _read_entries(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the shards listed, each with its samples and its files."""
    try:
        entries = list(json.loads(store.get(name))["shards"])
        for entry in entries:
            files = [entry["raw_data"], entry["zip_data"]]
            if not isinstance(entry["samples"], int) or not isinstance(files[0]["basename"], str):
                raise TypeError("an entry is malformed")
            if files[1] is not None and not isinstance(files[1]["basename"], str):
                raise TypeError("an entry is malformed")
    except (ValueError, LookupError, TypeError) as error:
        raise ShardError(f"{store.url}/{name} is no list of shards ({error}); delete it") from error
    return entries


def _is_whole(store: Store, entry: dict[str, Any]) -> bool:
    """Tell whether the file of a shard is there as it was written."""
    file = entry["zip_data"] or entry["raw_data"]
    if not store.exists(file["basename"]) or store.head(file["basename"]) != file["bytes"]:
        return False
    data = np.empty(file["bytes"], np.uint8)
    store.get_range_into(file["basename"], 0, data)
    try:
        check_digest(f"{store.url}/{file['basename']}", data, file["hashes"])
    except ShardError:
        return False
    return True
