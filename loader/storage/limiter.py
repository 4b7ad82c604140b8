# SPDX-License-Identifier: Apache-2.0
"""How many requests one endpoint gets at a time.

The limit grows by one for every `limit` answers that came while all places were taken, and is
halved when the endpoint asks for fewer requests; answers to requests that were sent before that do
not halve it again. Nothing waits beyond the time it was given.
Source: additive increase, multiplicative decrease, Chiu and Jain 1989.
"""

from __future__ import annotations

import threading
import time

START = 16


class Limiter:
    """Places for requests. Thread-safe.

    Args:
        highest: The limit never grows beyond this.
        start: The limit at first.
    """

    def __init__(self, highest: int, start: int = START) -> None:
        self._highest = float(highest)
        self._limit = float(min(start, highest))
        self._num_taken = 0
        self._halved_at = float("-inf")
        self._changed = threading.Condition()

    @property
    def limit(self) -> float:
        """How many requests may be under way now; never below 1."""
        return self._limit

    def acquire(self, until: float) -> float:
        """Take a place and return the seconds waited for it.

        Args:
            until: On the clock of `time.monotonic`.

        Raises:
            TimeoutError: There was none until then.
        """
        with self._changed:
            if self._has_place():
                self._num_taken += 1
                return 0.0
            began = time.monotonic()
            if not self._changed.wait_for(self._has_place, max(0.0, until - began)):
                raise TimeoutError(f"no place among {int(self._limit)} requests at a time")
            self._num_taken += 1
            return time.monotonic() - began

    def try_acquire(self) -> bool:
        """Take a place if there is one."""
        with self._changed:
            if not self._has_place():
                return False
            self._num_taken += 1
            return True

    def release(self) -> None:
        """Give a place back and learn nothing from it."""
        with self._changed:
            self._num_taken -= 1
            self._changed.notify()

    def succeeded(self) -> None:
        """Note an answer; call it before the place is given back."""
        with self._changed:
            if self._num_taken + 1 > self._limit:
                self._limit = min(self._highest, self._limit + 1 / self._limit)
                self._changed.notify()

    def throttled(self, sent_at: float) -> None:
        """Note that the endpoint asked for fewer requests.

        Args:
            sent_at: When the request was sent, on the clock of `time.monotonic`.
        """
        with self._changed:
            if sent_at > self._halved_at:
                self._limit = max(1.0, self._limit / 2)
                self._halved_at = time.monotonic()

    def _has_place(self) -> bool:
        return self._num_taken + 1 <= self._limit
