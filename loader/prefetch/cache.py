# SPDX-License-Identifier: Apache-2.0
"""Decoded shards in memory under one hard byte budget.

Room is reserved before a fetch starts: what the shard takes while it is fetched (stored and raw).
Once it is there, the reservation shrinks to what it keeps. A shard that is needed now makes room by
dropping the least recently used ones; one that is only likely to be needed is fetched if there is
room for it, and never at the cost of one that is needed sooner. A shard that somebody still holds
is not dropped, since that would free nothing: what is counted is what is there.

Nothing waits for what may never come: a caller waits for fetches, which the threads of the cache
finish by themselves, and at most `_PATIENCE_S` for shards that other callers hold.
A failed fetch is raised where the shard is asked for, and tried again when it is asked for again.
Thread-safe; `close()` joins the threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import ConfigError, StorageError
from ..shards.shard import Allocate, Shard
from .failures import BadShards, LostShard, OnBadShard, forget_frames
from .held import HeldShards
from .pool import BufferPool

Fetch = Callable[[int, Allocate], Shard]
_PATIENCE_S = 5.0
_STUCK_S = 0.02  # how often a caller looks whether others have let go of shards
_STALLED_S = 0.2  # the same for a thread that fetches ahead
_IDLE_S = 2.0


class ShardCache:
    """The decoded shards that candidates refer to.

    Args:
        fetch: Reads, verifies and decodes one shard into memory that it allocates.
        footprint: The bytes a shard takes while it is fetched. Called by those who ask for shards,
            so it may read what is stored beside them.
        budget_bytes: The most that all shards together may take.
        num_threads: How many shards are fetched at a time.
        pool: Where memory comes from; None makes one of the same budget, closed with the cache.
            What others have in use of it counts against the budget.
        on_bad_shard, substitute: As for `BadShards`.
        keeps_finished: Hold shards that no plan needs until their room is; False lets them go at
            once, so that the memory in use is no more than is needed and stays warm.
        name: What to call a shard in messages.
        deadline_s: The longest that `get` waits.
    """

    def __init__(
        self,
        fetch: Fetch,
        footprint: Callable[[int], int],
        *,
        budget_bytes: int,
        num_threads: int = 4,
        pool: BufferPool | None = None,
        on_bad_shard: OnBadShard = "fail",
        substitute: Callable[[LostShard], Shard] | None = None,
        keeps_finished: bool = True,
        name: Callable[[int], str] = "shard {}".format,
        deadline_s: float = 600.0,
    ) -> None:
        self.failures = BadShards(on_bad_shard, substitute)
        self.pool = pool or BufferPool(budget_bytes)
        self._owns_pool = pool is None
        self._fetch, self._footprint, self._name = fetch, footprint, name
        self._deadline_s = deadline_s
        self._keeps_finished = keeps_finished
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held = HeldShards(budget_bytes, self.pool)
        self._demanded: dict[int, int] = {}  # shard to need: what one caller may make room for
        self._urgent: deque[int] = deque()  # demanded and admitted, no thread has it yet
        self._plan: list[int] = []
        self._needs: dict[int, int] = {}  # of the plan: shard to bytes while it is fetched
        self._failed: dict[int, BaseException] = {}
        self._closed = False
        self._hits = self._misses = self._fetched_bytes = self._unverified_bytes = 0
        self._fetch_s = self._wait_s = 0.0
        self._threads = [
            threading.Thread(target=self._run, name=f"moot-fetch-{i}", daemon=True)
            for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def fill(self) -> float:
        """The share of the budget that is taken."""
        return self._held.charged_bytes / self._held.budget_bytes

    @property
    def lost(self) -> list[LostShard]:
        """Shards that are substituted, and why."""
        return list(self.failures.lost.values())

    def counters(self) -> dict[str, float]:
        """Return what was done so far, as docs/cache.md lists it; `in_flight` and `fill`: now."""
        return {
            "hits": self._hits,
            "misses": self._misses,
            "fetched_bytes": self._fetched_bytes,
            "fetch_s": self._fetch_s,
            "wait_s": self._wait_s,
            "evictions": self._held.evictions,
            "in_flight": len(self._held.in_flight),
            "fill": self.fill,
            "quarantined": self.failures.quarantined,
            "substituted": len(self.failures.lost),
            "unverified_bytes": self._unverified_bytes,
        }

    def prefetch(self, shard_ids: Sequence[int]) -> None:
        """Say which shards will be needed, the first one first; replaces what was said before.

        They are fetched as far as the budget allows. Shards outside the list make room for them,
        the least recently used ones first, then those further back in the list.
        """
        plan = list(shard_ids)
        if plan == self._plan:
            return
        needs = self._needs_of(plan)
        with self._changed:
            self._plan, self._needs = plan, needs
            self._held.plan = {
                shard_id: place for place, shard_id in enumerate(dict.fromkeys(plan))
            }
            self._failed = {i: e for i, e in self._failed.items() if i in self._held.plan}
            if not self._keeps_finished:
                self._held.drop_finished(self._demanded)
            self._changed.notify_all()

    def get(self, shard_ids: Sequence[int]) -> list[Shard]:
        """Return decoded shards, fetching those that are not there.

        Raises:
            ConfigError: The shards do not fit into the budget together.
            StorageError, ShardError: A fetch failed, or took longer than the deadline.
        """
        found = self._take(shard_ids)
        if found is None:
            found = self._wait_for(self._needs_of(shard_ids), shard_ids)
        return self.failures.in_place(shard_ids, found)

    def close(self) -> None:
        """Stop fetching, join the threads and let go of all shards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._lock:
            self._held.clear()
        if self._owns_pool:
            self.pool.close()

    def abandon(self) -> list[threading.Thread]:
        """Stop fetching without waiting for what is under way; return the threads."""
        self._closed = True
        if self._lock.acquire(blocking=False):  # else the threads see it when they next look
            self._changed.notify_all()
            self._lock.release()
        return list(self._threads)

    # ---- a caller's side

    def _take(self, shard_ids: Sequence[int]) -> list[Shard] | None:
        """Return shards that are all here, None if one is not."""
        with self._lock:
            shards = self._held.shards
            try:
                found = [shards[shard_id] for shard_id in shard_ids]
            except KeyError:
                return None
            for shard_id in shard_ids:
                shards.move_to_end(shard_id)
            self._hits += len(found)
            return found

    def _needs_of(self, shard_ids: Sequence[int]) -> dict[int, int]:
        known = self._needs
        return {i: known[i] if i in known else self._footprint(i) for i in shard_ids}

    def _wait_for(self, wanted: dict[int, int], shard_ids: Sequence[int]) -> list[Shard]:
        start = time.monotonic()
        with self._changed:
            missing = sum(shard_id not in self._held for shard_id in wanted)
            self._misses += missing
            self._hits += len(wanted) - missing
            try:
                self._take_turn(wanted, start)
                self._await(wanted, start)
                for shard_id in wanted:
                    self._held.shards.move_to_end(shard_id)
                return [self._held.shards[shard_id] for shard_id in shard_ids]
            finally:
                if self._demanded is wanted:
                    self._demanded = {}
                self._wait_s += time.monotonic() - start
                self._changed.notify_all()

    def _take_turn(self, wanted: dict[int, int], start: float) -> None:
        """Wait until nobody else makes room, or until what is wanted has come anyway."""
        while self._demanded and not all(shard_id in self._held for shard_id in wanted):
            self._changed.wait(self._time_left(start, list(wanted)))
        if not self._demanded:
            self._demanded = wanted
        for shard_id in wanted:
            self._failed.pop(shard_id, None)  # in vain, ahead of time: try again

    def _await(self, wanted: dict[int, int], start: float) -> None:
        """Wait until all that is wanted is held, making room for it."""
        stuck_since = start
        while True:
            for shard_id in wanted:
                if shard_id in self._failed:
                    raise self._failed.pop(shard_id)
            missing = [shard_id for shard_id in wanted if shard_id not in self._held]
            if not missing:
                return
            left_s = self._time_left(start, missing)
            self._admit(wanted, missing)
            if self._held.in_flight:
                stuck_since = time.monotonic()
            elif time.monotonic() - stuck_since > _PATIENCE_S:
                raise self._too_small(wanted)
            self._changed.wait(left_s if self._held.in_flight else _STUCK_S)

    def _admit(self, wanted: dict[int, int], missing: list[int]) -> None:
        """Reserve room for what is wanted, in order: a small one must not take a large one's."""
        held = self._held
        for shard_id in missing:
            if shard_id in held.in_flight:
                continue
            need = wanted[shard_id]
            if not held.reserve(shard_id, need, wanted, -1):
                if held.cost(wanted) + need > held.budget_bytes and not held.in_flight:
                    raise self._too_small(wanted)
                return
            self._urgent.append(shard_id)
            self._changed.notify_all()

    def _time_left(self, start: float, missing: list[int]) -> float:
        """Return how long to wait for the next change; raise where waiting is over."""
        if self._closed:
            raise RuntimeError("the loader was closed while a shard was asked for")
        left = start + self._deadline_s - time.monotonic()
        if left > 0:
            return min(left, _IDLE_S)
        names = ", ".join(self._name(shard_id) for shard_id in missing[:4])
        raise StorageError(
            f"no answer in {self._deadline_s:g} s for {names}; look at the store with `moot doctor`"
        )

    def _too_small(self, wanted: dict[int, int]) -> ConfigError:
        names = ", ".join(self._name(shard_id) for shard_id in list(wanted)[:4])
        need = sum(wanted.values())
        others = self._held.taken() - self._held.cost(wanted)
        return ConfigError(
            f"one step reads from {len(wanted)} shards ({names}{', ...' * (len(wanted) > 4)}), "
            f"{need / 2**20:.1f} MiB while they are fetched; the loader may hold "
            f"{self._held.budget_bytes / 2**20:.1f} MiB, of which {others / 2**20:.1f} MiB are in "
            "use elsewhere: raise budget_bytes or lower window_shards"
        )

    # ---- the threads' side

    def _run(self) -> None:
        while True:
            with self._changed:
                shard_id = self._next()
                while shard_id is None and not self._closed:
                    self._changed.wait(_IDLE_S if self._next_planned() is None else _STALLED_S)
                    shard_id = self._next()
                if self._closed or shard_id is None:
                    return
            self._fetch_one(shard_id)

    def _next(self) -> int | None:
        """Return an admitted shard to fetch: a demanded one, or the next one of the plan."""
        if self._urgent:
            return self._urgent.popleft()
        if not all(self._held.knows(shard_id) for shard_id in self._demanded):
            return None  # it waits for room, which the plan must not take
        shard_id = self._next_planned()
        if shard_id is None:
            return None
        need, place = self._needs[shard_id], self._held.plan[shard_id]
        return shard_id if self._held.reserve(shard_id, need, self._demanded, place) else None

    def _next_planned(self) -> int | None:
        held, failed = self._held, self._failed
        return next((i for i in held.plan if not held.knows(i) and i not in failed), None)

    def _fetch_one(self, shard_id: int) -> None:
        start = time.monotonic()
        shard: Shard | None = None
        failure: BaseException | None = None
        kept = stored = unverified = 0
        try:
            shard = self.failures.read(self._fetch, shard_id, self.pool.allocate)
            kept, stored, unverified = shard.nbytes, shard.info.stored_bytes, shard.unverified_bytes
        except BaseException as error:  # raised where the shard is asked for
            failure = error
            forget_frames(error)
        with self._changed:
            self._held.settle(shard_id, shard, kept, self._demanded)
            self._fetch_s += time.monotonic() - start
            self._fetched_bytes += stored
            self._unverified_bytes += unverified
            if failure is not None:
                self._failed[shard_id] = failure
            shard = failure = None  # this frame must keep neither alive
            self._changed.notify_all()
