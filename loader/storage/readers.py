# SPDX-License-Identifier: Apache-2.0
"""How sizes and ranges are read: one attempt, which raises what went wrong as it is.

What an error means is decided in faults.py, and whether to try again in attempts.py. Paths are
relative to the bucket or the folder. One file a reader: file_reader, http_reader, client_reader.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class PastEndError(Exception):
    """An object ends before the range that was asked for; `size_bytes` is its whole length."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the object is {size_bytes} bytes")
        self.size_bytes = size_bytes


class Reader(Protocol):
    """One attempt at a size or a range. Thread-safe."""

    takes_ranges: bool  # False once a server was seen to send whole objects instead

    def head(self, path: str, until: float) -> int:
        """Return the size of an object in bytes."""
        ...

    def read(self, path: str, start: int, target: np.ndarray, until: float, exact: bool) -> int:
        """Fill `target` with the bytes from `start` on and return the size of the object.

        Raises:
            PastEndError: The object ends inside the range; if not `exact`, only when it is empty
                or ends before `start`.
        """
        ...


def wanted_bytes(size: int, start: int, num_asked: int, exact: bool) -> int:
    """Return how many of the bytes asked for an object of `size` bytes holds."""
    if size < start + num_asked and (exact or size <= start):
        raise PastEndError(size)
    return min(num_asked, size - start)
