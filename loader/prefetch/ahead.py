# SPDX-License-Identifier: Apache-2.0
"""Steps made ahead of the one that is asked for, by one thread, in order.

The thread makes step t only once `ready(t)` says that the policy of step t is settled, so what a
step holds never depends on timing. An error while making a step is raised where that step is
asked for.
"""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import StorageError

Item = TypeVar("Item")
_SHORT_S = 0.1
_BURST_S = 0.002  # the longest that a made step is held back for those behind it


class Ahead(Generic[Item]):
    """A bounded queue of made steps.

    Args:
        make: Makes the item of a step; called by one thread, step after step.
        ready: Whether a step may be made now. It must stay true once it is true.
        first: The first step.
        depth: How many made steps may wait.
        timeout_s: How long a step may be waited for.
    """

    def __init__(
        self,
        make: Callable[[int], Item],
        ready: Callable[[int], bool],
        *,
        first: int,
        depth: int,
        timeout_s: float = 900.0,
    ) -> None:
        self._make = make
        self._ready = ready
        self._depth = depth
        self._timeout_s = timeout_s
        self._next = first
        self._made: deque[Item | BaseException] = deque()
        self._wanted = 1  # made steps that the one who waits is woken for
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="moot-ahead", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many made steps wait."""
        return len(self._made)

    @property
    def has_ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def notify(self) -> None:
        """Say that `ready` may answer otherwise now."""
        with self._changed:
            self._changed.notify_all()

    def is_blocked(self) -> bool:
        """Whether nothing is made and the next step is not ready."""
        with self._changed:
            return not self._made and not self._ready(self._next)

    def peek(self) -> Item:
        """Return the next item and leave it in the queue."""
        with self._changed:
            if not self._made and not self._closed:
                self._wait()
            return self._first()

    def take(self) -> Item:
        """Return the next item, waiting for it."""
        item = self.peek()
        with self._changed:
            self._made.popleft()
            self._changed.notify_all()
        return item

    def close(self) -> None:
        """Stop and join the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def abandon(self) -> threading.Thread:
        """Stop without waiting; the thread, which is returned, ends behind the step it is at."""
        self._closed = True
        if self._changed.acquire(timeout=_SHORT_S):
            self._changed.notify_all()
            self._changed.release()
        return self._thread

    def _wait(self) -> None:
        """Wait for an item; past the deadline say where the thread that makes it stands.

        Who takes steps faster than they are made is woken for several at a time: to be woken for
        each costs both threads more than the step does.
        """
        self._wanted = self._depth
        self._changed.wait_for(self._has_burst, _BURST_S)
        self._wanted = 1
        if self._changed.wait_for(lambda: self._made or self._closed, self._timeout_s):
            return
        frame = sys._current_frames().get(self._thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  it has ended\n"
        raise StorageError(
            f"no batch in {self._timeout_s:g} s (batch_timeout_s); the thread that makes them is "
            f"at:\n{stack}"
        )

    def _first(self) -> Item:
        if not self._made:
            raise RuntimeError("the loader was closed while a batch was asked for")
        item = self._made[0]
        if isinstance(item, BaseException):
            raise item
        return item

    def _has_burst(self) -> bool:
        """Whether as many are made as are waited for, or no more can be."""
        if len(self._made) >= self._wanted or self._closed:
            return True
        return bool(self._made) and not self._may_make()

    def _may_make(self) -> bool:
        return self._closed or (len(self._made) < self._depth and self._ready(self._next))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_make)
                if self._closed:
                    return
                step = self._next
            try:
                item: Item | BaseException = self._make(step)
            except BaseException as error:  # raised where the step is asked for
                item = error
            with self._changed:
                self._made.append(item)
                self._next = step + 1
                if isinstance(item, BaseException):
                    self._changed.notify_all()
                    return
                if self._has_burst():
                    self._changed.notify_all()
