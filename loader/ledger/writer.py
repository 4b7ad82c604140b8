# SPDX-License-Identifier: Apache-2.0
"""The writing half of the ledger: records in, small Parquet parts out.

Records wait in memory and are published every `flush_steps` steps and whenever `flush()` is called
(at each checkpoint). A flush puts up to four objects, each published whole by the store:

    pieces-s0000000064-0000000127-a0001-r0000-p000003.parquet
    probes-..., lost-..., steps-...                              (the same name after the family)

The name carries steps (both ends included), attempt, rank and a running part number, so nothing is
ever overwritten. `steps` goes last and is the mark by which a reader knows the others are complete.
An object that could not be put is kept as it is, and put first by the next flush.
A run that resumes opens a new attempt; what it records supersedes the earlier attempts from its
first step on. Not thread-safe: one ledger a rank, used from one thread.
"""

import io
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import StateError
from .records import (
    PIECE_DTYPES,
    PROBE_DTYPES,
    ProbeRecord,
    StepRecord,
    list_column,
    owned_probes,
    owned_step,
)

if TYPE_CHECKING:
    import pyarrow


class PartStore(Protocol):
    """What the ledger needs of a store: whole objects, listed by prefix."""

    url: str

    def put(self, name: str, data: bytes) -> None:
        """Publish an object whole, or not at all."""

    def get(self, name: str) -> bytes:
        """Read one object."""

    def list(self, prefix: str = "") -> list[str]:
        """Names of the objects below the prefix."""


def part_name(family: str, first: int, last: int, attempt: int, rank: int, part: int) -> str:
    """Name a part: family, first and last step, attempt, rank, running number."""
    return f"{family}-s{first:010d}-{last:010d}-a{attempt:04d}-r{rank:04d}-p{part:06d}.parquet"


def next_attempt(store: PartStore) -> int:
    """Return the attempt number that a run about to write into this ledger takes."""
    from .reader import list_parts

    return 1 + max((part.attempt for part in list_parts(store)), default=-1)


