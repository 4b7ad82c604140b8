# SPDX-License-Identifier: Apache-2.0
"""The URL under which an object is read: plain, or signed by the cloud's client and kept a while.

A signed URL is valid for an hour and used for half of it. One that was used for a minute or more
may have outlived the credentials that signed it: a refusal is then answered with a fresh one, once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import obstore

VALID_S = 3600.0
KEPT_S = 1800.0
AGED_S = 60.0
_MAX_KEPT = 4096


@dataclass(frozen=True)
class ObjectURL:
    """Where to send a request, and when that was found out (`time.monotonic`)."""

    url: str
    made_at: float

    @property
    def is_aged(self) -> bool:
        """Tell whether a refusal may be due to the age of the URL."""
        return time.monotonic() - self.made_at >= AGED_S


class URLs:
    """URLs of objects, the last few thousand remembered. Thread-safe.

    Args:
        make: (method, path) to a URL.
        home: Scheme and host of plain URLs, the only ones to see an Authorization header.
    """

    def __init__(self, make: Callable[[str, str], str], home: str | None = None) -> None:
        self._make = make
        self._home = home
        self._kept: OrderedDict[tuple[str, str], ObjectURL] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, method: str, path: str) -> ObjectURL:
        """Return the URL of an object for GET or HEAD."""
        with self._lock:
            found = self._kept.get((method, path))
        if found is not None and time.monotonic() - found.made_at < KEPT_S:
            return found
        return self.keep(method, path, self._make(method, path))

    def keep(self, method: str, path: str, url: str) -> ObjectURL:
        """Remember where an object is, from now on."""
        made = ObjectURL(url, time.monotonic())
        with self._lock:
            self._kept[method, path] = made
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def forget(self, method: str, path: str) -> None:
        """Make the URL anew when it is asked for next."""
        with self._lock:
            self._kept.pop((method, path), None)

    def is_home(self, url: str) -> bool:
        """Tell whether a URL, perhaps the target of a redirect, lies on the host we were given."""
        parts = urlsplit(url)
        return self._home == f"{parts.scheme}://{parts.netloc}"


def plain_urls(base: str) -> URLs:
    """Return URLs below `base`, unsigned."""
    parts = urlsplit(base)
    home = f"{parts.scheme}://{parts.netloc}"
    return URLs(lambda method, path: f"{base}/{quote(path)}", home)


def signed_urls(client: Callable[[], Any]) -> URLs:
    """Return URLs that are signed with the credentials of an obstore client."""
    valid = timedelta(seconds=VALID_S)

    def sign(method: Any, path: str) -> str:
        return obstore.sign(client(), method, path, valid)

    return URLs(sign)
