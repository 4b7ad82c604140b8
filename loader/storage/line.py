# SPDX-License-Identifier: Apache-2.0
"""A handle on one request, by which another thread can end it.

To cut a line shuts the socket down, so that whoever waits on it comes back at once. A line that was
let go of is never cut: its connection may serve another request by then.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class CutError(OSError):
    """The request was ended from outside."""


class Line:
    """The connection of one request while the request is under way. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the line was cut; None if it was not."""
        return self._reason

    def attach(self, sock: socket.socket) -> None:
        """Hold the socket of the request from now on.

        Raises:
            CutError: The line was cut before.
        """
        with self._lock:
            if self._reason is not None:
                raise CutError(self._reason)
            self._socket = sock

    def detach(self) -> bool:
        """Let go of the socket; False if it was cut and cannot be used again."""
        with self._lock:
            self._socket = None
            return self._reason is None

    def cut(self, reason: str) -> None:
        """End the request; the first reason stays."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            if self._socket is not None:
                # Past SSLSocket.shutdown, which takes the TLS object from under the reader.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
