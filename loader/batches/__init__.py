# SPDX-License-Identifier: Apache-2.0
"""Samples become batches: candidate tokens gathered, kept pieces packed into rows."""

from .batch import (
    FIELDS,
    IGNORED,
    BatchLayout,
    Kept,
    Placement,
    expand,
    keep_within,
    make_batch,
    make_narrow,
)
from .device import DeviceCopy
from .gather import Candidates, Place, gather_candidates

__all__ = [
    "FIELDS",
    "IGNORED",
    "BatchLayout",
    "Candidates",
    "DeviceCopy",
    "Kept",
    "Place",
    "Placement",
    "expand",
    "gather_candidates",
    "keep_within",
    "make_batch",
    "make_narrow",
]
