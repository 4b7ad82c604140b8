# SPDX-License-Identifier: Apache-2.0
"""Probe documents: drawn by refresh number, stratified over the agents' joint cells."""

from .draw import ProbeBatch, ProbePlan, draw_probes
from .stratify import stratify

__all__ = ["ProbeBatch", "ProbePlan", "draw_probes", "stratify"]
