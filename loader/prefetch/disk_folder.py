# SPDX-License-Identifier: Apache-2.0
"""A folder of stored shards that the processes of a machine share without a server.

    moot-shards/MARKER                      it is ours: without it nothing is written or deleted
    moot-shards/5f/<key>-<size>-<xxh3>.shard    bytes as stored; the name says what they must be
    moot-shards/parts/<key>.part            being written, under an flock that dies with its process
    moot-shards/quarantine/                 files that were not what their names say

A file appears by rename, whole. Reading takes no lock that a writer would wait for. Whatever a
killed process leaves is an unlocked part, which the next one to open the folder removes. The time
of modification is the time of last use. Files of other names are never touched.
Errors of the file system are raised as they are (OSError); `DiskCache` decides what they mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import xxhash

SUBFOLDER = "moot-shards"
MARKER = "MARKER"
_PARTS, _QUARANTINE = "parts", "quarantine"
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{1,16}-[0-9a-f]{16}\.shard")
_PART_NAME = re.compile(r"[0-9a-f]{32}\.part")
_SCAN_EVERY = 64  # files are counted anew each time 1/64 of the limit was written
_KEEP = 15 / 16  # of the limit, once it was passed


@dataclass(frozen=True)
class StoredFile:
    """A published file: where it is, and what its name says about its bytes."""

    path: Path
    object_bytes: int
    """The length of the object of which this is a part, or the whole."""
    digest: int
    """xxh3_64 of the bytes."""

    def read_into(self, buffer: np.ndarray) -> bool:
        """Fill `buffer`, uint8; False if the file is not what its name says.

        Raises:
            FileNotFoundError: It was evicted meanwhile.
        """
        with self.path.open("rb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # who evicts passes over it
            if os.fstat(file.fileno()).st_size != buffer.size:
                return False
            at = 0
            while at < buffer.size:
                count = file.readinto(buffer.data[at:])
                if not count:
                    return False
                at += count
            with contextlib.suppress(OSError):  # a folder that is only read
                os.utime(file.fileno())
        return xxhash.xxh3_64_intdigest(buffer.data) == self.digest


class Claim:
    """The right to write one file; others see that it is taken until `close`."""

    def __init__(self, folder: ShardFolder, key: str, part: Path, fd: int) -> None:
        self._folder, self._key, self._part, self._fd = folder, key, part, fd
        self._is_published = False

    def publish(self, data: np.ndarray, object_bytes: int) -> None:
        """Write the bytes and let the file appear."""
        digest = xxhash.xxh3_64_intdigest(data.data)
        view, at = data.data, 0
        while at < len(view):
            at += os.write(self._fd, view[at:])
        target = self._folder.path_of(self._key, object_bytes, digest)
        with contextlib.suppress(FileExistsError):
            target.parent.mkdir()
        self._part.rename(target)
        self._is_published = True

    def close(self) -> None:
        """Let others have it; without `publish`, nothing stays."""
        if not self._is_published:
            with contextlib.suppress(OSError):
                self._part.unlink()
        os.close(self._fd)


class ShardFolder:
    """The files of one folder.

    Args:
        folder: Where; ours is a sub-folder of it.
        limit_bytes: The most that the files should take, least recently used ones go first. With
            several processes it may be passed by 1/64 of it each. None has no limit.

    Raises:
        OSError: It cannot be made, or what is there is not ours.
    """

    def __init__(self, folder: str | Path, limit_bytes: int | None) -> None:
        self.root = Path(folder).expanduser().absolute() / SUBFOLDER
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._unseen_bytes: int | None = None  # written since files were counted; None: never
        self.evictions = 0
        self._open()

    def path_of(self, key: str, object_bytes: int, digest: int) -> Path:
        """Return where a file of these bytes lies."""
        return self.root / key[:2] / f"{key}-{object_bytes:x}-{digest:016x}.shard"

    def find(self, key: str) -> list[StoredFile]:
        """Return the files of a key: none or one, or several if the object was replaced."""
        try:
            names = os.listdir(self.root / key[:2])
        except FileNotFoundError:
            return []
        return [
            StoredFile(self.root / key[:2] / name, int(parts[1], 16), int(parts[2], 16))
            for name in names
            if name.startswith(key) and _NAME.fullmatch(name)
            for parts in (name.removesuffix(".shard").split("-"),)
        ]

    def claim(self, key: str) -> Claim | None:
        """Take the right to write a file, None while somebody else has it."""
        part = self.root / _PARTS / f"{key}.part"
        fd = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            if _lock_same(fd, part):
                os.ftruncate(fd, 0)
                return Claim(self, key, part, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def quarantine(self, file: StoredFile) -> Path:
        """Move a file aside and return where it is now."""
        target = self.root / _QUARANTINE / file.path.name
        with contextlib.suppress(FileNotFoundError):
            file.path.replace(target)
        return target

    def wrote(self, num_bytes: int) -> None:
        """Count what was written, and evict once that is due."""
        if self.limit_bytes is None:
            return
        with self._lock:
            if self._unseen_bytes is not None:
                self._unseen_bytes += num_bytes
                if self._unseen_bytes * _SCAN_EVERY < self.limit_bytes:
                    return
            self._unseen_bytes = 0
        self._evict(self.limit_bytes)

    def _evict(self, limit_bytes: int) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= limit_bytes:
            return
        for _, size, path in files[:-1]:  # what was used last stays, however tight the limit
            if total <= limit_bytes * _KEEP:
                return
            if _unlink_unused(path):
                total -= size
                self.evictions += 1

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield (time of last use, bytes, path) of all files that are ours."""
        folders = (self.root.glob("[0-9a-f][0-9a-f]/*.shard"), (self.root / _QUARANTINE).iterdir())
        for path in chain(*folders):
            if not _NAME.fullmatch(path.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield found.st_mtime_ns, found.st_size, path

    def _open(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / MARKER
        if not marker.exists():
            if any(name != MARKER for name in os.listdir(self.root)):
                raise FileExistsError(f"{self.root} was not made by moot: it has no file {MARKER}")
            marker.write_text("Shards kept by moot. This folder can be deleted at any time.\n")
        for name in (_PARTS, _QUARANTINE):
            (self.root / name).mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            self._sweep()

    def _sweep(self) -> None:
        """Remove the parts of processes that are gone."""
        for name in os.listdir(self.root / _PARTS):
            if _PART_NAME.fullmatch(name):
                _unlink_unused(self.root / _PARTS / name)


def _lock_same(fd: int, path: Path) -> bool:
    """Lock a file if nobody has, and if it is still what lies at `path`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _unlink_unused(path: Path) -> bool:
    """Remove a file that nobody reads or writes; tell whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        if not _lock_same(fd, path):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)
