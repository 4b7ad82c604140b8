# SPDX-License-Identifier: Apache-2.0
"""The one layer of retries, for every request of every backend.

An attempt takes a place at the limiter; a passing failure is tried again after a random time up to
a bound that doubles (full jitter), never before the server's Retry-After, and never past the
deadline: then one error names the URL, the bytes, the attempts and the last cause.
Source: exponential backoff and jitter, AWS Architecture Blog 2015.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import MootError, StorageError
from .counters import Counters
from .faults import OF_THE_WORLD, Fault, classify, to_error
from .limiter import Limiter

Result = TypeVar("Result")

_FIRST_BOUND_S = 0.2
_LARGEST_BOUND_S = 10.0


@dataclass(frozen=True)
class Errand:
    """One request as an error message tells it.

    Attributes:
        url: What it is about.
        action: Such as "read".
        until: The deadline, on the clock of `time.monotonic`.
        limit_s: The time the deadline gave it, and
        limit_name: the option that sets this time.
        span: The bytes asked for, half-open; None for a whole object.
    """

    url: str
    action: str
    until: float
    limit_s: float
    limit_name: str
    span: tuple[int, int] | None = None

    def tell(self, what: str, num_attempts: int, advice: str) -> str:
        """Return the message of an error."""
        times = "once" if num_attempts == 1 else f"{num_attempts} times"
        span = f"bytes {self.span[0]} to {self.span[1]}, " if self.span else ""
        listed = f" ({span}tried {times})" if num_attempts else ""
        return f"cannot {self.action} {self.url}: {what}{listed}; {advice}"


class Attempts:
    """Runs requests until they succeed or must not be tried again. Thread-safe.

    Args:
        limiter: Gives each attempt its place; None for what needs none (files).
        counters: Counts retries, failures and waits.
        max_attempts: At least 1.
        closed: Set when the store is closed; ends every wait.
    """

    def __init__(
        self,
        limiter: Limiter | None,
        counters: Counters,
        max_attempts: int,
        closed: threading.Event,
    ) -> None:
        self._limiter = limiter
        self._counters = counters
        self._max_attempts = max_attempts
        self._closed = closed

    def run(self, errand: Errand, request: Callable[[], Result]) -> Result:
        """Return `request()`, tried until it succeeds.

        Raises:
            MissingObjectError: There is no such object.
            ForbiddenError: The endpoint refused.
            StorageError: Everything else that went wrong for good.
        """
        num_failed = 0
        while True:
            if self._closed.is_set():
                raise StorageError(f"{errand.url} was closed; open the store again")
            try:
                return self._once(errand, request)
            except MootError:
                self._counters.add("errors")
                raise
            except OF_THE_WORLD as error:
                num_failed += 1
                self._wait_or_raise(errand, error, num_failed)

    def _once(self, errand: Errand, request: Callable[[], Result]) -> Result:
        if self._limiter is None:
            return request()
        self._counters.add("wait_s", self._limiter.acquire(errand.until))
        sent_at = time.monotonic()
        try:
            result = request()
            self._limiter.succeeded()
            return result
        except Exception as error:
            if classify(error).kind == "throttled":
                self._counters.add("throttled")
                self._limiter.throttled(sent_at)
            raise
        finally:
            self._limiter.release()

    def _wait_or_raise(self, errand: Errand, error: Exception, num_failed: int) -> None:
        fault = classify(error)
        if fault.kind == "timeout":
            self._counters.add("timeouts")
        bound_s = min(_LARGEST_BOUND_S, _FIRST_BOUND_S * 2 ** (num_failed - 1))
        wait_s = max(fault.retry_after_s, random.uniform(0.0, bound_s))
        message = None
        if fault.is_final:
            message = errand.tell(fault.what, 0, fault.advice)
        elif num_failed >= self._max_attempts:
            message = errand.tell(fault.what, num_failed, fault.advice)
        elif time.monotonic() + wait_s >= errand.until:
            message = _too_late(errand, fault, num_failed)
        elif self._closed.wait(wait_s):
            message = f"{errand.url} was closed; open the store again"
        if message is not None:
            self._counters.add("errors", float(fault.kind != "missing"))
            raise to_error(fault, message) from error
        self._counters.add("retries")


def _too_late(errand: Errand, fault: Fault, num_failed: int) -> str:
    asked = f", which asked to wait {fault.retry_after_s:g} s" if fault.retry_after_s else ""
    what = f"not done within {errand.limit_s:g} s; last cause: {fault.what}{asked}"
    return errand.tell(what, num_failed, f"check the network, or raise {errand.limit_name}")
