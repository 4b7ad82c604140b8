# SPDX-License-Identifier: Apache-2.0
"""Objects behind plain or signed URLs, received straight into the caller's buffer.

Between the socket and the buffer nothing is copied, and status, headers and the length of a body
are seen as they are. A server that answers a range with the whole object is read all the same, by
skipping to the range.
Source: RFC 9110, section 14 (range requests).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from urllib.parse import urljoin

import numpy as np

from ..errors import StorageError
from .connections import Connections, StatusError
from .line import Line
from .race import Racer
from .readers import PastEndError, wanted_bytes
from .urls import ObjectURL, URLs

_CHUNK_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class HttpReader:
    """Reads over HTTP(S). Thread-safe.

    Args:
        urls: Where an object is read.
        connections: Over which.
        racer: Sends the second reads.
        headers: Sent with every request, but not to another host after a redirect.
    """

    def __init__(
        self,
        urls: URLs,
        connections: Connections,
        racer: Racer,
        headers: Mapping[str, str],
        count_request: Callable[[], None],
    ) -> None:
        self.takes_ranges = True
        self._urls = urls
        self._connections = connections
        self._racer = racer
        self._headers = {"User-Agent": "moot", **headers}
        self._count_request = count_request

    def head(self, path: str, until: float) -> int:
        """Return the size of an object in bytes."""
        self._count_request()

        def size_of(response: HTTPResponse) -> int:
            response.read()
            return _content_length(response)

        try:
            return self._exchange("HEAD", path, {}, Line(), until, size_of)
        except StatusError as error:
            if error.status != 403:
                raise
        # An answer to HEAD has no body and so no reason: a GET is refused with one.
        try:
            return self.read(path, 0, np.empty(1, np.uint8), until, exact=False)
        except PastEndError as error:
            return error.size_bytes

    def read(self, path: str, start: int, target: np.ndarray, until: float, exact: bool) -> int:
        """Fill `target` from an object."""

        def once(buffer: np.ndarray, line: Line) -> int:
            asked = {"Range": f"bytes={start}-{start + buffer.size - 1}"}

            def receive(response: HTTPResponse) -> int:
                return self._receive(response, start, buffer, exact)

            try:
                return self._exchange("GET", path, asked, line, until, receive)
            except StatusError as error:
                if error.status != 416:
                    raise
                total = _total(error.headers.get("Content-Range"))
                raise PastEndError(self.head(path, until) if total is None else total) from error

        return self._racer.in_place(once, target, target.size if exact else 0, until)

    def _exchange(
        self,
        method: str,
        path: str,
        asked: Mapping[str, str],
        line: Line,
        until: float,
        receive: Callable[[HTTPResponse], int],
    ) -> int:
        """Send one request, redirects followed, an aged URL made anew once when it is refused."""
        place = self._urls.get(method, path)
        for _ in range(_MAX_REDIRECTS):
            headers = {**self._headers, **asked}
            if not self._urls.is_home(place.url):
                headers.pop("Authorization", None)
            try:
                with self._connections.request(method, place.url, headers, line, until) as response:
                    return receive(response)
            except StatusError as error:
                place = self._next_place(method, path, place, error)
        raise StorageError(f"{path}: more than {_MAX_REDIRECTS} redirects; check the URL")

    def _next_place(
        self, method: str, path: str, place: ObjectURL, error: StatusError
    ) -> ObjectURL:
        location = error.headers.get("Location")
        if error.status in _REDIRECTS and location:
            return self._urls.keep(method, path, urljoin(place.url, location))
        if error.status in (401, 403) and place.is_aged:
            self._urls.forget(method, path)
            return self._urls.get(method, path)
        raise error

    def _receive(self, response: HTTPResponse, start: int, buffer: np.ndarray, exact: bool) -> int:
        # rclone serve s3 says 200 to a range and sends the range: the header tells, not the status.
        if response.status == 206 or "Content-Range" in response.headers:
            size = _check_content_range(response, start)
            _fill(response, buffer[: wanted_bytes(size, start, buffer.size, exact)])
            return size
        size = _content_length(response)  # 200: all of it, whatever was asked for
        self.takes_ranges = self.takes_ranges and size <= buffer.size
        wanted = wanted_bytes(size, start, buffer.size, exact)
        _skip(response, start)
        _fill(response, buffer[:wanted])
        return size


def _content_length(response: HTTPResponse) -> int:
    length = response.headers.get("Content-Length")
    if length is None or not length.strip().isdigit():
        raise StorageError(
            f"the server names no Content-Length ({response.status}, GET or HEAD); "
            "serve the files as they are, without compression on the way"
        )
    return int(length)


def _total(content_range: str | None) -> int | None:
    found = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", (content_range or "").strip())
    return int(found.group(1)) if found else None


def _check_content_range(response: HTTPResponse, start: int) -> int:
    """Return the size of the object; the answer must begin where it was asked to."""
    text = response.headers.get("Content-Range") or ""
    total = _total(text)
    if total is None or not text.strip().startswith(f"bytes {start}-"):
        raise OSError(f"the server answered a range from byte {start} with {text!r}")
    return total


def _fill(response: HTTPResponse, target: np.ndarray) -> None:
    view, at = target.data, 0
    while at < target.size:
        read = response.readinto(view[at : at + _CHUNK_BYTES])
        if not read:
            raise OSError(f"the body ended after {at} of {target.size} bytes")
        at += read


def _skip(response: HTTPResponse, num_bytes: int) -> None:
    scratch = np.empty(min(num_bytes, _CHUNK_BYTES), np.uint8)
    for at in range(0, num_bytes, _CHUNK_BYTES):
        _fill(response, scratch[: num_bytes - at])
