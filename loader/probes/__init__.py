# SPDX-License-Identifier: Apache-2.0
"""Probe documents: of a refresh, stratified over the agents' joint cells; of a unit, fixed."""

from .draw import ProbeBatch, ProbePlan, draw_probes
from .stratify import stratify
from .units import UnitProbes, draw_unit_probes

__all__ = [
    "ProbeBatch",
    "ProbePlan",
    "UnitProbes",
    "draw_probes",
    "draw_unit_probes",
    "stratify",
]
