# SPDX-License-Identifier: Apache-2.0
"""Bytes from and to a URL. What the bytes mean is nobody's business here."""

from .backends import Place
from .clock import clock_skew_s
from .faults import ForbiddenError, MissingObjectError
from .store import ShortObjectError, Store, open_store

__all__ = [
    "ForbiddenError",
    "MissingObjectError",
    "Place",
    "ShortObjectError",
    "Store",
    "clock_skew_s",
    "open_store",
]
