# SPDX-License-Identifier: Apache-2.0
"""The ledger: what was offered, how the agents voted, what was kept, and why, step by step.

`Ledger` writes small Parquet parts into a store, `read_ledger` reads them back as three tables, and
`batches` rebuilds the exact sequence of pieces that every step trained on.
"""

from .reader import LedgerView, RecordedBatch, batches, read_ledger
from .records import ProbeRecord, StepRecord
from .writer import Ledger, next_attempt

__all__ = [
    "Ledger",
    "LedgerView",
    "ProbeRecord",
    "RecordedBatch",
    "StepRecord",
    "batches",
    "next_attempt",
    "read_ledger",
]
