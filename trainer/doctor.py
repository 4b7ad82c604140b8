# SPDX-License-Identifier: Apache-2.0
"""What `moot doctor` looks at: whether a URL can be read, as who, how fast; else what is wrong.

Each look needs the ones before it: the examination ends at the first thing that is wrong, which
comes with what to do about it. It writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..loader.errors import MootError, StorageError
from ..loader.storage import MissingObjectError, Place, Store, clock_skew_s, open_store

INDEX_NAME = "index.json"
MAX_SKEW_S = 300.0  # S3 refuses requests whose signature is 15 minutes off; Azure likewise
_QUICK = {"attempts": "2", "timeout_s": "10", "range_timeout_s": "30", "deadline_s": "60"}
_NUM_RANGES = 4
_RANGE_BYTES = 8 << 20
_NUM_LISTED = 1000


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        text: What was found; if it is wrong, also what to do.
        is_wrong: Whether the URL cannot be used like this.
    """

    name: str
    text: str
    is_wrong: bool = False


def examine(url: str, options: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found, the last one wrong if something is.

    Args:
        url: Whatever `open_store` takes.
        options: Of the store; limits that are not given are set so that a dead end is found fast.
    """
    try:
        store = open_store(url, {**_QUICK, **options})
    except MootError as error:
        yield Finding("URL", str(error), is_wrong=True)
        return
    try:
        yield from _look(store, url, options)
    except MootError as error:
        yield Finding("answer", str(error), is_wrong=True)
    finally:
        store.close()


def _look(store: Store, url: str, options: Mapping[str, str]) -> Iterator[Finding]:
    place = store.place()
    yield Finding("URL", place.url)
    yield Finding("endpoint", place.endpoint)
    yield Finding("addressing", place.style)
    if place.bucket:
        yield Finding("bucket", place.bucket)
    yield Finding("prefix", place.prefix or "(none)")
    yield Finding("identity", place.identity)
    yield Finding("reading", place.reading)
    if "://" in place.endpoint:
        clock = _clock(place.endpoint)
        yield clock
        if clock.is_wrong:
            return
    name, finding = _find_object(store, place, url, options)
    yield finding
    if name is not None:
        yield from _read(store, name)


def _clock(endpoint: str) -> Finding:
    try:
        skew_s = clock_skew_s(endpoint)
    except StorageError as error:
        return Finding("clock", f"{error}; is the endpoint right?", is_wrong=True)
    if skew_s is None:
        return Finding("clock", "the endpoint tells no date")
    side = "ahead of" if skew_s > 0 else "behind"
    text = f"the endpoint's is {abs(skew_s):.0f} s {side} ours"
    if abs(skew_s) < 2:
        return Finding("clock", "equal to the endpoint's")
    if abs(skew_s) > MAX_SKEW_S:
        return Finding("clock", f"{text}: signatures are refused; set this machine's clock", True)
    return Finding("clock", text)


def _find_object(
    store: Store, place: Place, url: str, options: Mapping[str, str]
) -> tuple[str | None, Finding]:
    """Return the name of an object to read, None if there is none, and what that means."""
    try:
        size = store.head(INDEX_NAME)
        return INDEX_NAME, Finding("index.json", f"{size:,} bytes")
    except MissingObjectError:
        pass
    if "http" in place.url.split("://")[0]:
        text = f"not found below {place.url}, and a web server cannot be listed; check the path"
        return None, Finding("index.json", text, is_wrong=True)
    names = store.list(limit=_NUM_LISTED)
    if names:
        more = " or more" if len(names) == _NUM_LISTED else ""
        text = f"not found, so this is no finished corpus; {len(names)}{more} objects are here"
        return names[0], Finding("index.json", text)
    return None, Finding("prefix", _nothing_below(place, url, options), is_wrong=True)


def _nothing_below(place: Place, url: str, options: Mapping[str, str]) -> str:
    """Say what the bucket holds instead of the prefix that was asked for."""
    text = f"nothing lies below {place.url}; "
    if not place.prefix:
        return text + "the place is right, but nothing was written to it"
    root = open_store(url.split("://")[0] + f"://{place.bucket}", {**_QUICK, **options})
    try:
        first = sorted({name.split("/")[0] for name in root.list(limit=_NUM_LISTED)})
    finally:
        root.close()
    if not first:
        return text + f"the bucket {place.bucket} is empty"
    return text + f"the bucket holds {', '.join(first[:8])}; check the prefix"


def _read(store: Store, name: str) -> Iterator[Finding]:
    size = store.head(name)
    if not size:
        yield Finding("one byte", f"{name} is empty, so there is nothing to read")
        return
    began = time.perf_counter()
    store.get_range_into(name, size - 1, np.empty(1, np.uint8))
    yield Finding("one byte", f"read of {name} in {(time.perf_counter() - began) * 1000:.1f} ms")
    part = max(1, min(_RANGE_BYTES, size // _NUM_RANGES))
    starts = [min(i * part, size - part) for i in range(_NUM_RANGES)]
    began = time.perf_counter()
    with ThreadPoolExecutor(_NUM_RANGES) as pool:
        for read in [pool.submit(_range, store, name, start, part) for start in starts]:
            read.result()
    seconds = time.perf_counter() - began
    rate = _NUM_RANGES * part / seconds / 1e6
    note = "" if part == _RANGE_BYTES else "; the object is small, a large one reads faster"
    yield Finding("throughput", f"{_NUM_RANGES} ranges of {part:,} bytes: {rate:,.1f} MB/s{note}")
    yield _trouble(store.counters())


def _range(store: Store, name: str, start: int, num_bytes: int) -> None:
    store.get_range_into(name, start, np.empty(num_bytes, np.uint8))


def _trouble(counters: Mapping[str, float]) -> Finding:
    names = ("retries", "throttled", "timeouts")
    seen = ", ".join(f"{name} {counters[name]:.0f}" for name in names if counters[name])
    return Finding("trouble", seen or f"none in {counters['requests']:.0f} requests")
