# SPDX-License-Identifier: Apache-2.0
"""Streams: the shard sets that a corpus is mixed from, and the stores they lie in.

A stream is a row in a table: its store is opened when it is first needed, and streams of one bucket
share one client, its threads and connections.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from ..storage import ForbiddenError, Store, open_store

_BUCKETS = ("s3", "gs", "az", "http", "https")


@dataclass(frozen=True)
class Stream:
    """A shard set and its weight; at most one of proportion, repeat and choose.

    Attributes:
        url: A folder or bucket of shards.
        proportion: Its share of what is read, in proportion to the other streams.
        repeat: How many times it is read in an epoch.
        choose: How many of its samples are read in an epoch.
        format: Read only shards of this format; None takes what is there.
        options: What the format needs to be told, such as the dtype of raw tokens.
        storage_options: As for `open_store`, on top of those of the corpus.
    """

    url: str
    proportion: float | None = None
    repeat: float | None = None
    choose: int | None = None
    format: str | None = None
    options: Mapping[str, Any] | None = None
    storage_options: Mapping[str, str] | None = None


class StreamStores:
    """The stores of streams, opened one by one. Thread-safe.

    Args:
        streams: In the order of their numbers.
        storage_options: As for `open_store`, for all of them.
    """

    def __init__(
        self, streams: Sequence[Stream], storage_options: Mapping[str, str] | None = None
    ) -> None:
        self._streams = streams
        self._options = dict(storage_options or {})
        self._stores: dict[int, Store] = {}
        self._roots: dict[tuple, Store] = {}
        self._lock = threading.Lock()

    def get(self, stream_id: int) -> Store:
        """Return the store of a stream; no request is made.

        Raises:
            ConfigError: Its URL or an option is not understood.
        """
        with self._lock:
            store = self._stores.get(stream_id)
            if store is None:
                store = self._stores[stream_id] = self._open(self._streams[stream_id])
            return store

    def counters(self) -> dict[str, float]:
        """Return what the stores did so far, summed; see `Store.counters`."""
        with self._lock:
            roots = list(self._roots.values())
        sums: dict[str, float] = {}
        for root in roots:
            for name, value in root.counters().items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def close(self) -> None:
        """Close every store."""
        with self._lock:
            roots = list(self._roots.values())
        for root in roots:
            root.close()

    def _open(self, stream: Stream) -> Store:
        options = self._options | dict(stream.storage_options or {})
        root_url, prefix = _split(stream.url) if len(self._streams) > 1 else (stream.url, "")
        key = (root_url, tuple(sorted(options.items())))
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = open_store(root_url, options)
        return root.child(prefix) if prefix else root


def warn_refused(error: ForbiddenError) -> None:
    """Say that an object which need not be there was refused, and is taken as missing."""
    warnings.warn(
        f"{error}; taken as missing, since S3 answers so where keys may not list the bucket",
        stacklevel=3,
    )


def _split(url: str) -> tuple[str, str]:
    """Cut a URL into what one client serves and what lies below; ("the url", "") otherwise."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    is_plain = not (parts.query or parts.fragment) and "//" not in prefix
    if parts.scheme.lower() not in _BUCKETS or not parts.netloc or not prefix or not is_plain:
        return url, ""
    is_web = parts.scheme.lower() in ("http", "https")
    return f"{parts.scheme}://{parts.netloc}", unquote(prefix) if is_web else prefix
