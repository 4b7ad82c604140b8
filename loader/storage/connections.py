# SPDX-License-Identifier: Apache-2.0
"""HTTP requests over connections that stay open, with nothing between the socket and the caller.

A connection serves one request at a time and is used again, the last one given back first. One
that the server had closed meanwhile is replaced at once; that is no failed attempt. What is not 2xx
is a StatusError with all that a later decision needs. No redirect is followed here.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .line import Line

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 5.0
_MAX_IDLE_S = 20.0  # below the keep-alive of common servers; a silent drop would cost a timeout
_MAX_ERROR_BYTES = 1 << 16
_GONE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class StatusError(Exception):
    """An answer that is not 2xx.

    Attributes:
        status: Such as 503.
        code: The `<Code>` of an XML body, or the reason phrase.
        headers: As received; `get` knows no case.
    """

    def __init__(self, status: int, code: str, headers: Any) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.headers = headers

    @property
    def retry_after_s(self) -> float:
        """How long the server asks to wait, 0 if it does not say."""
        return parse_retry_after(self.headers.get("Retry-After"))


class Connections:
    """Open connections, by scheme and host. Thread-safe.

    Args:
        timeout_s: How long a connection may be silent.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._idle: dict[tuple[str, str], list[tuple[http.client.HTTPConnection, float]]] = {}
        self._context: ssl.SSLContext | None = None
        self._is_closed = False

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str], line: Line, until: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and hand out its answer, the body still to be read.

        Args:
            method: GET or HEAD; it may be sent twice.
            url: With its query.
            headers: Sent with it.
            line: Holds the connection until the block is left.
            until: No wait goes beyond this, on the clock of `time.monotonic`; a body that trickles
                in is ended by cutting the line.

        Raises:
            StatusError: The answer is not 2xx.
            OSError: No connection, a reset, or silence.
        """
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection, response = self._send(origin, method, target, headers, line, until)
        is_reusable = False
        try:
            if not 200 <= response.status < 300:
                raise _status_error(response)
            yield response
            is_reusable = response.isclosed() and not response.will_close
        finally:
            if line.detach() and is_reusable and not self._is_closed:
                self._idle.setdefault(origin, []).append((connection, time.monotonic()))
            else:
                connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when its request ends."""
        self._is_closed = True
        for idle in list(self._idle.values()):
            while idle:
                idle.pop()[0].close()

    def _send(
        self,
        origin: tuple[str, str],
        method: str,
        target: str,
        headers: Mapping[str, str],
        line: Line,
        until: float,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._take_idle(origin)
        while True:
            is_fresh = connection is None
            connection = connection or self._new(origin)
            try:
                _connect(connection, until)
                connection.sock.settimeout(_wait_s(self._timeout_s, until))
                line.attach(connection.sock)
                connection.request(method, target, headers=dict(headers))
                return connection, connection.getresponse()
            except BaseException as error:
                is_cut = not line.detach()
                connection.close()
                if is_fresh or is_cut or not isinstance(error, _GONE):
                    raise
                connection = None

    def _take_idle(self, origin: tuple[str, str]) -> http.client.HTTPConnection | None:
        idle = self._idle.get(origin, [])
        with contextlib.suppress(IndexError):
            while True:
                connection, since = idle.pop()
                if time.monotonic() - since < _MAX_IDLE_S:
                    return connection
                connection.close()
        return None

    def _new(self, origin: tuple[str, str]) -> http.client.HTTPConnection:
        scheme, host = origin
        if scheme == "http":
            return http.client.HTTPConnection(host)
        if self._context is None:
            import ssl

            self._context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, context=self._context)


def parse_retry_after(text: str | None) -> float:
    """Return the seconds of a Retry-After header, given as seconds or as an HTTP date."""
    if not text:
        return 0.0
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        return float(text)
    return max(0.0, (parse_date(text) or 0.0) - time.time())


def parse_date(text: str | None) -> float | None:
    """Return the seconds since 1970 of an HTTP date; None if it is none."""
    try:
        date: datetime = parsedate_to_datetime(text or "")
    except (TypeError, ValueError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()


def _connect(connection: Any, until: float) -> None:
    if connection.sock is None:
        connection.timeout = _wait_s(CONNECT_TIMEOUT_S, until)
        connection.connect()


def _wait_s(wait_s: float, until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this request is over")
    return min(wait_s, left)


def _status_error(response: http.client.HTTPResponse) -> StatusError:
    body = response.read(_MAX_ERROR_BYTES).decode("utf-8", "replace")
    found = re.search(r"<Code>([\w.]+)</Code>", body)
    code = found.group(1) if found else response.reason or "(no reason given)"
    return StatusError(response.status, code, response.headers)
