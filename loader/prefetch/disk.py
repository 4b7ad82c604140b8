# SPDX-License-Identifier: Apache-2.0
"""Stored shards on this machine's disk: fetched once, read by all of its processes.

A shard's file is found by a key over the URL, the place in its object, the size and the hashes that
the index lists, and its name holds a hash of its bytes: what is read from the disk is compared with
it every time, and then verified like what comes from the store. A file that fails is moved aside
and the shard is fetched past the cache. Only shards that were read well are published.

Of several processes that miss the same shard one fetches it; the others wait for its file, and
after `_PATIENCE_S` fetch for themselves. A disk that is full, read-only or gone costs the cache,
not the run: one warning, a counter, and all comes from the store; `strict` makes it an error.
Thread-safe.
"""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

import numpy as np
import xxhash

from ..errors import ShardError, StorageError
from ..shards.formats import read_shard
from ..shards.index import ShardInfo
from ..shards.shard import Ask, Shard
from ..storage import Store
from .disk_folder import Claim, ShardFolder, StoredFile

_PATIENCE_S = 60.0
_POLL_S = (0.002, 0.05)  # first and longest pause between two looks


class DiskCache:
    """Shards kept on disk.

    Args:
        folder: Any folder; a sub-folder of it is made and nothing else touched.
        limit_bytes: The most that it should hold; None has no limit.
        strict: Trouble with the disk is an error.

    Raises:
        StorageError: The folder cannot be used, and `strict` is set.
    """

    def __init__(
        self, folder: str | Path, *, limit_bytes: int | None = None, strict: bool = False
    ) -> None:
        self._where = str(folder)
        self._strict = strict
        self._lock = threading.Lock()
        names = ("hits", "misses", "waits", "bytes_read", "bytes_written", "errors", "quarantined")
        self._sums = dict.fromkeys(names, 0.0)
        self._folder: ShardFolder | None = None
        try:
            self._folder = ShardFolder(folder, limit_bytes)
        except OSError as error:
            self.trouble(error)

    def counters(self) -> dict[str, float]:
        """Return what was done so far; docs/cache.md says what each counts."""
        with self._lock:
            evictions = self._folder.evictions if self._folder is not None else 0
            return {**self._sums, "evictions": float(evictions)}

    def read(
        self, store: Store, info: ShardInfo, ask: Ask | None = None, *, index_digest: str = ""
    ) -> Shard:
        """Read one shard as `read_shard` does, from the disk if it is there.

        Args:
            store: The store the index was read from.
            info: The shard.
            ask: What is wanted of it.
            index_digest: Names the index. It stands in for the hash of a shard that has none, else
                a corpus that is written anew at equal sizes would be taken for the old one.

        Raises:
            StorageError: The store fails, or the disk does and `strict` is set.
            ShardError: The shard in the store is not what the index describes.
        """
        if self._folder is None:
            return read_shard(store, info, ask)
        key = key_of(store, info, index_digest)
        with CachedStore(store, self, self._folder, info, key) as through:
            try:
                shard = read_shard(through, info, ask)
            except ShardError as error:
                if through.taken is None:
                    raise
                self.quarantine(self._folder, through.taken, str(error))
                through.past()
                shard = read_shard(through, info, ask)
            through.publish()
        return shard

    def count(self, name: str, amount: float = 1.0) -> None:
        """Add to a counter."""
        with self._lock:
            self._sums[name] += amount

    def trouble(self, error: OSError) -> None:
        """Go on without the disk for this once: a warning the first time, an error if strict."""
        text = f"the shard cache in {self._where} does not work ({error})"
        if self._strict:
            raise StorageError(f"{text}; make room there, or name another folder") from error
        self.count("errors")
        if self._sums["errors"] == 1:
            warnings.warn(f"{text}; shards come from the store instead", stacklevel=4)

    def quarantine(self, folder: ShardFolder, file: StoredFile, reason: str) -> None:
        """Move a bad file aside and say so."""
        self.count("quarantined")
        try:
            target = folder.quarantine(file)
        except OSError as error:
            self.trouble(error)
            return
        warnings.warn(f"{reason}. Moved aside to {target}, it is fetched again", stacklevel=4)


class CachedStore(Store):
    """A store in which one shard, read in one piece, is read through the disk.

    `taken` is the file that was used, None if it came from the store.
    """

    def __init__(
        self, store: Store, cache: DiskCache, folder: ShardFolder, info: ShardInfo, key: str
    ) -> None:
        super().__init__(store._shared, store.url, store._prefix, is_child=True)
        self.taken: StoredFile | None = None
        self._store, self._cache, self._folder, self._key = store, cache, folder, key
        self._piece = (info.stored_name, info.start, info.stored_bytes)
        self._uses_disk = True
        self._claim: Claim | None = None
        self._fetched: tuple[np.ndarray, int] | None = None

    def __enter__(self) -> CachedStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._fetched = None
        self._release()

    def get_range_into(self, name: str, start: int, buffer: memoryview | np.ndarray) -> int:
        """Fill `buffer` as the store does, from the disk if it is the whole shard and there."""
        target = np.frombuffer(buffer, np.uint8)
        if (name, start, target.size) != self._piece:
            return self._store.get_range_into(name, start, buffer)
        size = self._find(target)
        if size is None:
            self._cache.count("misses")
            size = self._store.get_range_into(name, start, buffer)
            self._fetched = target, size
        return size

    def past(self) -> None:
        """Read from the store from now on, whatever is on the disk."""
        self._uses_disk, self.taken = False, None

    def publish(self) -> None:
        """Keep on disk what was fetched, now that it is known to be good."""
        if self._fetched is None or self._claim is None:
            return
        data, size = self._fetched
        limit = self._folder.limit_bytes
        if limit is not None and data.size > limit:
            return
        try:
            self._claim.publish(data, size)
            self._cache.count("bytes_written", data.size)
            self._release()
            self._folder.wrote(data.size)
        except OSError as error:
            self._cache.trouble(error)

    def _find(self, target: np.ndarray) -> int | None:
        """Fill `target` from the disk, or claim the right to write what will be fetched."""
        until, pause_s = time.monotonic() + _PATIENCE_S, 0.0
        try:
            while True:
                size = self._take(target)
                if size is not None or self._claim is not None:
                    return size
                self._claim = self._folder.claim(self._key)
                if self._claim is not None:
                    continue  # look once more: it may have been published since
                if time.monotonic() > until:
                    return None
                self._cache.count("waits", not pause_s)
                pause_s = min(2 * pause_s, _POLL_S[1]) or _POLL_S[0]
                time.sleep(pause_s)
        except OSError as error:
            self._cache.trouble(error)
            return None

    def _take(self, target: np.ndarray) -> int | None:
        for file in self._folder.find(self._key) if self._uses_disk else ():
            try:
                is_good = file.read_into(target)
            except FileNotFoundError:
                continue
            if is_good:
                self._release()
                self.taken = file
                self._cache.count("hits")
                self._cache.count("bytes_read", target.size)
                return file.object_bytes
            where = f"{self.url}/{self._piece[0]}"
            self._cache.quarantine(self._folder, file, f"the copy of {where} on disk is corrupt")
        return None

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.close()


def key_of(store: Store, info: ShardInfo, index_digest: str) -> str:
    """Return what a shard's file is found by: 32 hex digits."""
    hashes = info.zip_hashes if info.zip_basename else info.raw_hashes
    known = sorted(hashes.items()) or index_digest
    place = (store.url, info.stored_name, info.start, info.stored_bytes, known)
    return xxhash.xxh3_128_hexdigest(repr(place).encode("utf-8"))
