# SPDX-License-Identifier: Apache-2.0
"""MDS shards, written: one shard in memory at a time, the index last.

Files are laid out as mosaicml-streaming lays them out, so that either side reads the other's.
A reader sees no corpus before index.json is published, and none at all after an exception inside
the `with`. Not thread-safe: one writer, one thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import ShardError, StorageError
from ..storage import Store
from .compression import compress, compression_level
from .encodings import fixed_size, make_encoder
from .hashing import digest
from .index import INDEX_NAME, MAX_SHARD_BYTES, VERSION

_OFFSET_BYTES = 4


class MDSWriter:
    """Writes samples as shards into a store.

    Args:
        store: Where to; it must not hold an index yet.
        columns: Name to encoding, as `{"tokens": "ndarray:uint16", "id": "str"}`.
        compression: None, "zstd" or "zstd:N" with N from 1 to 22.
        hashes: hashlib's or xxhash's names, each listed for the raw and the compressed file.
        size_limit: Bytes of a raw shard after which a new one begins; a larger sample has its own.

    Raises:
        ShardError: A column, the compression or a hash is unknown.
        StorageError: The store holds an index already.
    """

    def __init__(
        self,
        store: Store,
        columns: Mapping[str, str],
        *,
        compression: str | None = None,
        hashes: Sequence[str] = ("xxh64",),
        size_limit: int = 1 << 26,
    ) -> None:
        if not columns:
            raise ShardError(f"{store.url}: a corpus needs at least one column")
        if not 0 < size_limit <= MAX_SHARD_BYTES:
            raise ShardError(f"size_limit {size_limit} is not in 1 to {MAX_SHARD_BYTES} bytes")
        if store.exists(INDEX_NAME):
            raise StorageError(f"{store.url} holds a corpus already; delete it or change the URL")
        for algorithm in hashes:
            digest(algorithm, b"")
        if compression is not None:
            compression_level(compression)
        self._store = store
        self._columns = {name: columns[name] for name in sorted(columns)}
        self._encoders = {name: make_encoder(text) for name, text in self._columns.items()}
        self._sizes = {name: fixed_size(text) for name, text in self._columns.items()}
        self._settings = {
            "column_encodings": list(self._columns.values()),
            "column_names": list(self._columns),
            "column_sizes": list(self._sizes.values()),
            "compression": compression,
            "format": "mds",
            "hashes": sorted(set(hashes)),
            "size_limit": size_limit,
            "version": VERSION,
        }
        self._size_limit = size_limit
        self._config = json.dumps(self._settings, sort_keys=True).encode("utf-8")
        self._shards: list[dict[str, Any]] = []
        self._samples: list[bytes] = []
        self._num_bytes = self._empty_bytes
        self._num_written = 0
        self._is_closed = False

    def __enter__(self) -> MDSWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        self._is_closed = True

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return self._num_written

    @property
    def _empty_bytes(self) -> int:
        return 2 * _OFFSET_BYTES + len(self._config)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add a sample; may publish a full shard.

        Raises:
            TypeError: A value is not of the type its column needs.
            ValueError: A column is missing or unknown, or a value does not fit its column.
            ShardError: The writer is closed, or the sample alone exceeds a shard.
        """
        if self._is_closed:
            raise ShardError(f"{self._store.url}: the writer is closed")
        data = self._encode(sample)
        grown = len(data) + _OFFSET_BYTES
        if self._empty_bytes + grown > MAX_SHARD_BYTES:
            raise ShardError(f"sample {self._num_written}: {len(data)} bytes exceed a shard")
        if self._samples and self._num_bytes + grown > self._size_limit:
            self._flush()
        self._samples.append(data)
        self._num_bytes += grown
        self._num_written += 1

    def close(self) -> None:
        """Publish the last shard, then the index. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._samples:
            self._flush()
        index = {"shards": self._shards, "version": VERSION}
        self._store.put(INDEX_NAME, json.dumps(index, sort_keys=True).encode("utf-8"))

    def _encode(self, sample: Mapping[str, Any]) -> bytes:
        if sample.keys() != self._columns.keys():
            raise ValueError(self._mismatch(sample))
        sizes, parts = [], []
        for name, encode in self._encoders.items():
            try:
                data = encode(sample[name])
            except (TypeError, ValueError) as error:
                where = f"sample {self._num_written}, column {name!r} ({self._columns[name]})"
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{where}: {error}") from error
            if self._sizes[name] is None:
                sizes.append(len(data))
            parts.append(data)
        return np.array(sizes, "<u4").tobytes() + b"".join(parts)

    def _mismatch(self, sample: Mapping[str, Any]) -> str:
        missing = ", ".join(sorted(self._columns.keys() - sample.keys())) or "none"
        unknown = ", ".join(sorted(map(str, sample.keys() - self._columns.keys()))) or "none"
        return f"sample {self._num_written}: missing columns: {missing}; unknown columns: {unknown}"

    def _flush(self) -> None:
        lengths = np.fromiter(map(len, self._samples), np.int64, len(self._samples))
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        offsets += _OFFSET_BYTES * (1 + offsets.size) + len(self._config)
        head = np.array([lengths.size], "<u4").tobytes() + offsets.astype("<u4").tobytes()
        raw = b"".join([head, self._config, *self._samples])
        basename = f"shard.{len(self._shards):05}.mds"
        entry = {**self._settings, "samples": lengths.size, "zip_data": None}
        entry["raw_data"] = self._file_entry(basename, raw)
        stored, compression = raw, self._settings["compression"]
        if compression is not None:
            basename += ".zstd"
            stored = compress(raw, str(compression))
            entry["zip_data"] = self._file_entry(basename, stored)
        self._store.put(basename, stored)
        self._shards.append(entry)
        self._samples, self._num_bytes = [], self._empty_bytes

    def _file_entry(self, basename: str, data: bytes) -> dict[str, Any]:
        algorithms: Any = self._settings["hashes"]
        hashes = {algorithm: digest(algorithm, data) for algorithm in algorithms}
        return {"basename": basename, "bytes": len(data), "hashes": hashes}
