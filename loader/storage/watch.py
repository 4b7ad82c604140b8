# SPDX-License-Identifier: Apache-2.0
"""One thread that calls back at given times: what is late gets a second read or an end.

The thread is started by the first timer and ends by itself when there has been none for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_IDLE_S = 2.0


class Timer:
    """One call at one time; made by `Watch.at`."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call


class Watch:
    """Timers of requests under way, few at a time. Thread-safe."""

    def __init__(self) -> None:
        self._timers: set[Timer] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._is_closed = False

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        """Have `call` called at `when` (`time.monotonic`), in the watch's thread.

        It must neither wait nor raise.
        """
        timer = Timer(when, call)
        with self._changed:
            self._timers.add(timer)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="moot-watch", daemon=True)
                self._thread.start()
            elif when < self._wakes_at:
                self._changed.notify()
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a timer; it is no error if it has rung or is ringing."""
        with self._changed:
            self._timers.discard(timer)

    def close(self) -> None:
        """End the thread and wait for it."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (due := self._wait_for_due()) is not None:
            for timer in due:
                timer.call()

    def _wait_for_due(self) -> list[Timer] | None:
        """Return the timers that ring now; None: the thread may end."""
        with self._changed:
            idle_since = time.monotonic()
            while True:
                now = time.monotonic()
                is_idle = not self._timers and now - idle_since >= _IDLE_S
                if self._is_closed or is_idle:
                    self._thread = None
                    return None
                due = [timer for timer in self._timers if timer.when <= now]
                if due:
                    self._timers.difference_update(due)
                    return due
                first = min((timer.when for timer in self._timers), default=now + _IDLE_S)
                self._wakes_at = first
                self._changed.wait(first - now)
