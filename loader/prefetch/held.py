# SPDX-License-Identifier: Apache-2.0
"""The shards in memory and the bytes they are charged for: who may stay, who goes for whom.

Not thread-safe: `ShardCache` calls it under its lock.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterable

import numpy as np

from ..errors import ShardError
from ..shards.columns import ends_of
from ..shards.index import ShardInfo
from ..shards.ranges import find_runs
from ..shards.shard import Shard
from .pool import BufferPool, block_bytes


def footprint(
    info: ShardInfo, rows: np.ndarray | None = None, sizes: np.ndarray | None = None
) -> int:
    """Return the bytes a shard takes while it is fetched: as stored, raw and decoded at a time.

    Counted in blocks of the pool, since those are what is taken.

    Args:
        info: The shard.
        rows: The samples that are fetched, ascending int64; None for all.
        sizes: uint64 [n], the bytes of every sample in the raw file; None where they are not known.

    Raises:
        ShardError: The sizes are not those of the shard.
    """
    text = info.raw_bytes if info.format == "jsonl" else 0  # read into columns beside it
    beside = block_bytes(info.zip_bytes) + block_bytes(text)
    if rows is None or sizes is None or info.zip_basename is not None:
        return block_bytes(info.raw_bytes) + beside
    if sizes.sum(dtype=np.float64) > info.raw_bytes:
        raise ShardError(
            f"{info.stored_name}: its samples cannot take the bytes that its labels state; label "
            "the corpus again"
        )
    offsets = ends_of(sizes.astype(np.int64))
    runs = offsets[find_runs(rows, offsets)]
    fetched = info.raw_bytes - int(offsets[-1]) + int(np.diff(runs, axis=1).sum())
    return block_bytes(fetched) + beside


class HeldShards:
    """Shards under a byte budget, and what will be needed of them.

    Args:
        budget_bytes: The most that may be charged.
        pool: Where their memory comes from. Arrays over a shard's memory that outlive the shard are
            still in use there, so they count until they go.
    """

    def __init__(self, budget_bytes: int, pool: BufferPool) -> None:
        self.budget_bytes = budget_bytes
        self.shards: OrderedDict[int, Shard] = OrderedDict()  # last used last
        self.in_flight: dict[int, int] = {}  # bytes reserved
        self.charged_bytes = self.evictions = 0
        self.plan: dict[int, int] = {}  # what will be needed: shard to place, the first one first
        self._pool = pool
        self._kept: dict[int, int] = {}

    def __contains__(self, shard_id: int) -> bool:
        return shard_id in self.shards

    def knows(self, shard_id: int) -> bool:
        """Whether a shard is here or on its way."""
        return shard_id in self.shards or shard_id in self.in_flight

    def taken(self) -> int:
        """Return the bytes that are not free."""
        return max(self.charged_bytes, self._pool.used_bytes)

    def cost(self, shard_ids: Iterable[int]) -> int:
        """Return the bytes that some shards are charged for, here or on their way."""
        return sum(self._kept.get(i, 0) + self.in_flight.get(i, 0) for i in shard_ids)

    def reserve(self, shard_id: int, need: int, protected: Collection[int], place: int) -> bool:
        """Charge `need` bytes for a fetch, dropping others for it; False if that does not do.

        Args:
            shard_id: What is to be fetched.
            need: Bytes it takes while it is fetched.
            protected: Shards that must stay.
            place: Where in the plan it stands: shards of the plan up to there stay too. -1 for one
                that is needed now.
        """
        if not self._make_room(need, self._spare(protected, place)):
            return False
        self.in_flight[shard_id] = need
        self.charged_bytes += need
        return True

    def settle(
        self, shard_id: int, shard: Shard | None, kept: int, protected: Collection[int]
    ) -> None:
        """Replace a reservation by what came of it; None came to nothing."""
        self.charged_bytes -= self.in_flight.pop(shard_id)
        if shard is None:
            return
        self.shards[shard_id], self._kept[shard_id] = shard, kept
        self.charged_bytes += kept
        if self.taken() > self.budget_bytes:  # it keeps more than it needed
            self._make_room(0, self._spare({*protected, shard_id}, -1))

    def drop_finished(self, protected: Collection[int]) -> None:
        """Let go of what no plan needs, so that its memory serves what comes next."""
        for shard_id in [i for i in self.shards if i not in self.plan and i not in protected]:
            self._drop(shard_id)

    def clear(self) -> None:
        """Let go of all shards, and of what was reserved for fetches that never began."""
        self.shards.clear()
        self._kept.clear()
        self.in_flight.clear()
        self.charged_bytes = 0

    def _spare(self, protected: Collection[int], place: int) -> list[int]:
        """Return who may go, first one first: least recently used, then the far end of the plan."""
        may_go = [i for i in self.shards if i not in protected]
        later = [(self.plan[i], i) for i in may_go if self.plan.get(i, -1) > place]
        outside = [i for i in may_go if i not in self.plan]
        return outside + [i for _, i in sorted(later, reverse=True)]

    def _make_room(self, need: int, spare: list[int]) -> bool:
        """Drop some of `spare` until `need` fits; none where all of them would not do."""
        most = sum(self._kept[i] for i in spare)
        if self.taken() + need - most > self.budget_bytes:
            return False
        for shard_id in spare:
            if self.taken() + need <= self.budget_bytes:
                return True
            self._drop(shard_id)
        return self.taken() + need <= self.budget_bytes

    def _drop(self, shard_id: int) -> None:
        """Let go of a shard, unless others hold it: that would free nothing."""
        shard = self.shards.pop(shard_id)
        seen = weakref.ref(shard)
        del shard
        still_used = seen()
        if still_used is not None:
            self.shards[shard_id] = still_used
            return
        self.charged_bytes -= self._kept.pop(shard_id)
        self.evictions += 1