class Ledger:
    """Writes the records of one rank of one attempt."""

    def __init__(
        self,
        store: PartStore,
        flush_steps: int = 64,
        *,
        attempt: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Open the ledger for writing.

        Args:
            store: where the parts go; nothing else may be stored below it.
            flush_steps: steps buffered before they are published.
            attempt: number of this attempt, equal on all ranks; None takes the one after those
                published. That is the same on all ranks, because a rank publishes only after a
                training step, and no rank takes a step before all have opened their ledgers.
            rank: this rank; every rank writes the pieces of its own slots.
            world_size: ranks that write. A step counts once all of them have published it.
        """
        if flush_steps < 1:
            raise ValueError(f"flush_steps is {flush_steps}, it must be at least 1")
        self.store = store
        self.flush_steps = flush_steps
        self.attempt = next_attempt(store) if attempt is None else attempt
        self.rank = rank
        self.world_size = world_size
        self._steps: list[StepRecord] = []
        self._probes: list[ProbeRecord] = []
        self._credited: list[list[int]] = []
        self._since_last_step: list[int] = []
        self._lost: list[tuple[int, int, str]] = []  # step, shard, reason
        self._known_lost: set[int] = set()
        self._last_step = -1
        self._num_parts = 0
        self._unsent: list[tuple[str, bytes]] = []  # parts by name, the next one first

    def append(self, record: StepRecord) -> None:
        """Take the record of one step; publish when `flush_steps` are waiting.

        A record is taken also where publishing fails: the next flush tries again.
        """
        self.hold(record)
        self.flush_due()

    def hold(self, record: StepRecord) -> None:
        """Take the record of one step and publish nothing.

        The arrays are copied, so the caller may reuse its buffers. Steps must increase.
        """
        if record.step <= self._last_step:
            raise StateError(
                f"ledger {self.store.url}: step {record.step} after step {self._last_step}; "
                "a run that goes back must open a new Ledger (a new attempt)"
            )
        self._steps.append(owned_step(record))
        self._last_step = int(record.step)
        self._lost += [
            (self._last_step, *lost) for lost in record.lost if lost[0] not in self._known_lost
        ]
        self._known_lost |= {shard for shard, _ in record.lost}
        self._credited.append(self._since_last_step)
        self._since_last_step = []

    def flush_due(self) -> None:
        """Publish if `flush_steps` are waiting, or if publishing has failed before."""
        if len(self._steps) >= self.flush_steps or self._unsent:
            self.flush()

    def credit(self, record: ProbeRecord) -> None:
        """Take the rewards of one refresh; they are published with the next flush."""
        self._probes.append(owned_probes(record))
        self._since_last_step.append(int(record.refresh))

    def flush(self) -> None:
        """Publish everything that waits. Called at each checkpoint."""
        self._send()  # what a flush before this one was left with
        if not self._steps and not self._probes:
            return
        known = [record.step for record in self._steps]
        known += [record.step for record in self._probes]
        tables = [
            ("pieces", self._steps, self._pieces_table),
            ("probes", self._probes, self._probes_table),
            ("lost", self._lost, self._lost_table),
            ("steps", self._steps, self._steps_table),
        ]
        for family, waiting, table in tables:
            if waiting:
                self._unsent.append(self._render(family, min(known), max(known), table()))
        self._num_parts += 1
        self._steps, self._probes, self._credited, self._lost = [], [], [], []
        self._send()

    def close(self) -> None:
        """Publish what waits. The ledger may be closed twice; the store is its owner's to close."""
        self.flush()

    def _send(self) -> None:
        while self._unsent:
            self.store.put(*self._unsent[0])
            del self._unsent[0]

    def _render(
        self, family: str, first: int, last: int, table: "pyarrow.Table"
    ) -> tuple[str, bytes]:
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        name = part_name(family, first, last, self.attempt, self.rank, self._num_parts)
        return name, sink.getvalue()

    def _pieces_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        steps = self._steps
        counts = [len(record.sample_id) for record in steps]
        columns = {
            "step": np.repeat(np.array([r.step for r in steps], np.int64), counts),
            "attempt": np.full(sum(counts), self.attempt, np.int32),
        }
        for name in PIECE_DTYPES:
            column = _joined(steps, name)
            columns[name] = list_column(column) if column.ndim == 2 else column
        return pa.table(columns)

    def _steps_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        num = len(self._steps)
        return pa.table({
            "step": np.array([r.step for r in self._steps], np.int64),
            "attempt": np.full(num, self.attempt, np.int32),
            "rank": np.full(num, self.rank, np.int32),
            "world_size": np.full(num, self.world_size, np.int32),
            "policy_version": np.array([r.policy_version for r in self._steps], np.int64),
            "theta": pa.array([r.theta for r in self._steps], pa.list_(pa.float64())),
            "memory": pa.array([r.memory.reshape(-1) for r in self._steps], pa.list_(pa.float64())),
            "refreshes": pa.array(self._credited, pa.list_(pa.int32())),
        })

    def _probes_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        counts = [len(record.sample_id) for record in self._probes]
        columns = {
            "refresh": np.repeat(np.array([r.refresh for r in self._probes], np.int32), counts),
            "step": np.repeat(np.array([r.step for r in self._probes], np.int64), counts),
            "attempt": np.full(sum(counts), self.attempt, np.int32),
        }
        for name in PROBE_DTYPES:
            column = _joined(self._probes, name)
            columns[name] = list_column(column) if column.ndim == 2 else column
        return pa.table(columns)

    def _lost_table(self) -> "pyarrow.Table":
        import pyarrow as pa

        step, shard, reason = zip(*self._lost, strict=True)
        return pa.table({
            "step": pa.array(step, pa.int64()),
            "attempt": np.full(len(step), self.attempt, np.int32),
            "shard": pa.array(shard, pa.int64()),
            "reason": pa.array(reason, pa.string()),
        })


def _joined(records: "list[StepRecord] | list[ProbeRecord]", name: str) -> np.ndarray:
    return np.concatenate([getattr(record, name) for record in records])
