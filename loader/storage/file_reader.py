# SPDX-License-Identifier: Apache-2.0
"""Files below a folder, read by position into the caller's buffer; nothing survives a call."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import StorageError
from .readers import wanted_bytes

_CHUNK_BYTES = 8 << 20


class FileReader:
    """Files below a folder, read by position into the buffer."""

    takes_ranges = True

    def __init__(self, folder: Path, count_request: Callable[[], None]) -> None:
        self._folder = folder
        self._count_request = count_request

    def head(self, path: str, until: float) -> int:
        """Return the size of a file in bytes."""
        self._count_request()
        try:
            return _file_size(os.stat(self._folder / path), path)
        except (FileNotFoundError, NotADirectoryError):
            self._check_folder()
            raise

    def read(self, path: str, start: int, target: np.ndarray, until: float, exact: bool) -> int:
        """Fill `target` from a file."""
        self._count_request()
        try:
            file = os.open(self._folder / path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._check_folder()
            raise
        try:
            size = _file_size(os.fstat(file), path)
            wanted = wanted_bytes(size, start, target.size, exact)
            view, at = target.data[:wanted], 0
            while at < wanted:
                read = os.preadv(file, [view[at : at + _CHUNK_BYTES]], start + at)
                if not read:
                    raise OSError(f"the file ended after {start + at} of {size} bytes")
                at += read
            return size
        finally:
            os.close(file)

    def _check_folder(self) -> None:
        if not self._folder.is_dir():
            what = "is a file, not a folder" if self._folder.exists() else "does not exist"
            raise StorageError(f"folder {self._folder} {what}; check the path or write to it first")


def _file_size(found: os.stat_result, path: str) -> int:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a folder, not an object")
    return found.st_size
