# SPDX-License-Identifier: Apache-2.0
"""Records of the ledger: one for the batch of a step, one for the probes of a refresh.

Legend: n pieces or probes, A agents, S states of the agent that has most; A = 0: nothing votes.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step was offered and what it kept.

    The arrays of a piece are parallel, in the order in which the candidates were offered within
    their slot. `row_start` is the piece's first position in its slot's token buffer, -1 if it was
    not kept. A step of a plain stream has no agents and keeps all pieces but those of lost shards.
    """

    step: int
    """Training step, counted from 0."""
    policy_version: int
    theta: Array
    """[A] float64"""
    memory: Array
    """[A, S] float64, padded"""
    slot: Array
    """[n] int32"""
    row_start: Array
    """[n] int64, tokens"""
    sample_id: Array
    """[n] int64"""
    offset: Array
    """[n] int64, the piece's first token within its sample"""
    length: Array
    """[n] int32, tokens"""
    kept: Array
    """[n] bool"""
    votes: Array
    """[n, A] float32"""
    states: Array
    """[n, A] int32"""
    score: Array
    """[n] float32, the total by which the candidates were ordered"""
    lost: tuple[tuple[int, str], ...] = ()
    """Shards that this step did without, and why: (shard, reason)."""


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """The rewards that one refresh credited."""

    refresh: int
    step: int
    """Training steps done when the rewards were credited."""
    sample_id: Array
    """[n] int64"""
    states: Array
    """[n, A] int32"""
    weight: Array
    """[n] float64"""
    reward: Array
    """[n] float64, per token"""
    agent_of: Array = field(default_factory=lambda: np.empty(0, np.int32))
    """[n] int32, the agent the probe was drawn for; empty where all agents share the probes"""


PIECE_DTYPES = {
    "slot": np.int32,
    "row_start": np.int64,
    "sample_id": np.int64,
    "offset": np.int64,
    "length": np.int32,
    "kept": np.bool_,
    "votes": np.float32,
    "states": np.int32,
    "score": np.float32,
}
PROBE_DTYPES = {
    "sample_id": np.int64,
    "states": np.int32,
    "weight": np.float64,
    "reward": np.float64,
    "agent_of": np.int32,
}


def owned_step(record: StepRecord) -> StepRecord:
    """Return a copy of a step's record that owns its arrays, with the ledger's dtypes.

    Raises:
        ValueError: when arrays that must be parallel are not.
    """
    num_agents = len(record.theta)
    arrays = _owned(record, PIECE_DTYPES, num_agents, f"step {record.step}")
    memory = np.array(record.memory, np.float64)
    arrays |= {"theta": np.array(record.theta, np.float64), "memory": memory}
    return StepRecord(
        step=int(record.step),
        policy_version=int(record.policy_version),
        lost=record.lost,
        **arrays,
    )


def owned_probes(record: ProbeRecord) -> ProbeRecord:
    """Return a copy of a refresh's record that owns its arrays, with the ledger's dtypes.

    Raises:
        ValueError: when arrays that must be parallel are not.
    """
    num_agents = np.shape(record.states)[1]
    if len(record.agent_of) == 0:
        shared = np.full(len(record.sample_id), -1, np.int32)
        values = {f.name: getattr(record, f.name) for f in fields(record)}
        record = ProbeRecord(**(values | {"agent_of": shared}))
    arrays = _owned(record, PROBE_DTYPES, num_agents, f"refresh {record.refresh}")
    return ProbeRecord(refresh=int(record.refresh), step=int(record.step), **arrays)


def list_column(rows: Array) -> "pyarrow.Array":
    """Turn rows [n, k] into one Arrow list column of n lists of k values (k = 0 included)."""
    import pyarrow as pa

    num_rows, width = rows.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)))


def _owned(
    record: StepRecord | ProbeRecord, dtypes: dict[str, Any], num_agents: int, where: str
) -> dict[str, Array]:
    num = len(record.sample_id)
    arrays = {name: np.array(getattr(record, name), dtype) for name, dtype in dtypes.items()}
    for name, array in arrays.items():
        shape = (num, num_agents) if name in {"votes", "states"} else (num,)
        if array.shape != shape:
            raise ValueError(
                f"ledger record of {where}: {name} has shape {array.shape}, expected {shape} "
                f"({num} sample ids, {num_agents} agents)"
            )
    return arrays
