# SPDX-License-Identifier: Apache-2.0
"""Memory for big buffers, used again and again so that its pages are touched once.

A buffer is a plain uint8 array. When the last reference to it or to any view of it goes, its memory
comes back, by a weak reference: nobody has to release anything. Blocks have 16 sizes to a doubling,
so at most 1/16 is wasted. Memory in use and memory kept for reuse stay within the budget together;
what is in use is never refused, since its owner was admitted before (`ShardCache`).
Thread-safe. A buffer may outlive the pool: its array then owns the memory alone.

Large blocks ask for huge pages. Why: docs/cache.md, "Memory".
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import OrderedDict, deque

import numpy as np

SMALL_BYTES = 256 << 10  # below this malloc does as well, and a mapping each would be too many
_HUGE_PAGE = 2 << 20
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def block_bytes(num_bytes: int) -> int:
    """Return the size of the block that holds a buffer of `num_bytes`."""
    if num_bytes < SMALL_BYTES:
        return num_bytes
    step = 1 << ((num_bytes - 1).bit_length() - 5)
    return -(-num_bytes // step) * step


class _Loan(weakref.ref[np.ndarray]):
    """An array that is out, and the block below it; the block is None where malloc has it."""

    __slots__ = ("block", "num_bytes")
    block: mmap.mmap | None
    num_bytes: int


class BufferPool:
    """Pooled memory.

    Args:
        budget_bytes: The most that is held, as long as no more than that is in use.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._loans: dict[int, _Loan] = {}
        # Filled by the callbacks of weak references, which run anywhere, even inside our own
        # locked regions: appending is all they do.
        self._returned: deque[_Loan] = deque()
        self._free: OrderedDict[int, list[mmap.mmap]] = OrderedDict()  # by size
        self._used = self._idle = self._high_water = 0
        self._is_closed = False

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks that are in use."""
        with self._lock:
            self._take_back()
            return self._used

    @property
    def held_bytes(self) -> int:
        """Bytes in use and bytes kept for reuse."""
        with self._lock:
            self._take_back()
            return self._used + self._idle

    @property
    def high_water_bytes(self) -> int:
        """The most that was ever held."""
        return self._high_water

    def allocate(self, num_bytes: int) -> np.ndarray:
        """Return uint8 [num_bytes], writable, of undefined contents.

        Raises:
            MemoryError: The machine has no more.
        """
        if num_bytes < SMALL_BYTES:
            with self._lock:
                self._take_back()
                return self._lend(np.empty(num_bytes, np.uint8), None, num_bytes)
        size = block_bytes(num_bytes)
        with self._lock:
            self._take_back()
            block = self._block(size)
            return self._lend(np.frombuffer(block, np.uint8, num_bytes), block, size)

    def close(self) -> None:
        """Give back what nobody uses; the rest goes with the arrays that use it."""
        with self._lock:
            self._is_closed = True
            self._loans.clear()  # without a loan, an array is the only owner of its block
            self._returned.clear()
            self._free.clear()
            self._used = self._idle = 0

    def _lend(self, array: np.ndarray, block: mmap.mmap | None, num_bytes: int) -> np.ndarray:
        if self._is_closed:
            return array
        loan = _Loan(array, self._returned.append)
        loan.block, loan.num_bytes = block, num_bytes
        self._loans[id(loan)] = loan
        self._used += num_bytes
        self._high_water = max(self._high_water, self._used + self._idle)
        return array

    def _take_back(self) -> None:
        while self._returned:
            loan = self._returned.popleft()
            if self._loans.pop(id(loan), None) is None:
                continue  # lent before the pool was closed
            self._used -= loan.num_bytes
            if loan.block is not None:
                self._idle += loan.num_bytes
                self._free.setdefault(loan.num_bytes, []).append(loan.block)
                self._free.move_to_end(loan.num_bytes)
        self._trim(self.budget_bytes - self._used)

    def _block(self, size: int) -> mmap.mmap:
        block = self._pop(size)
        if block is not None:
            return block
        if self._used + self._idle + size > self.budget_bytes:
            block = self._reshape(size)
        self._trim(self.budget_bytes - self._used - size)
        return block or _map(size)

    def _pop(self, size: int) -> mmap.mmap | None:
        blocks = self._free.get(size)
        if not blocks:
            return None
        block = blocks.pop()
        self._idle -= size
        if not blocks:
            del self._free[size]
        return block

    def _reshape(self, size: int) -> mmap.mmap | None:
        """Make a block of the nearest size fit, which keeps the pages that both have.

        Another block would have to go to make room for a new one, so this one loses nothing.
        """
        nearest = min(self._free, key=lambda other: abs(other - size), default=None)
        if nearest is None:
            return None
        block = self._pop(nearest)
        assert block is not None
        try:
            block.resize(size)
        except (BufferError, OSError, SystemError, ValueError):
            return None  # its array is not gone to the last step, or it cannot be moved
        return block

    def _trim(self, room: int) -> None:
        while self._idle > max(room, 0):
            self._pop(next(iter(self._free)))


def _map(size: int) -> mmap.mmap:
    try:
        block = mmap.mmap(-1, size, flags=_PRIVATE)
    except OSError as error:
        raise MemoryError(
            f"no memory for a buffer of {size / 2**20:.1f} MiB ({error}); lower budget_bytes"
        ) from error
    if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them: small pages serve, slower
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
