# SPDX-License-Identifier: Apache-2.0
"""Samples become batches: candidate tokens gathered, kept pieces packed into rows."""

from .batch import BatchLayout, Kept, keep_within, make_batch
from .gather import Candidates, gather_candidates
from .device import DeviceCopy

__all__ = [
    "BatchLayout",
    "Candidates",
    "DeviceCopy",
    "Kept",
    "gather_candidates",
    "keep_within",
    "make_batch",
]
