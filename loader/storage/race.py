# SPDX-License-Identifier: Apache-2.0
"""One read, and a second one when the first is late; the first answer counts.

The caller's buffer is written by the caller's thread alone: the first read fills it in place, a
second one fills a buffer of its own, which is copied if it wins. The loser is cut off or ignored
and can touch nothing that the caller sees. A second read takes a free place at the limiter or is
not sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from .counters import Counters
from .hedging import Hedging
from .limiter import Limiter
from .line import Line
from .watch import Watch

Result = TypeVar("Result")
Read = Callable[[np.ndarray, Line], Result]

_MAX_THREADS = 64
_LATE = "no answer, or too slow a one"
_CLOSED = "the store was closed"


class Racer:
    """Runs reads that may get a second one. Thread-safe.

    Args:
        limiter: Gives second reads their places; the first read has one already.
        hedging: Says when a read is late; None sends no second reads.
        counters: Counts requests, second reads, and those that won.
    """

    def __init__(self, limiter: Limiter, hedging: Hedging | None, counters: Counters) -> None:
        self._limiter = limiter
        self._hedging = hedging
        self._counters = counters
        self._watch = Watch()
        self._lock = threading.Lock()
        self._lines: set[Line] = set()
        self._is_cut = False
        self._pool: ThreadPoolExecutor | None = None
        self._is_closed = False

    def in_place(
        self, read: Read[Result], target: np.ndarray, num_bytes: int, until: float
    ) -> Result:
        """Return `read(target, line)`, or what a second read found, copied into `target`.

        Args:
            read: Fills a buffer over a connection that it attaches to the line.
            target: uint8 [n]; written only before this returns.
            num_bytes: By which lateness is judged; 0 for reads of unknown length.
            until: Then the line is cut, on the clock of `time.monotonic`.
        """
        began, line = time.monotonic(), Line()
        second = _Second(read, target.size, line)
        self._lines.add(line)
        if self._is_cut:  # since the caller last looked whether the store is open
            line.cut(_CLOSED)
        timers = [self._watch.at(until, lambda: line.cut(_LATE))]
        delay_s = self._hedging.delay_s(num_bytes) if self._hedging else None
        if delay_s is not None:
            timers.append(self._watch.at(began + delay_s, lambda: self._start(second)))
        try:
            result = self._first(read, target, line, second, until)
        finally:
            for timer in timers:
                self._watch.cancel(timer)
            second.end()
            self._lines.discard(line)
        self._observe(num_bytes, began)
        return result

    def apart(self, fetch: Callable[[], Result], num_bytes: int, until: float) -> Result:
        """Return `fetch()`, run in a thread that may be left behind, or a second run of it.

        For clients that cannot be interrupted; they end by their own timeout.
        """
        began = time.monotonic()
        self._counters.add("requests")
        runs = [self._threads().submit(fetch)]
        delay_s = self._hedging.delay_s(num_bytes) if self._hedging else None
        if delay_s is not None:
            wait(runs, timeout=max(0.0, min(delay_s, until - began)))
            if not runs[0].done() and self._claim():
                runs.append(self._threads().submit(self._placed, fetch))
        run = _first_good(runs, until)
        result = run.result()
        if run is not runs[0]:
            self._counters.add("hedges_won")
        self._observe(num_bytes, began)
        return result

    def cut_all(self) -> None:
        """End the reads under way, as far as they can be interrupted, and those that follow."""
        self._is_cut = True
        for line in list(self._lines):
            line.cut(_CLOSED)

    def close(self) -> None:
        """End the threads and wait for them."""
        self.cut_all()
        self._watch.close()
        with self._lock:
            self._is_closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _first(
        self, read: Read[Result], target: np.ndarray, line: Line, second: _Second, until: float
    ) -> Result:
        self._counters.add("requests")
        try:
            result = read(target, line)
            if line.reason is None:
                return result
            raise TimeoutError(line.reason)
        except Exception as error:
            found = second.wait(until)
            if found is None:
                if line.reason == _LATE:
                    raise TimeoutError(_LATE) from error
                raise
            np.copyto(target, second.buffer)
            self._counters.add("hedges_won")
            return found[0]

    def _start(self, second: _Second) -> None:
        """Send the second read, from the watch's thread."""
        if self._claim() and not second.start(self._threads(), self._placed):
            self._limiter.release()

    def _claim(self) -> bool:
        if not self._limiter.try_acquire():
            return False
        if self._hedging is None or not self._hedging.take():
            self._limiter.release()
            return False
        self._counters.add("hedged")
        self._counters.add("requests")
        return True

    def _placed(self, fetch: Callable[[], Result]) -> Result:
        try:
            return fetch()
        finally:
            self._limiter.release()

    def _observe(self, num_bytes: int, began: float) -> None:
        if self._hedging is not None:
            self._hedging.observe(num_bytes, time.monotonic() - began)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._is_closed:
                raise RuntimeError(_CLOSED)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="moot-read")
            return self._pool


def _first_good(runs: list[Future[Result]], until: float) -> Future[Result]:
    """Return the first run that went well, or one that failed when all did."""
    left = set(runs)
    while left:
        done, left = wait(left, max(0.0, until - time.monotonic()), FIRST_COMPLETED)
        if not done:
            raise TimeoutError(_LATE)
        for run in done:
            if run.exception() is None or not left:
                return run
    raise AssertionError("unreachable")


class _Second:
    """The second read of a range: its own line, its own buffer, made when it starts."""

    def __init__(self, read: Read, num_bytes: int, first: Line) -> None:
        self.line = Line()
        self.buffer = np.empty(0, np.uint8)
        self._read = read
        self._num_bytes = num_bytes
        self._first = first
        self._future: Future | None = None
        self._lock = threading.Lock()
        self._is_over = False

    def start(self, pool: ThreadPoolExecutor, placed: Callable) -> bool:
        """Send the read; False if nobody waits for it any more."""
        with self._lock:
            if self._is_over:
                return False
            self._future = pool.submit(placed, self._run)
            return True

    def end(self) -> None:
        """Send no read from now on, and end the one under way."""
        with self._lock:
            self._is_over = True
        self.line.cut("the first read was faster")

    def wait(self, until: float) -> tuple | None:
        """Return (result,) if the read was sent and goes well, else None; none starts after."""
        with self._lock:
            self._is_over = True
            future = self._future
        if future is None:
            return None
        try:
            return (future.result(max(0.0, until - time.monotonic())),)
        except Exception:
            return None

    def _run(self) -> object:
        self.buffer = np.empty(self._num_bytes, np.uint8)
        result = self._read(self.buffer, self.line)
        if self.line.reason is not None:
            raise TimeoutError(self.line.reason)
        self._first.cut("the second read was faster")
        return result
