# SPDX-License-Identifier: Apache-2.0
"""Samples become batches: candidate tokens gathered, kept pieces packed into rows."""

from .batch import FIELDS, BatchLayout, Kept, Placement, keep_within, make_batch
from .device import DeviceCopy
from .gather import Candidates, Place, gather_candidates

__all__ = [
    "FIELDS",
    "BatchLayout",
    "Candidates",
    "DeviceCopy",
    "Kept",
    "Place",
    "Placement",
    "gather_candidates",
    "keep_within",
    "make_batch",
]
