# SPDX-License-Identifier: Apache-2.0
"""Objects of an obstore client; each range is copied once into the caller's buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import obstore

from .faults import is_out_of_range
from .race import Racer
from .readers import PastEndError, wanted_bytes


class ClientReader:
    """Reads through a client, each range in a thread that may be left behind. Thread-safe."""

    takes_ranges = True

    def __init__(
        self, client: Callable[[], Any], racer: Racer, count_request: Callable[[], None]
    ) -> None:
        self._client = client
        self._racer = racer
        self._count_request = count_request

    def head(self, path: str, until: float) -> int:
        """Return the size of an object in bytes."""
        self._count_request()
        return int(obstore.head(self._client(), path)["size"])

    def read(self, path: str, start: int, target: np.ndarray, until: float, exact: bool) -> int:
        """Fill `target` from an object."""
        client = self._client()

        def fetch() -> tuple[Any, int]:
            options: Any = {"range": (start, start + target.size)}
            result = obstore.get(client, path, options=options)
            return result.bytes(), int(result.meta["size"])

        try:
            body, size = self._racer.apart(fetch, target.size if exact else 0, until)
        except Exception as error:
            if not is_out_of_range(error):
                raise
            raise PastEndError(self.head(path, until)) from error
        wanted = wanted_bytes(size, start, target.size, exact)
        data = np.frombuffer(memoryview(body), np.uint8)
        if data.size != wanted:
            raise OSError(f"the body held {data.size} bytes of {wanted}")
        np.copyto(target[:wanted], data)  # releases the GIL, unlike a slice of a memoryview
        return size
