# SPDX-License-Identifier: Apache-2.0
"""What is stored beside the shards of all streams: labels, lengths, sizes, hashes, cells.

Sidecars are opened when they are first needed; of their columns, those of the shards used last are
kept. Which samples a predicate wants is told from cells where they decide it, else from labels.
A sidecar that is refused counts as missing, with a warning, where it need not be there; whoever
asks for labels gets the refusal. Thread-safe.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..errors import ConfigError, ShardError
from ..storage import ForbiddenError
from .cells import Cells
from .sidecar import HASH, LABELS_NAME, LENGTH, SIZE, LengthOf, Sidecar, open_sidecar
from .streams import StreamStores, warn_refused
from .where import Where

KEPT_BYTES = 64 << 20
_NUM_THREADS = 16


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
        self._opened: dict[int, Sidecar | ForbiddenError | None] = {}
        self._opening = [threading.Lock() for _ in digests]
        self._warned: set[str] = set()
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
        found = self._open(stream_id)
        if isinstance(found, ForbiddenError):
            if self._is_first(str(found)):
                warn_refused(found)
            return None
        return found

    def require(self, stream_id: int) -> Sidecar:
        """Return the sidecar of a stream.

        Raises:
            ConfigError: It has none.
            ForbiddenError: The store refuses it, or does not say whether there is one.
        """
        found = self._open(stream_id)
        url = self._stores.get(stream_id).url
        if isinstance(found, ForbiddenError):
            raise ForbiddenError(
                f"{found}. Labels are asked for: either these keys may not read {LABELS_NAME}, or "
                "it is not there and the store refuses to say so to keys that may not list; allow "
                "both to the keys, or store labels with `moot index URL --labels COLUMNS`",
                found.code,
            ) from found
        if found is None:
            raise ConfigError(f"{url} holds no {LABELS_NAME}; make it with write_labels")
        return found

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

    def lengths(self, shard_id: int, of: LengthOf) -> np.ndarray | None:
        """Return the length of each sample, uint32; None where those of `of` are not stored.

        Lengths of something else, or of what is not stated, are left alone with one warning.
        """
        sidecar = self.sidecar(self._stream_of(shard_id))
        if sidecar is None or LENGTH not in sidecar.columns:
            return None
        if sidecar.length_of == of:
            return self._read_if_there(shard_id, LENGTH)
        if self._is_first("lengths"):
            held = sidecar.length_of or "a column that it does not name"
            warnings.warn(
                f"{sidecar.where} holds lengths of {held}, not of {of}: they are not used, and "
                "shards are read to learn their lengths. Store them again with `moot index URL "
                "--labels COLUMNS`, or write_labels (docs/index.md)",
                stacklevel=2,
            )
        return None

    def sizes(self, shard_id: int) -> np.ndarray | None:
        """Return the bytes of each sample in the raw file, uint64; None where they are not stored.

        The hashes beside them are read along: who asks for the ones soon needs the others.
        """
        sidecar = self.sidecar(self._stream_of(shard_id))
        if sidecar is None or not {SIZE, HASH} <= sidecar.columns.keys():
            return None
        return self.read(shard_id, [SIZE, HASH])[SIZE]

    def has_hashes(self, shard_id: int) -> bool:
        """Tell whether `hashes` gives any; nothing is read of the shard."""
        sidecar = self.sidecar(self._stream_of(shard_id))
        return sidecar is not None and HASH in sidecar.columns

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

    def wanted(self, shard_id: int, where: Where, *, with_lengths: bool = False) -> np.ndarray:
        """Return the rows of a shard that are wanted: ascending int64.

        Args:
            shard_id: The shard.
            where: What is wanted.
            with_lengths: Read the lengths along with the labels, for whoever needs them next.

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
        along = {LENGTH} & sidecar.columns.keys() if with_lengths else set()
        rows = np.flatnonzero(bound.mask(self.read(shard_id, [*{*bound.columns, *along}])))
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

    def num_wanted(self, where: Where) -> np.ndarray:
        """Return how many samples of each shard are wanted: int64 [n].

        Labels are read, by threads, where cells do not tell: a request a shard.

        Raises:
            ConfigError: A stream has no labels, or not those columns or states.
            StorageError, ShardError: They cannot be read, or belong to other shards.
        """
        num_wanted = np.zeros(len(self._samples), np.int64)
        with ThreadPoolExecutor(_NUM_THREADS, "moot-labels") as pool:
            streams = list(pool.map(lambda i: self.counted(i, where), range(len(self._digests))))
            untold: list[int] = []
            for stream_id, counted in enumerate(streams):
                first, stop = self._first_shard[stream_id : stream_id + 2].tolist()
                if counted is None:
                    untold += range(first, stop)
                else:
                    num_wanted[first:stop] = counted[0]
            num_wanted[untold] = list(pool.map(lambda i: self.wanted(i, where).size, untold))
        return num_wanted

    def _open(self, stream_id: int) -> Sidecar | ForbiddenError | None:
        with self._opening[stream_id]:
            if stream_id not in self._opened:
                store = self._stores.get(stream_id)
                samples = self._samples[slice(*self._first_shard[stream_id : stream_id + 2])]
                try:
                    found = open_sidecar(store, samples, self._digests[stream_id])
                except ForbiddenError as error:
                    self._opened[stream_id] = error.with_traceback(None)
                else:
                    self._opened[stream_id] = found
            return self._opened[stream_id]

    def _is_first(self, what: str) -> bool:
        with self._lock:
            is_first = what not in self._warned
            self._warned.add(what)
            return is_first

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


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
    return ends[first[1:]] - ends[first[:-1]]
