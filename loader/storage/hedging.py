# SPDX-License-Identifier: Apache-2.0
"""When a read is late enough for a second one: after the p95 of recent reads of about its size.

Sizes are classed by powers of two. Off until a class has 20 observations, and second reads are at
most 5 % of all reads, so that a slow endpoint is not asked twice as much because it is slow.
Source: the tail at scale, Dean and Barroso 2013.
"""

from __future__ import annotations

import threading
from collections import deque

MIN_OBSERVED = 20
MAX_SHARE = 0.05
SHORTEST_DELAY_S = 0.05  # shards are fetched ahead of time: to gain less than this is not worth it
_NUM_KEPT = 128
_REFRESH = 8  # observations of a class between two sorts


class Hedging:
    """Durations of recent reads, and the second reads they allow. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[int, deque[float]] = {}
        self._num_seen: dict[int, int] = {}
        self._delay_s: dict[int, float] = {}
        self._num_reads = 0
        self._num_hedged = 0

    def observe(self, num_bytes: int, seconds: float) -> None:
        """Note how long a read took."""
        size = num_bytes.bit_length()
        with self._lock:
            self._num_reads += 1
            recent = self._recent.setdefault(size, deque(maxlen=_NUM_KEPT))
            recent.append(seconds)
            seen = self._num_seen[size] = self._num_seen.get(size, 0) + 1
            if seen >= MIN_OBSERVED and (seen - MIN_OBSERVED) % _REFRESH == 0:
                p95 = sorted(recent)[int(0.95 * (len(recent) - 1))]
                self._delay_s[size] = max(p95, SHORTEST_DELAY_S)

    def delay_s(self, num_bytes: int) -> float | None:
        """Return after how many seconds a read of this size is late; None: not known yet."""
        return self._delay_s.get(num_bytes.bit_length())

    def take(self) -> bool:
        """Claim one second read; False when their share is used up."""
        with self._lock:
            if self._num_hedged + 1 > MAX_SHARE * self._num_reads:
                return False
            self._num_hedged += 1
            return True
