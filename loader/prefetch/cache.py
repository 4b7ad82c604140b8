# SPDX-License-Identifier: Apache-2.0
"""Decoded shards in memory under one hard byte budget.

Bytes are reserved before a fetch starts and never waited for: a shard that is needed now evicts the
least recently used ones; a shard that is only likely to be needed is fetched if there is room. A
failed fetch is raised where the shard is asked for, with the error of the fetch.
Thread-safe; `close()` joins the threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FetchTimeoutError

from ..errors import ConfigError, StorageError
from ..shards import Shard, ShardInfo

_FETCH_DEADLINE_S = 600.0


def footprint(info: ShardInfo) -> int:
    """Return the bytes a shard takes while it is fetched: as stored and, if compressed, as read."""
    return info.raw_bytes + info.zip_bytes


def _has_failed(future: Future[Shard]) -> bool:
    return future.done() and future.exception() is not None


class ShardCache:
    """The decoded shards that candidates refer to.

    Args:
        shards: The index of the corpus.
        fetch: Reads, verifies and decodes one shard.
        budget_bytes: The most that all shards together may take.
        num_threads: How many shards are fetched at a time.
    """

    def __init__(
        self,
        shards: Sequence[ShardInfo],
        fetch: Callable[[ShardInfo], Shard],
        *,
        budget_bytes: int,
        num_threads: int = 4,
    ) -> None:
        self._infos = shards
        self._fetch = fetch
        self._budget = budget_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Future[Shard]] = OrderedDict()
        self._held_bytes = 0
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="moot-fetch")
        self.hits = self.misses = self.fetched_bytes = 0

    @property
    def fill(self) -> float:
        """The share of the budget that is taken."""
        return self._held_bytes / self._budget

    def prefetch(self, shard_ids: Sequence[int]) -> None:
        """Start fetching shards, first ones first, as far as the budget allows.

        Shards outside the list make room, the least recently used ones first.
        """
        with self._lock:
            for shard_id in shard_ids:
                if shard_id in self._held:
                    continue
                if not self._admit(shard_id, keep=shard_ids):
                    return

    def get(self, shard_ids: Sequence[int]) -> list[Shard]:
        """Return decoded shards, fetching those that are not there.

        Raises:
            ConfigError: The shards of one step do not fit into the budget together.
            StorageError, ShardError: A fetch failed.
        """
        futures = [self._demand(shard_id, shard_ids) for shard_id in shard_ids]
        return [self._result(shard_id, f) for shard_id, f in zip(shard_ids, futures, strict=True)]

    def close(self) -> None:
        """Stop fetching, join the threads and let go of all shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._held.clear()
            self._held_bytes = 0

    def abandon(self) -> None:
        """Stop fetching without waiting for what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._held.clear()

    def _demand(self, shard_id: int, keep: Sequence[int]) -> Future[Shard]:
        while True:
            with self._lock:
                if shard_id in self._held and _has_failed(self._held[shard_id]):
                    self._drop(shard_id)  # fetched ahead of time, in vain: try again
                is_held = shard_id in self._held
                if is_held or self._admit(shard_id, keep):
                    self.hits += is_held
                    self.misses += not is_held
                    self._held.move_to_end(shard_id)
                    return self._held[shard_id]
                others = [future for i, future in self._held.items() if i not in keep]
            if not others:
                raise self._too_small(keep)
            wait(others)  # fetched ahead of time; once there, they can make room

    def _too_small(self, keep: Sequence[int]) -> ConfigError:
        need = sum(footprint(self._infos[i]) for i in keep)
        return ConfigError(
            f"one step reads from {len(keep)} shards of {need / 2**20:.1f} MiB together, the "
            f"loader may hold {self._budget / 2**20:.1f} MiB: raise budget_bytes or lower "
            "window_shards"
        )

    def _admit(self, shard_id: int, keep: Sequence[int]) -> bool:
        """Reserve room, evicting shards outside `keep`, and start the fetch. Needs the lock."""
        need = footprint(self._infos[shard_id])
        wanted = set(keep)
        for old in [i for i, f in self._held.items() if i not in wanted and f.done()]:
            if self._held_bytes + need <= self._budget:
                break
            self._drop(old)
        if self._held_bytes + need > self._budget:
            return False
        self._held_bytes += need
        self.fetched_bytes += self._infos[shard_id].zip_bytes or self._infos[shard_id].raw_bytes
        self._held[shard_id] = self._pool.submit(self._fetch, self._infos[shard_id])
        return True

    def _drop(self, shard_id: int) -> None:
        del self._held[shard_id]
        self._held_bytes -= footprint(self._infos[shard_id])

    def _result(self, shard_id: int, future: Future[Shard]) -> Shard:
        try:
            return future.result(timeout=_FETCH_DEADLINE_S)
        except FetchTimeoutError:  # not the builtin one before Python 3.11
            raise StorageError(
                f"shard {self._infos[shard_id].basename}: no answer in {_FETCH_DEADLINE_S:.0f} s"
            ) from None
        except BaseException:
            with self._lock:  # a later call tries again
                if self._held.get(shard_id) is future:
                    self._drop(shard_id)
            raise
