# SPDX-License-Identifier: Apache-2.0
"""Candidates scored and chosen where the host's memory is: the counterpart of `choosing`.

The threads of a pool share the scoring, the calling one among them; what a piece scores does not
depend on how. Selecting is one call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from ..triton_kernels import AgentTables, DocumentScores, Selection, document_scores, select
from ..triton_kernels.dispatch import Implementation
from .agents import AgentSet
from .batches import BatchLayout, Candidates
from .choosing import stored_states
from .config import LoaderConfig
from .console import Policy
from .prefetch import Source

Result = TypeVar("Result", DocumentScores, Selection)
Run = Callable[[int, int], None]

_PART_TOKENS = 1 << 16  # that a thread scores at a time


class Scorer:
    """Scores and chooses the candidates of steps; owned by the thread that makes them.

    Args:
        source: Where stored labels are read.
        agents: Who votes.
        config: How the ops run, and where.
        layout: The shape of the local batch.
        pool: Threads that share the scoring; None scores in the calling thread.
    """

    def __init__(
        self,
        source: Source,
        agents: AgentSet,
        config: LoaderConfig,
        layout: BatchLayout,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        self._source = source
        self._agents = agents
        self._how, self._device = config.implementation, config.device
        self._layout = layout
        self._pool = pool
        self._num_threads = config.num_score_threads if pool is not None else 1
        self._model = agents.model.to(config.device)
        self._version = -1
        self._tables: AgentTables | None = None

    def choose(
        self, candidates: Candidates, length: np.ndarray, policy: Policy, seed: int
    ) -> tuple[DocumentScores, Selection]:
        """Score the candidates of a step and select among them.

        Args:
            candidates: Equally many in each slot.
            length: [m] int64, of every candidate; 0 where its shard is lost.
            policy: Whose memories and weights score them.
            seed: Of noise and ties.

        Returns:
            Both on the host; the selection names the kept ones alone.
        """
        device, shape = self._device, (self._layout.slots, -1)
        scores = self._score(candidates, self._tables_of(policy))
        selection = select(
            scores.votes.view(*shape, scores.votes.shape[1]),
            _tensor(policy.theta, device),
            _tensor(length.astype(np.int32), device).view(shape),
            _tensor(candidates.piece_ids(), device).view(shape),
            shift=_tensor(policy.shift, device),
            scale=_tensor(policy.scale, device),
            seed=seed,
            temperature=policy.temperature,
            budget_tokens=self._layout.slot_tokens,
            full_order=False,
            implementation=self._how,
        )
        return _on_host(scores), _on_host(selection)

    def _tables_of(self, policy: Policy) -> AgentTables:
        """Return the agents' tables; they are made when the policy changes."""
        if self._tables is None or self._version != policy.version:
            tables = self._agents.tables(policy.memory, policy.theta)
            self._tables, self._version = tables.to(self._device), policy.version
        return self._tables

    def _score(self, candidates: Candidates, tables: AgentTables) -> DocumentScores:
        stored = _tensor(stored_states(self._source, self._agents, candidates), self._device)
        tokens = _tensor(candidates.tokens, self._device)
        start = _tensor(candidates.start, self._device)

        share = self._share(candidates) if self._pool is not None else None
        return document_scores(
            tokens, start, self._model, tables, stored, implementation=self._how, share=share
        )

    def _share(self, candidates: Candidates) -> Callable[[Run], None] | None:
        """Return how the threads share the candidates; None where they are too few for that."""
        num, num_tokens = len(candidates.length), int(candidates.start[-1])
        parts = num_tokens // _PART_TOKENS
        if parts < 2:
            return None
        even = num_tokens * np.arange(parts + 1) // parts
        cuts = np.searchsorted(candidates.start, even).clip(0, num).tolist()

        def share(run: Run) -> None:
            assert self._pool is not None
            waiting = deque(pairwise(cuts))

            def work() -> None:
                while True:
                    try:
                        part = waiting.popleft()
                    except IndexError:  # none is left
                        return
                    run(*part)

            helpers = [self._pool.submit(work) for _ in range(self._num_threads - 1)]
            work()
            for helper in helpers:
                if not helper.cancel():  # one that has not begun is not waited for
                    helper.result()

        return share


def score(
    source: Source,
    agents: AgentSet,
    candidates: Candidates,
    policy: Policy,
    implementation: Implementation = "auto",
) -> DocumentScores:
    """Score candidate pieces under a policy, on the CPU: every agent's state and vote."""
    return document_scores(
        torch.from_numpy(candidates.tokens),
        torch.from_numpy(candidates.start),
        agents.model,
        agents.tables(policy.memory, policy.theta),
        torch.from_numpy(stored_states(source, agents, candidates)),
        implementation=implementation,
    )


def _tensor(array: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def _on_host(result: Result) -> Result:
    """Bring the tensors of a result to the host; waits for the device they are on."""
    parts = {item.name: getattr(result, item.name) for item in fields(result)}
    if all(part.device.type == "cpu" for part in parts.values()):
        return result
    return replace(result, **{name: part.cpu() for name, part in parts.items()})
