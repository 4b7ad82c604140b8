# SPDX-License-Identifier: Apache-2.0
"""What a store and its children have in common in one process: reader, threads, counters.

A forked child gets all of this anew, and touches no lock, thread or connection of its parent.
Stores of one bucket share what is known of it: how many requests it takes, how late is late.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import StorageError
from .attempts import Attempts, Errand
from .backends import Backend
from .client_reader import ClientReader
from .connections import Connections
from .counters import Counters
from .file_reader import FileReader
from .hedging import Hedging
from .http_reader import HttpReader
from .limiter import Limiter
from .race import Racer
from .readers import Reader
from .urls import plain_urls, signed_urls

Result = TypeVar("Result")

NUM_RANGE_THREADS = 16
NUM_FILE_THREADS = 4


class Endpoint:
    """What requests to one bucket of one endpoint have taught this process."""

    def __init__(self, max_concurrency: int) -> None:
        self.limiter = Limiter(max_concurrency)
        self.hedging = Hedging()


_endpoints: weakref.WeakValueDictionary[tuple, Endpoint] = weakref.WeakValueDictionary()


class Live:
    """The part of a store that belongs to one process. Thread-safe; made by `Shared.live`."""

    def __init__(self, backend: Backend, closed: threading.Event) -> None:
        self.counters = Counters()
        self.endpoint = None if backend.scheme in ("file", "memory") else _endpoint(backend)
        limiter = self.endpoint.limiter if self.endpoint else None
        self.attempts = Attempts(limiter, self.counters, backend.limits.attempts, closed)
        hedging = self.endpoint.hedging if self.endpoint and backend.limits.hedge else None
        self._racer = Racer(limiter or Limiter(64), hedging, self.counters)
        self._connections = Connections(backend.limits.timeout_s)
        self._backend = backend
        self._reader: Reader | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def reader(self) -> Reader:
        """Return the reader, made at first use."""
        with self._lock:
            if self._reader is None:
                self._reader = self._make_reader()
            return self._reader

    def pool(self) -> ThreadPoolExecutor:
        """Return the threads for ranges of big reads."""
        with self._lock:
            if self._pool is None:
                num = NUM_FILE_THREADS if self._backend.scheme == "file" else NUM_RANGE_THREADS
                self._pool = ThreadPoolExecutor(num, thread_name_prefix="moot-range")
            return self._pool

    def close(self) -> None:
        """Join the threads, close the connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        self._racer.cut_all()
        if pool is not None:
            pool.shutdown(wait=True)  # ranges that have not begun fail at once: the store is closed
        self._racer.close()
        self._connections.close()

    def _make_reader(self) -> Reader:
        backend = self._backend

        def count_request() -> None:
            self.counters.add("requests")

        if backend.folder is not None:
            return FileReader(backend.folder, count_request)
        if not backend.reads_directly:
            return ClientReader(backend.client, self._racer, count_request)
        opened = backend.opened()
        urls = plain_urls(opened.base) if opened.base else signed_urls(backend.client)
        headers = opened.headers or {}
        return HttpReader(urls, self._connections, self._racer, headers, count_request)


class Shared:
    """What a store and its children have in common."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._closed = threading.Event()
        self._lives: dict[int, Live] = {}

    def live(self) -> Live:
        """Return this process's part.

        Raises:
            StorageError: The store was closed.
        """
        if self._closed.is_set():
            raise StorageError(f"{self.backend.url} was closed; open the store again")
        pid = os.getpid()
        live = self._lives.get(pid)
        # setdefault, not a lock: a fork may have copied a lock that a lost thread held.
        return live or self._lives.setdefault(pid, Live(self.backend, self._closed))

    def counters(self) -> dict[str, float]:
        """Return the sums of this process."""
        live = self._lives.get(os.getpid())
        return (live.counters if live else Counters()).snapshot()

    def run(self, errand: Errand, request: Callable[[], Result]) -> Result:
        """Return `request()`, tried as `Attempts.run` does."""
        return self.live().attempts.run(errand, request)

    def close(self) -> None:
        """End every wait, join the threads; every request after this is an error."""
        self._closed.set()
        live = self._lives.get(os.getpid())
        if live is not None:
            live.close()


def _endpoint(backend: Backend) -> Endpoint:
    key = (
        os.getpid(),
        backend.scheme,
        backend.options.get("endpoint"),
        backend.bucket,
        backend.limits.max_concurrency,
    )
    return _endpoints.setdefault(key, Endpoint(backend.limits.max_concurrency))
