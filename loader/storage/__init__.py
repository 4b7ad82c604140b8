# SPDX-License-Identifier: Apache-2.0
"""Bytes from and to a URL. What the bytes mean is nobody's business here."""

from .store import ShortObjectError, Store, open_store

__all__ = ["ShortObjectError", "Store", "open_store"]
