# SPDX-License-Identifier: Apache-2.0
"""Bytes from and to a URL. What the bytes mean is nobody's business here."""

from .backends import Place
from .faults import ForbiddenError, MissingObjectError
from .store import ShortObjectError, Store, open_store

__all__ = [
    "ForbiddenError",
    "MissingObjectError",
    "Place",
    "ShortObjectError",
    "Store",
    "open_store",
]
