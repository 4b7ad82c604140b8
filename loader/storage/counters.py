# SPDX-License-Identifier: Apache-2.0
"""What a store has done so far: always on, one lock and a few additions a request."""

from __future__ import annotations

import threading

NAMES = (
    "requests",  # sent, second reads and repeated ones too
    "bytes",  # delivered into buffers; what a losing second read received is not in it
    "retries",
    "throttled",  # answers that asked for fewer requests (429, 503)
    "hedged",  # second reads that were sent
    "hedges_won",
    "timeouts",
    "errors",  # requests given up, but not those for what is not there
    "wait_s",  # seconds spent waiting for a free place at the limiter
)


class Counters:
    """Sums under the names of `NAMES`. Thread-safe."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(NAMES, 0.0)
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1.0) -> None:
        """Add to one sum."""
        with self._lock:
            self._sums[name] += amount

    def snapshot(self) -> dict[str, float]:
        """Return a copy of all sums."""
        with self._lock:
            return dict(self._sums)
