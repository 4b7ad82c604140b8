# SPDX-License-Identifier: Apache-2.0
"""A place of named objects: read whole, read by ranges into the caller's buffer, written, listed.

Over obstore. Big objects are read as ranges of 8 MiB by a few threads, each range copied once into
the caller's buffer; the client never concatenates a whole object. Writing publishes at once or not
at all: by rename in a folder, by the final request in a bucket.
Thread-safe. Not usable in a process forked after first use; a clear error says so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import obstore

from ..errors import StorageError
from .backends import Backend, bucket_prefix, find_backend
from .faults import attempt, is_out_of_range

RANGE_BYTES = 8 << 20
NUM_RANGE_THREADS = 4
MAX_GET_BYTES = 1 << 30


class ShortObjectError(StorageError):
    """An object ends before the range that was asked for; `size_bytes` is its whole length."""

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


def open_store(url: str, options: Mapping[str, str] | None = None) -> Store:
    """Open a folder or a bucket; no request is made yet.

    Args:
        url: A path, `file:///path` or `s3://bucket/prefix`.
        options: For `s3://`: endpoint, region, access_key_id, secret_access_key, session_token,
            skip_signature, allow_http (by itself for http:// endpoints), virtual_hosted_style (off
            by itself for custom endpoints), timeout_s. Ignored for folders.

    Raises:
        ConfigError: The URL or an option is not understood.
    """
    backend = find_backend(url, options)
    prefix = bucket_prefix(url) if backend.folder is None else ""
    return Store(_Shared(backend), backend.url.rstrip("/"), prefix)


class _Shared:
    """What a store and its children have in common: the client and the threads for ranges."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def client(self, *, create: bool = False) -> Any:
        if self._is_closed:
            raise StorageError(f"{self.backend.url} was closed; open the store again")
        return self.backend.client(create=create)

    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(NUM_RANGE_THREADS, thread_name_prefix="moot-range")
            return self._pool

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


class Store:
    """Named objects below a URL. Made by `open_store`, or by `child` of another store."""

    def __init__(self, shared: _Shared, url: str, prefix: str, *, is_child: bool = False) -> None:
        self.url = url
        self._shared = shared
        self._prefix = prefix
        self._is_child = is_child

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def head(self, name: str) -> int:
        """Return the size of an object in bytes."""
        path = self._path(name)
        meta = self._request(name, "look up", lambda client: obstore.head(client, path))
        return int(meta["size"])

    def exists(self, name: str) -> bool:
        """Tell whether an object exists; a refusal is an error, not a no."""
        try:
            self.head(name)
        except StorageError as error:
            folder = self._shared.backend.folder
            is_missing = folder is not None and not folder.exists()
            if is_missing or isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def get(self, name: str) -> bytes:
        """Return a small object whole; above 1 GiB it is refused."""
        path = self._path(name)

        def request(client: Any) -> bytes:
            result = obstore.get(client, path)
            if result.meta["size"] > MAX_GET_BYTES:
                raise StorageError(f"{self._where(name)} is larger than 1 GiB; read it by ranges")
            return bytes(result.bytes())

        return self._request(name, "read", request)

    def get_range_into(self, name: str, start: int, buffer: memoryview | np.ndarray) -> int:
        """Fill `buffer` with the bytes of an object from `start` on.

        Args:
            name: The object.
            start: First byte, >= 0.
            buffer: Writable, contiguous; filled to its end, in ranges of 8 MiB by 4 threads.

        Returns:
            The size of the whole object in bytes.

        Raises:
            ShortObjectError: The object ends inside the range.
            StorageError: The request failed; the contents of `buffer` are undefined.
        """
        target = np.frombuffer(buffer, np.uint8)
        if start < 0:
            raise ValueError(f"a range starts at byte 0 or later, not at {start}")
        if target.size <= RANGE_BYTES:
            return self._fill(name, start, target) if target.size else self.head(name)
        cuts = range(0, target.size, RANGE_BYTES)
        futures = [
            self._shared.pool().submit(self._fill, name, start + at, target[at : at + RANGE_BYTES])
            for at in cuts
        ]
        wait(futures)  # all of them: a range still under way would write into the caller's buffer
        return [future.result() for future in futures][0]

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write an object whole: readers see the old one or the new one, nothing between."""
        path = self._path(name)
        self._request(name, "write", lambda client: obstore.put(client, path, data), create=True)

    def delete(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""
        path = self._path(name)
        if self.exists(name):
            self._request(name, "delete", lambda client: obstore.delete(client, path))

    def list(self, prefix: str = "") -> list[str]:
        """Return the names that start with `prefix`, sorted, at any depth."""
        base = f"{self._prefix}/" if self._prefix else ""
        folder = (base + prefix).rpartition("/")[0] or None

        def request(client: Any) -> list[str]:
            return [meta["path"] for part in obstore.list(client, folder) for meta in part]

        paths = self._request("", "list", request)
        return sorted(path[len(base) :] for path in paths if path.startswith(base + prefix))

    def child(self, prefix: str) -> Store:
        """Return the store of what lies below `prefix`; closing it closes nothing."""
        path = self._path(prefix.strip("/"))
        return Store(self._shared, self._where(prefix.strip("/")), path, is_child=True)

    def close(self) -> None:
        """Join the threads; requests after this are errors."""
        if not self._is_child:
            self._shared.close()

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is not the name of an object below {self.url}")
        return f"{self._prefix}/{name}" if self._prefix else name

    def _request(self, name: str, action: str, request: Any, *, create: bool = False) -> Any:
        client = self._shared.client(create=create)
        return attempt(self._where(name), action, lambda: request(client))

    def _fill(self, name: str, start: int, target: np.ndarray) -> int:
        path, stop = self._path(name), start + target.size

        def request(client: Any) -> int:
            try:
                result = obstore.get(client, path, options={"range": (start, stop)})
            except Exception as error:
                if not is_out_of_range(error):
                    raise
                raise self._short(name, stop, self.head(name)) from error
            size_bytes = int(result.meta["size"])
            if size_bytes < stop:
                raise self._short(name, stop, size_bytes)
            data = np.frombuffer(memoryview(result.bytes()), np.uint8)
            if data.size != target.size:
                raise OSError(f"the body held {data.size} bytes of {target.size}")
            np.copyto(target, data)  # releases the GIL, unlike a slice of a memoryview
            return size_bytes

        return self._request(name, "read", request)

    def _short(self, name: str, stop: int, size_bytes: int) -> ShortObjectError:
        where = self._where(name)
        return ShortObjectError(f"{where} is {size_bytes} bytes, {stop} are needed", size_bytes)
