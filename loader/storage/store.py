# SPDX-License-Identifier: Apache-2.0
"""A place of named objects: read whole, read by ranges into the caller's buffer, written, listed.

Big objects are read as ranges of 4 to 8 MiB by a few threads, from the socket or the file into the
caller's buffer; a buffer is never written after the call that was given it. Every request is tried
again when that makes sense, and none waits longer than the limits of the store say. Writing
publishes at once or not at all: by rename in a folder, by the final request in a bucket.
Thread-safe. After a fork, files and web servers can be read by the child; buckets say what to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import obstore

from ..errors import StorageError
from .attempts import Errand
from .backends import Place, find_backend
from .faults import MissingObjectError
from .live import Shared
from .readers import PastEndError

Result = TypeVar("Result")

RANGE_BYTES = 8 << 20
MAX_GET_BYTES = 1 << 30


class ShortObjectError(StorageError):
    """An object ends before the range that was asked for; `size_bytes` is its whole length."""

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


def open_store(url: str, options: Mapping[str, str] | None = None) -> Store:
    """Open a place of objects; no request is made yet.

    Args:
        url: A path, `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`,
            `az://container/prefix`, `http(s)://host/path` or `memory://name/prefix`.
        options: Text to text, as docs/storage.md lists them by scheme; what they leave out is taken
            from the environment variables that every tool of that cloud knows.

    Raises:
        ConfigError: The URL or an option is not understood.
    """
    backend = find_backend(url, options)
    return Store(Shared(backend), backend.url.rstrip("/"), backend.prefix)


class Store:
    """Named objects below a URL. Made by `open_store`, or by `child` of another store."""

    def __init__(self, shared: Shared, url: str, prefix: str, *, is_child: bool = False) -> None:
        self.url = url
        self._shared = shared
        self._prefix = prefix
        self._is_child = is_child

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def head(self, name: str) -> int:
        """Return the size of an object in bytes."""
        path, errand = self._path(name), self._errand(name, "look up")
        reader = self._shared.live().reader()
        return self._shared.run(errand, lambda: reader.head(path, errand.until))

    def exists(self, name: str) -> bool:
        """Tell whether an object exists; a refusal is an error, not a no."""
        folder = self._shared.backend.folder
        try:
            self.head(name)
        except MissingObjectError:
            return False
        except StorageError:
            if folder is None or folder.exists():
                raise
            return False
        return True

    def get(self, name: str) -> bytes:
        """Return an object whole; above 1 GiB it is refused."""
        first, sizes = np.empty(RANGE_BYTES, np.uint8), _Sizes()
        try:
            size = self._fill(name, 0, first, self._deadline(), sizes, exact=False)
        except ShortObjectError as error:
            if error.size_bytes:
                raise
            return b""
        if size <= first.size:
            return first[:size].tobytes()
        if size > MAX_GET_BYTES:
            raise StorageError(f"{self._where(name)} is larger than 1 GiB; read it by ranges")
        whole = np.empty(size, np.uint8)
        whole[: first.size] = first
        self._fill_all(name, first.size, whole[first.size :], sizes)
        return whole.tobytes()

    def get_range_into(self, name: str, start: int, buffer: memoryview | np.ndarray) -> int:
        """Fill `buffer` with the bytes of an object from `start` on.

        Args:
            name: The object.
            start: First byte, >= 0.
            buffer: Writable, contiguous; filled to its end.

        Returns:
            The size of the whole object in bytes.

        Raises:
            ShortObjectError: The object ends inside the range.
            StorageError: The request failed; the contents of `buffer` are undefined.
            ValueError: `start` is negative, or `buffer` is read-only.
        """
        target = np.frombuffer(buffer, np.uint8)
        if not target.flags.writeable:
            raise ValueError("a range is read into a writable buffer; this one is read-only")
        if start < 0:
            raise ValueError(f"a range starts at byte 0 or later, not at {start}")
        return self._fill_all(name, start, target, _Sizes()) if target.size else self.head(name)

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write an object whole: readers see the old one or the new one, nothing between."""
        path = self._path(name)
        self._client("write", name, lambda client: obstore.put(client, path, data), create=True)

    def delete(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""
        path = self._path(name)
        if self.exists(name):
            self._client("delete", name, lambda client: obstore.delete(client, path))

    def list(self, prefix: str = "", limit: int | None = None) -> list[str]:
        """Return the names that start with `prefix`, sorted, at any depth.

        Args:
            prefix: Cut anywhere, not only at a slash.
            limit: Stop asking once there are this many, whichever they are.
        """
        base = f"{self._prefix}/" if self._prefix else ""
        folder = (base + prefix).rpartition("/")[0] or None

        def request(client: Any) -> list[str]:
            found: list[str] = []
            for part in obstore.list(client, folder):
                paths = (meta["path"] for meta in part)
                found += [path[len(base) :] for path in paths if path.startswith(base + prefix)]
                if limit is not None and len(found) >= limit:
                    break
            return sorted(found)[:limit]

        return self._client("list", "", request)

    def child(self, prefix: str) -> Store:
        """Return the store of what lies below `prefix`; closing it closes nothing."""
        path = self._path(prefix.strip("/"))
        return Store(self._shared, self._where(prefix.strip("/")), path, is_child=True)

    def counters(self) -> dict[str, float]:
        """Return what this store, its parent and its children have done in this process.

        requests, bytes, retries, throttled, hedged, hedges_won, timeouts, errors, and wait_s,
        seconds spent waiting for a free place; docs/storage.md says what each counts.
        """
        return self._shared.counters()

    def place(self) -> Place:
        """Return what the URL stands for: endpoint, bucket, who asks; no request is made."""
        backend = self._shared.backend
        opened = backend.opened()
        is_direct = backend.folder is not None or backend.reads_directly
        reading = "straight into the buffer" if is_direct else "through the client"
        bucket = "" if backend.scheme in ("http", "https") else backend.bucket
        return Place(
            self.url, opened.endpoint, bucket, self._prefix, opened.style, opened.identity, reading
        )

    def close(self) -> None:
        """Join the threads, close the connections; requests after this are errors."""
        if not self._is_child:
            self._shared.close()

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is not the name of an object below {self.url}")
        return f"{self._prefix}/{name}" if self._prefix else name

    def _deadline(self) -> float:
        return time.monotonic() + self._shared.backend.limits.deadline_s

    def _errand(self, name: str, action: str) -> Errand:
        limit_s = self._shared.backend.limits.deadline_s
        return Errand(self._where(name), action, self._deadline(), limit_s, "deadline_s")

    def _client(
        self, action: str, name: str, request: Callable[[Any], Result], *, create: bool = False
    ) -> Result:
        """Run a request through the client, in this thread."""
        live, client = self._shared.live(), self._shared.backend.client(create=create)

        def once() -> Result:
            live.counters.add("requests")
            return request(client)

        return self._shared.run(self._errand(name, action), once)

    def _fill_all(self, name: str, start: int, target: np.ndarray, sizes: _Sizes) -> int:
        """Fill a buffer of any length, in ranges of equal length if it is long."""
        live, until = self._shared.live(), self._deadline()
        num = -(-target.size // RANGE_BYTES) if live.reader().takes_ranges else 1
        if num == 1:
            return self._fill(name, start, target, until, sizes)
        cuts = [target.size * i // num for i in range(num + 1)]
        futures = [
            live.pool().submit(self._fill, name, start + a, target[a:b], until, sizes)
            for a, b in pairwise(cuts)
        ]
        # All of them: a range still under way would write into the caller's buffer.
        done, left = wait(futures, return_when=FIRST_EXCEPTION)
        for future in left:
            future.cancel()
        wait(left)
        failed = [future for future in done if future.exception() is not None]
        return (failed or futures)[0].result()

    def _fill(
        self,
        name: str,
        start: int,
        target: np.ndarray,
        until: float,
        sizes: _Sizes,
        exact: bool = True,
    ) -> int:
        """Fill a buffer with one range and return the size of the object."""
        path, where, stop = self._path(name), self._where(name), start + target.size
        limits, live = self._shared.backend.limits, self._shared.live()
        limit_s = limits.range_timeout_s * max(1.0, target.size / RANGE_BYTES)
        end, limit_name = time.monotonic() + limit_s, "range_timeout_s"
        if until < end:
            end, limit_s, limit_name = until, limits.deadline_s, "deadline_s"
        span = (start, stop) if exact else None
        errand = Errand(where, "read", end, limit_s, limit_name, span)
        reader = live.reader()

        def request() -> int:
            try:
                size = reader.read(path, start, target, end, exact)
            except PastEndError as error:
                size = error.size_bytes
                sizes.check(where, size)
                raise ShortObjectError(
                    f"{where} is {size} bytes, {stop} are needed", size
                ) from error
            sizes.check(where, size)
            return size

        size = live.attempts.run(errand, request)
        live.counters.add("bytes", min(target.size, size - start))
        return size


class _Sizes:
    """The size of an object as the requests of one call saw it: it must not change between them."""

    def __init__(self) -> None:
        self._seen: int | None = None
        self._lock = threading.Lock()

    def check(self, where: str, size: int) -> None:
        with self._lock:
            seen = self._seen = size if self._seen is None else self._seen
        if seen != size:
            raise StorageError(
                f"{where} was replaced while it was read: {seen} bytes, then {size}; read it again"
            )
