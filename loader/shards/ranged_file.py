# SPDX-License-Identifier: Apache-2.0
"""An object of a store as a seekable file, for libraries that read files: pyarrow, gzip.

Only what is asked for is fetched. Small reads are served from a block read ahead, so a footer and
the headers around it are one request. The object's errors come out unchanged, also through pyarrow.
Not thread-safe: one file, one reader (pyarrow takes a lock of its own).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..storage import Store

READ_AHEAD_BYTES = 1 << 16


class RangedFile(io.RawIOBase):
    """A read-only file over ranges of one object.

    Args:
        store: Where the object lies; closing the file leaves it open.
        name: The object.
        size: Its length in bytes if it is known, which saves a request.
        read_ahead: The least that one request fetches, in bytes.

    Raises:
        StorageError: The object is not there, here or at any later read.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        size: int | None = None,
        read_ahead: int = READ_AHEAD_BYTES,
    ) -> None:
        super().__init__()
        self._store = store
        self.name = name
        self.size = store.head(name) if size is None else size
        self._read_ahead = read_ahead
        self._position = 0
        self._block = np.empty(0, np.uint8)
        self._block_start = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def fetch(self, start: int, num_bytes: int) -> None:
        """Read a range that lies inside the file, from which later reads are served."""
        block = np.empty(num_bytes, np.uint8)
        self._store.get_range_into(self.name, start, block)
        self._block, self._block_start = block, start

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; no request is made."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position on, as far as the file goes; return the bytes read."""
        target = np.frombuffer(buffer, np.uint8)
        target = target[: max(0, self.size - self._position)]
        if not target.size:
            return 0
        np.copyto(target, self._view(target.size))
        self._position += target.size
        return target.size

    def read_buffer(self, size: int = -1) -> memoryview:
        """Read without a copy, as pyarrow does; fewer bytes at the end of the file."""
        left = max(0, self.size - self._position)
        size = left if size < 0 else min(size, left)
        view = self._view(size)
        self._position += size
        return memoryview(view)  # type: ignore[arg-type]

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes; fewer at the end of the file."""
        return bytes(self.read_buffer(-1 if size is None else size))

    def _view(self, size: int) -> np.ndarray:
        """Return uint8 [size] from the position on, which lies inside the file."""
        begin = self._position - self._block_start
        if begin >= 0 and begin + size <= self._block.size:
            return self._block[begin : begin + size]
        if not size:
            return np.empty(0, np.uint8)
        start = self._position
        if size < self._read_ahead and self.size - start < self._read_ahead:
            start = max(0, self.size - self._read_ahead)  # the tail, where footers are
        block = np.empty(min(max(size, self._read_ahead), self.size - start), np.uint8)
        self._store.get_range_into(self.name, start, block)
        if block.size <= self._read_ahead:
            self._block, self._block_start = block, start
        return block[self._position - start :][:size]
