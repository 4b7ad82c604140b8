# SPDX-License-Identifier: Apache-2.0
"""Candidates scored, chosen and packed on the device that trains on them.

A step's candidates cross the bus once, as stored. Scoring, selecting and packing are queued behind
the copy on the loader's own stream, and an event behind them hands the batch over; the thread that
makes steps never waits for the device. What the host must know - which pieces were kept, how the
agents voted - comes back by copies of their own into pinned memory. The ledger and the cursor need
it when the batch is handed over, not earlier: the host looks at it then, and waits only if the
loader's stream has not come that far.

Without a stream (`implementation="triton"` on the CPU, in Triton's interpreter) the same calls run
at once. Either way the same pieces are kept as on the CPU, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from ..triton_kernels import (
    AgentTables,
    DocumentScores,
    PackedDocuments,
    Selection,
    document_scores,
    gather_documents,
    select,
)
from .agents import AgentSet
from .batches import IGNORED, BatchLayout, Candidates, DeviceCopy, Kept, keep_within
from .config import LoaderConfig
from .console import Policy
from .prefetch import Source


@dataclass(frozen=True)
class Weights:
    """A policy on the device."""

    tables: AgentTables
    theta: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class Returning:
    """What is on its way to the host; `event` is behind the copies, None if they are there."""

    scores: DocumentScores
    selection: Selection
    event: torch.cuda.Event | None

    def settled(self) -> tuple[DocumentScores, Selection]:
        """Return it once it has arrived."""
        if self.event is not None:
            self.event.synchronize()
        return self.scores, self.selection


class DeviceChoice:
    """Makes batches of candidates on the device; owned by the thread that makes steps."""

    def __init__(
        self,
        source: Source,
        agents: AgentSet,
        config: LoaderConfig,
        layout: BatchLayout,
        copy: DeviceCopy,
    ) -> None:
        self._source = source
        self._agents = agents
        self._config = config
        self._layout = layout
        self._copy = copy
        self._model = agents.model.to(copy.device)
        self._version = -1
        self._weights: Weights | None = None

    def choose(
        self, candidates: Candidates, length: np.ndarray, policy: Policy, seed: int
    ) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None, Returning]:
        """Queue a batch.

        Args:
            candidates: Equally many in each slot.
            length: [m] int64, of every candidate; 0 where its shard is lost.
            policy: Whose memories and weights score them.
            seed: Of noise and ties.

        Returns:
            The batch; the event to be waited for before it is used; what returns to the host.
        """
        with self._copy.queued():
            tokens, start = self._copy.put(candidates.tokens), self._copy.put(candidates.start)
            scores, selection = self._score(candidates, length, policy, seed, (tokens, start))
            if not np.array_equal(length, candidates.length):  # what is lost has no tokens to pack
                whole = np.repeat(length == candidates.length, candidates.length)
                tokens = self._copy.put(candidates.tokens[whole])
                start = self._copy.put(np.concatenate([[0], np.cumsum(length)]))
            packed = gather_documents(
                tokens,
                start,
                selection.order,
                capacity_tokens=self._layout.slot_tokens,
                documents_per_slot=selection.order.shape[1],
                row_tokens=self._layout.row_tokens,
                position_ids=True,
                implementation=self._config.implementation,
            )
            batch = self._fields(packed)
            made = self._copy.mark()
            returning = self._bring(scores, selection)
        return batch, made, returning

    def kept(self, selection: Selection, length: np.ndarray) -> Kept:
        """Say where the kept candidates stand; the selection lies on the host."""
        return kept_of(selection, length, self._layout)

    def _score(
        self,
        candidates: Candidates,
        length: np.ndarray,
        policy: Policy,
        seed: int,
        documents: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[DocumentScores, Selection]:
        how, weights = self._config.implementation, self._on_device(policy)
        states = stored_states(self._source, self._agents, candidates)
        put, shape = self._copy.put, (self._layout.slots, -1)
        scores = document_scores(
            *documents, self._model, weights.tables, put(states), implementation=how
        )
        selection = select(
            scores.votes.view(*shape, scores.votes.shape[1]),
            weights.theta,
            put(length.astype(np.int32)).view(shape),
            put(candidates.piece_ids()).view(shape),
            shift=weights.shift,
            scale=weights.scale,
            seed=seed,
            temperature=policy.temperature,
            budget_tokens=self._layout.slot_tokens,
            full_order=False,
            implementation=how,
        )
        return scores, selection

    def _on_device(self, policy: Policy) -> Weights:
        """Return the policy's numbers; they travel when it changes."""
        if self._weights is None or self._version != policy.version:
            put = self._copy.put
            tables = self._agents.tables(policy.memory, policy.theta)
            parts = (getattr(tables, field.name).numpy() for field in fields(tables))
            self._weights = Weights(
                AgentTables(*map(put, parts)),
                put(policy.theta),
                put(policy.shift),
                put(policy.scale),
            )
            self._version = policy.version
        return self._weights

    def _fields(self, packed: PackedDocuments) -> dict[str, torch.Tensor]:
        """Make the batch's fields, but for `cu_seqlens`, whose length only the host will know."""
        assert packed.position_ids is not None
        shape = (self._layout.rows, self._layout.row_tokens)
        ids = packed.tokens.to(torch.int64)
        place = torch.arange(ids.shape[1], device=ids.device)
        is_padding = place >= packed.cu_seqlens[:, -1:]
        stored = getattr(torch, self._source.stored_dtype.name)
        made = {
            "tokens": packed.tokens.to(stored),
            "input_ids": ids,
            "labels": ids.masked_fill((packed.position_ids == 0) | is_padding, IGNORED),
            "position_ids": packed.position_ids,
        }
        return {
            name: made[name].view(shape) for name in self._config.fields if name != "cu_seqlens"
        }

    def _bring(self, scores: DocumentScores, selection: Selection) -> Returning:
        bring = self._copy.bring
        scores = DocumentScores(*bring([getattr(scores, each.name) for each in fields(scores)]))
        parts = [getattr(selection, each.name) for each in fields(selection)]
        return Returning(scores, Selection(*bring(parts)), self._copy.mark())


def kept_of(selection: Selection, length: np.ndarray, layout: BatchLayout) -> Kept:
    """Say where the kept candidates stand.

    Args:
        selection: Not in full order, on the host.
        length: [m] int64, of every candidate; equally many in each slot.
        layout: The shape of the local batch.
    """
    order = selection.order.numpy()
    # Behind the kept ones stands the one that is cut to fit, or -1.
    is_named = np.arange(order.shape[1]) <= selection.num_kept.numpy()[:, None]
    slot, place = np.nonzero(is_named & (order >= 0))
    return keep_within(order[slot, place] + slot * order.shape[1], slot, length, layout)


def segment_borders(kept: Kept, layout: BatchLayout) -> np.ndarray:
    """Return where segments begin, and the end of the batch: [segments + 1] int32.

    A segment begins where a row or a piece begins, and where padding does.
    """
    row_ends = np.arange(0, layout.tokens + 1, layout.row_tokens)
    return np.unique(np.concatenate([row_ends, kept.target, kept.target + kept.length])).astype(
        np.int32
    )


def stored_states(source: Source, agents: AgentSet, candidates: Candidates) -> np.ndarray:
    """Read the states of the agents whose labels are stored: [m, A] int32."""
    columns = {
        agent.column: source.scalars(agent.column, candidates.shard, candidates.row)
        for agent in agents.agents
        if agent.kind == "stored" and agent.column is not None
    }
    return agents.stored_states(columns, len(candidates.length))
