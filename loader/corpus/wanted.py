# SPDX-License-Identifier: Apache-2.0
"""The samples of a corpus that a predicate wants: how many each shard holds, and in which rows.

How many is settled when it is made; the rows of a shard are looked up when they are needed, its
lengths read along by the same request, and those of the shards used last are kept. Thread-safe.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from .where import Where

_NUM_THREADS = 16

if TYPE_CHECKING:
    from .corpus import Corpus


class Wanted:
    """What a predicate wants of a corpus.

    Args:
        corpus: With labels beside all of its streams.
        where: The predicate.
        kept_shards: Shards whose rows are kept.

    Attributes:
        samples_per_shard: [n] int64, the samples wanted of each shard.

    Raises:
        ConfigError: A stream has no labels, not those columns, or no sample that is wanted.
        StorageError, ShardError: Labels cannot be read, or belong to other shards.
    """

    def __init__(self, corpus: Corpus, where: Where, *, kept_shards: int) -> None:
        self._corpus = corpus
        self._where = where
        self._kept_shards = kept_shards
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self.samples_per_shard = corpus.num_wanted(where)
        by_stream = np.split(self.samples_per_shard, corpus.first_shard[1:-1])
        for stream, samples in zip(corpus.streams, by_stream, strict=True):
            if not samples.any():
                raise ConfigError(
                    f"no sample of {stream.url} is wanted by where {where.text!r}: ask for others, "
                    "or leave the stream out"
                )

    @property
    def digest(self) -> str:
        """Names how many samples are wanted of which shard."""
        counts = self.samples_per_shard.astype("<i8").tobytes()
        return hashlib.sha256(counts).hexdigest()[:16]

    def rows(self, shard_id: int) -> np.ndarray:
        """Return the rows of a shard that are wanted: ascending int64."""
        with self._lock:
            found = self._rows.get(shard_id)
            if found is not None:
                self._rows.move_to_end(shard_id)
                return found
        found = self._corpus.stored.wanted(shard_id, self._where, with_lengths=True)
        with self._lock:
            self._rows[shard_id] = found
            while len(self._rows) > self._kept_shards:
                self._rows.popitem(last=False)
        return found

    def prepare(self, shard_ids: Sequence[int], fetched: Collection[int]) -> None:
        """Look up the rows of shards that are needed soon, side by side.

        Args:
            shard_ids: Those of the order.
            fetched: Those of them that are fetched, whose sizes and hashes are read as well.
        """
        with self._lock:
            missing = [i for i in dict.fromkeys(shard_ids) if i not in self._rows]
        if not missing:
            return

        def look_up(shard_id: int) -> None:
            self.rows(shard_id)
            if shard_id in fetched:
                self._corpus.sample_bytes(shard_id)

        with ThreadPoolExecutor(min(_NUM_THREADS, len(missing)), "moot-labels") as pool:
            list(pool.map(look_up, missing))

    def locate(self, shards: np.ndarray, nth: np.ndarray) -> np.ndarray:
        """Return the rows, int64 [m], of the nth [m] wanted samples of shards [m]."""
        rows = np.empty_like(nth)
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            rows[chosen] = self.rows(shard_id)[nth[chosen]]
        return rows
