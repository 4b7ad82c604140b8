# SPDX-License-Identifier: Apache-2.0
"""What a delivered step leaves behind: the pieces in its batch, and its record for the ledger."""

from dataclasses import dataclass

import numpy as np

from .batches import Candidates, Kept
from .config import LoaderConfig
from .ledger import ProbeRecord, StepRecord
from .probes import ProbeBatch
from .steps import Step


@dataclass(frozen=True)
class BatchPieces:
    """What stands in a delivered batch of this rank, piece after piece: [k] int64 each.

    `start` is the piece's first place in the flattened local batch.
    """

    sample_id: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    start: np.ndarray


def batch_pieces(candidates: Candidates, kept: Kept) -> BatchPieces:
    """Name the pieces of a step's batch."""
    return BatchPieces(
        candidates.sample_id[kept.candidate],
        candidates.offset[kept.candidate],
        kept.length,
        kept.target,
    )


def step_record(step: Step, config: LoaderConfig) -> StepRecord:
    """Record what a step was offered, how the agents voted and what was kept."""
    rank, world_size = config.ranks
    candidates, kept, policy = step.candidates, step.kept, step.policy
    num = len(candidates.length)
    slot_tokens = config.batch_rows // config.slots * config.seq_len
    row_start = np.full(num, -1, dtype=np.int64)
    row_start[kept.candidate] = kept.target % slot_tokens
    length = candidates.length.astype(np.int32)
    length[kept.candidate] = kept.length
    num_agents = len(policy.theta) if policy is not None else 0
    votes = np.zeros((num, num_agents), np.float32)
    states = np.zeros((num, num_agents), np.int32)
    total = np.zeros(num, np.float32)
    if step.scores is not None and step.selection is not None:
        votes, states = step.scores.votes.numpy(), step.scores.states.numpy()
        total = step.selection.scores.numpy().reshape(-1)
    elif step.states is not None and policy is not None:
        states = step.states
        votes = policy.memory[np.arange(num_agents), states]
        total = (policy.theta * ((votes - policy.shift) * policy.scale)).sum(axis=1)
    return StepRecord(
        step=step.step,
        policy_version=policy.version if policy is not None else 0,
        theta=policy.theta if policy is not None else np.zeros(0),
        memory=policy.memory if policy is not None else np.zeros((0, 0)),
        slot=(candidates.slot + rank * (config.slots // world_size)).astype(np.int32),
        row_start=row_start,
        sample_id=candidates.sample_id,
        offset=candidates.offset,
        length=length,
        kept=row_start >= 0,
        votes=votes,
        states=states,
        score=total,
        lost=tuple((shard.shard_id, shard.reason) for shard in step.lost),
    )


def probe_record(probes: ProbeBatch, rewards: np.ndarray, step: int) -> ProbeRecord:
    """Record the rewards that one refresh credited."""
    agent_of = probes.agent_of if probes.agent_of is not None else np.empty(0, np.int32)
    return ProbeRecord(
        refresh=probes.refresh,
        step=step,
        sample_id=probes.sample_id,
        states=probes.states,
        weight=probes.weights,
        reward=rewards,
        agent_of=agent_of,
    )
