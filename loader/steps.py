# SPDX-License-Identifier: Apache-2.0
"""How one step is made: cut candidates, fetch, score, select, pack.

Everything here is a function of (corpus, settings, step, policy): neither timing nor the world
size enters. Each rank cuts the candidates of all slots, because the cursor is global, and
fetches, scores and packs those of its own slots.
"""

import math
import time
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch

from ..triton_kernels import DocumentScores, Selection, document_scores, select
from ..triton_kernels.dispatch import Implementation
from ._core import mix64
from .agents import AgentSet
from .batches import (
    BatchLayout,
    Candidates,
    DeviceCopy,
    Kept,
    gather_candidates,
    keep_within,
    make_batch,
)
from .batches.gather import Place
from .config import LoaderConfig
from .console import Console, Policy
from .order import Cursor, Pieces, SlotLayout
from .prefetch import Source

Result = TypeVar("Result", DocumentScores, Selection)


@dataclass(frozen=True)
class Step:
    """A made step: the batch, and what it was made of.

    `table` is the cursor behind this step, `room` the tokens that the local batch can hold.
    `scores`, `selection` and `policy` are None without a console.
    """

    step: int
    batch: dict[str, torch.Tensor]
    copied: torch.cuda.Event | None
    table: np.ndarray
    candidates: Candidates
    kept: Kept
    scores: DocumentScores | None
    selection: Selection | None
    policy: Policy | None
    select_s: float
    room: int


def slot_layout(config: LoaderConfig, source: Source) -> SlotLayout:
    """Settle how the global batch is cut, candidates included."""
    rows = config.batch_rows // config.slots
    if config.console is None:
        return SlotLayout(
            num_slots=config.slots, rows_per_slot=rows, row_tokens=config.seq_len, lanes=rows
        )
    mean = max(source.mean_piece_tokens(config.seq_len), 1.0)
    rounds = math.ceil(rows * config.seq_len / (config.keep * mean * config.lanes))
    return SlotLayout(
        num_slots=config.slots,
        rows_per_slot=rows,
        row_tokens=config.seq_len,
        lanes=config.lanes,
        num_candidates=rounds * config.lanes,
    )


class StepMaker:
    """Makes step after step; owned by one thread."""

    def __init__(
        self,
        source: Source,
        config: LoaderConfig,
        layout: SlotLayout,
        console: Console | None,
        agents: AgentSet | None,
    ) -> None:
        rank, world_size = config.ranks
        local = layout.num_slots // world_size
        self._source = source
        self._config = config
        self._console = console
        self._agents = agents
        self._slots = range(rank * local, (rank + 1) * local)
        self._layout = BatchLayout(
            slots=local, rows_per_slot=layout.rows_per_slot, row_tokens=layout.row_tokens
        )
        self._copy = DeviceCopy(config.device, config.pin_memory)
        self.cursor = Cursor(layout, source.lengths)

    def make(self, step: int) -> Step:
        """Make the step that the cursor stands at."""
        self._source.prefetch(self.cursor.next_position, self.cursor.open_positions)
        candidates = self._gather(self.cursor.advance())
        started = time.perf_counter()
        policy = self._console.policy(step) if self._console is not None else None
        scores = selection = None
        if policy is not None:
            scores, selection = self._select(step, candidates, policy)
        chosen = self._chosen(candidates, selection)
        select_s = time.perf_counter() - started
        kept = keep_within(chosen, candidates.length, self._layout)
        batch = make_batch(
            candidates.tokens, candidates.start, kept, self._layout, self._config.fields
        )
        sent, copied = self._copy.send(batch)
        table = self.cursor.table.copy()
        return Step(
            step=step,
            batch=sent,
            copied=copied,
            table=table,
            candidates=candidates,
            kept=kept,
            scores=scores,
            selection=selection,
            policy=policy,
            select_s=select_s,
            room=self._layout.rows * self._layout.row_tokens,
        )

    def receive(self, step: Step) -> dict[str, torch.Tensor]:
        """Hand the batch over to the caller's stream."""
        return self._copy.receive(step.batch, step.copied)

    def _gather(self, pieces: Pieces) -> Candidates:
        local = (pieces.slot >= self._slots.start) & (pieces.slot < self._slots.stop)
        shard, row = self._source.order.locate(pieces.position[local])
        return gather_candidates(
            self._source.cache.get,
            self._config.column,
            pieces.slot[local] - self._slots.start,
            Place(shard, row, pieces.offset[local], pieces.length[local]),
            self._source.corpus.first_sample,
            self._source.token_dtype,
        )

    def _select(
        self, step: int, candidates: Candidates, policy: Policy
    ) -> tuple[DocumentScores, Selection]:
        assert self._agents is not None
        how, device = self._config.implementation, self._config.device
        scores = score(self._source, self._agents, candidates, policy, how, device)
        shape = (self._layout.slots, -1)
        selection = select(
            scores.votes.view(*shape, scores.votes.shape[1]),
            _tensor(policy.theta, device),
            _tensor(candidates.length.astype(np.int32), device).view(shape),
            _tensor(candidates.piece_ids(), device).view(shape),
            shift=_tensor(policy.shift, device),
            scale=_tensor(policy.scale, device),
            seed=mix64(self._config.seed ^ mix64(step)) >> 1,  # noise and ties differ by step
            temperature=policy.temperature,
            max_count=None,
            budget_tokens=self._layout.slot_tokens,
            implementation=how,
        )
        return _on_cpu(scores), _on_cpu(selection)

    def _chosen(self, candidates: Candidates, selection: Selection | None) -> list[np.ndarray]:
        """List each slot's kept candidates in stream order, the one cut to fit last."""
        first = np.searchsorted(candidates.slot, np.arange(self._layout.slots + 1))
        if selection is None:
            return [np.arange(*first[slot : slot + 2]) for slot in range(self._layout.slots)]
        order, num_kept = selection.order.numpy(), selection.num_kept.numpy()
        return [
            first[slot] + np.append(np.sort(order[slot, :kept]), order[slot, kept : kept + 1])
            for slot, kept in enumerate(num_kept)
        ]


def score(
    source: Source,
    agents: AgentSet,
    candidates: Candidates,
    policy: Policy,
    implementation: Implementation = "auto",
    device: str = "cpu",
) -> DocumentScores:
    """Score candidate pieces under a policy: every agent's state and vote.

    On a CUDA device the tokens cross the bus once, as stored, and the Triton kernel runs.
    """
    columns = {
        agent.column: source.scalars(agent.column, candidates.shard, candidates.row)
        for agent in agents.agents
        if agent.kind == "stored" and agent.column is not None
    }
    stored = agents.stored_states(columns, len(candidates.length))
    return document_scores(
        _tensor(candidates.tokens, device),
        _tensor(candidates.start, device),
        agents.model.to(device),
        agents.tables(policy.memory, policy.theta).to(device),
        _tensor(stored, device),
        implementation=implementation,
    )


def _tensor(array: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def _on_cpu(result: Result) -> Result:
    """Bring the tensors of a result to the host; waits for the device."""
    parts = {item.name: getattr(result, item.name).cpu() for item in fields(result)}
    return replace(result, **parts)
