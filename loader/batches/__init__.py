# SPDX-License-Identifier: Apache-2.0
"""Samples become batches: candidate tokens gathered, kept pieces packed into rows."""

from .batch import BatchLayout, Kept, keep_within, make_batch
from .device import DeviceCopy
from .gather import Candidates, gather_candidates

__all__ = [
    "BatchLayout",
    "Candidates",
    "DeviceCopy",
    "Kept",
    "gather_candidates",
    "keep_within",
    "make_batch",
]
