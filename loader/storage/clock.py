# SPDX-License-Identifier: Apache-2.0
"""How far the clock of this machine and of an endpoint are apart; a request also shows it is alive.

Source: RFC 9110, section 6.6.1 (Date).
"""

from __future__ import annotations

import time
from typing import Any

from .attempts import Errand
from .backends import has_proxy
from .connections import Connections, StatusError, parse_date
from .faults import classify, to_error
from .line import Line


def clock_skew_s(endpoint: str, timeout_s: float = 10.0) -> float | None:
    """Return by how many seconds the clock of an endpoint is ahead of ours, give or take one.

    Args:
        endpoint: A URL with scheme http or https.
        timeout_s: For the one request, which is sent once.

    Returns:
        None if the endpoint tells no date, or lies behind a proxy.

    Raises:
        StorageError: Nobody answers there.
    """
    if has_proxy(endpoint):
        return None
    connections, until = Connections(timeout_s), time.monotonic() + timeout_s
    began = time.time()
    try:
        headers = _any_headers(connections, endpoint, until)
    except Exception as error:
        fault = classify(error)
        errand = Errand(endpoint, "reach", until, timeout_s, "the timeout")
        raise to_error(fault, errand.tell(fault.what, 1, fault.advice)) from error
    finally:
        connections.close()
    date = parse_date(headers.get("Date"))
    if date is None:
        return None
    return date + 0.5 - (began + time.time()) / 2  # a Date is cut to whole seconds


def _any_headers(connections: Connections, endpoint: str, until: float) -> Any:
    try:
        with connections.request("HEAD", endpoint, {}, Line(), until) as response:
            return response.headers
    except StatusError as error:
        return error.headers
