# SPDX-License-Identifier: Apache-2.0
"""What is stored beside the shards of all streams: labels, lengths, hashes, cells.

Sidecars are opened when they are first needed; of their columns, those of the shards used last are
kept. Which samples a predicate wants is told from cells where they decide it, else from labels.
Thread-safe.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, ShardError
from ..storage import ForbiddenError, Store
from .cells import Cells
from .sidecar import HASH, LABELS_NAME, LENGTH, Sidecar, open_sidecar
from .streams import StreamStores, warn_refused
from .where import Where

KEPT_BYTES = 64 << 20


class StoredLabels:
    """The sidecars of a corpus, by shard id.

    Args:
        stores: Of the streams.
        digests: Of their indexes.
        first_shard: [streams + 1] int64.
        samples: [n] int64, of each shard.
    """

    def __init__(
        self,
        stores: StreamStores,
        digests: Sequence[str],
        first_shard: np.ndarray,
        samples: np.ndarray,
    ) -> None:
        self._stores = stores
        self._digests = digests
        self._first_shard = first_shard
        self._samples = samples
        self._opened: dict[int, Sidecar | None] = {}
        self._opening = [threading.Lock() for _ in digests]
        self._counted: dict[tuple[int, str], tuple[np.ndarray, np.ndarray] | None] = {}
        self._columns: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def sidecar(self, stream_id: int) -> Sidecar | None:
        """Return the sidecar of a stream, None if it has none.

        Raises:
            StorageError: It cannot be read.
            ShardError: It is malformed or stale.
        """
        with self._opening[stream_id]:
            if stream_id not in self._opened:
                store = self._stores.get(stream_id)
                samples = self._samples[slice(*self._first_shard[stream_id : stream_id + 2])]
                self._opened[stream_id] = _open(store, samples, self._digests[stream_id])
            return self._opened[stream_id]

    def require(self, stream_id: int) -> Sidecar:
        """Return the sidecar of a stream; ConfigError if it has none."""
        sidecar = self.sidecar(stream_id)
        if sidecar is None:
            url = self._stores.get(stream_id).url
            raise ConfigError(f"{url} holds no {LABELS_NAME}; make it with write_labels")
        return sidecar

    def read(self, shard_id: int, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Return columns of a shard's sidecar: each [samples], read-only."""
        sidecar, place = self._locate(shard_id)
        with self._lock:
            found = {name: self._columns.get((shard_id, name)) for name in columns}
            for name, values in found.items():
                if values is not None:
                    self._columns.move_to_end((shard_id, name))
        missing = [name for name, values in found.items() if values is None]
        read = sidecar.read(place, missing)
        for values in read.values():
            values.flags.writeable = False
        with self._lock:
            for name, values in read.items():
                self._keep((shard_id, name), values)
        return {name: read[name] if v is None else v for name, v in found.items()}

    def lengths(self, shard_id: int) -> np.ndarray | None:
        """Return the tokens of each sample, uint32; None where they are not stored."""
        return self._read_if_there(shard_id, LENGTH)

    def hashes(self, shard_id: int) -> np.ndarray | None:
        """Return xxh3_64 of each sample's stored bytes, uint64; None where they are not stored."""
        return self._read_if_there(shard_id, HASH)

    def cells(self, shard_id: int) -> Cells | None:
        """Return the cells of a shard, None where they are not stored."""
        stream_id = self._stream_of(shard_id)
        sidecar = self.sidecar(stream_id)
        if sidecar is None or sidecar.cells is None:
            return None
        place = shard_id - int(self._first_shard[stream_id])
        return sidecar.cells.slice(*sidecar.first_cell[place : place + 2].tolist())

    def wanted(self, shard_id: int, where: Where) -> np.ndarray:
        """Return the rows of a shard that are wanted: ascending int64.

        Raises:
            ConfigError: The stream has no labels, or not those columns or states.
        """
        sidecar, place = self._locate(shard_id)
        num = int(self._samples[shard_id])
        counted = self.counted(self._stream_of(shard_id), where)
        documents = None if counted is None else int(counted[0][place])
        if documents == 0:
            return np.zeros(0, np.int64)
        if documents == num:
            return np.arange(num)
        bound = where.bind(sidecar.states)
        rows = np.flatnonzero(bound.mask(self.read(shard_id, bound.columns)))
        if documents is not None and rows.size != documents:
            raise ShardError(
                f"{sidecar.where}, shard {place}: {rows.size} samples are {where.text!r}, "
                f"its cells count {documents}; label the corpus again"
            )
        return rows

    def counted(self, stream_id: int, where: Where) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the wanted documents and tokens of each shard of a stream, from its cells alone.

        Returns:
            Two int64 [shards]; None where its cells do not tell.
        """
        key = (stream_id, where.text)
        with self._lock:
            if key in self._counted:
                return self._counted[key]
        sidecar = self.require(stream_id)
        counted = None
        if sidecar.cells is not None and set(where.columns) <= sidecar.cells.labels.keys():
            mask = where.bind(sidecar.states).mask(sidecar.cells.labels)
            counts = (sidecar.cells.documents, sidecar.cells.tokens)
            documents, tokens = (_sums(np.where(mask, n, 0), sidecar.first_cell) for n in counts)
            counted = (documents, tokens)
        with self._lock:
            self._counted[key] = counted
        return counted

    def _read_if_there(self, shard_id: int, column: str) -> np.ndarray | None:
        sidecar = self.sidecar(self._stream_of(shard_id))
        if sidecar is None or column not in sidecar.columns:
            return None
        return self.read(shard_id, [column])[column]

    def _locate(self, shard_id: int) -> tuple[Sidecar, int]:
        stream_id = self._stream_of(shard_id)
        return self.require(stream_id), shard_id - int(self._first_shard[stream_id])

    def _stream_of(self, shard_id: int) -> int:
        return int(np.searchsorted(self._first_shard, shard_id, side="right")) - 1

    def _keep(self, key: tuple[int, str], values: np.ndarray) -> None:
        if key in self._columns:
            return
        self._columns[key] = values
        self._kept_bytes += values.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._columns) > 1:
            _, old = self._columns.popitem(last=False)
            self._kept_bytes -= old.nbytes


def _open(store: Store, samples: np.ndarray, digest: str) -> Sidecar | None:
    try:
        return open_sidecar(store, samples, digest)
    except ForbiddenError as error:
        warn_refused(error)
        return None


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
    return ends[first[1:]] - ends[first[:-1]]
