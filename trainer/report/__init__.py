# SPDX-License-Identifier: Apache-2.0
"""The report of a run or of a demo: one HTML page that opens offline, and its figures as PNG."""

from .comparison import comparison_rows, print_comparison
from .page import write_report
from .runs import Run, find_runs, load_run

__all__ = [
    "Run",
    "comparison_rows",
    "find_runs",
    "load_run",
    "print_comparison",
    "write_report",
]
