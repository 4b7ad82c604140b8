# SPDX-License-Identifier: Apache-2.0
"""The order of the batches in a chunk of optimizer steps, behind the do-no-harm gate.

A batch is what one step takes, whatever the passes it is accumulated over, so its passes never come
apart. "commutator" orders a chunk where the gate says so; "published" orders every chunk as the
paper prints it, without a gate. The learning rate belongs to the step, not to the batch. Measuring
leaves the model bit for bit as it was: only chunks that are ordered, on trial or behind an open
gate, differ from a run without.
Source: docs/d3.md, "The gate" and "Edges of a model".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..loader.errors import StateError
from ..loader.schedule import Gate, solve_order
from .config import RunConfig
from .cross_entropy import loss
from .evaluate import evaluate
from .feedback.edges import commutator, published_chunk_order, sharpness
from .feedback.neighbourhood import Loss, Neighbourhood
from .model import GPT
from .recipe import learning_rate
from .rows import Rows, pack

Batch = dict[str, Tensor]


class ChunkOrder:
    """Hands out batches, ordered chunk by chunk.

    Args:
        config: Of the run; its `order` is set.
        model: Of the run.
        optimizer: Of Adam's kind.
        reference: Documents: one half says what is to end low, the other is the gate's probe loss.
    """

    def __init__(
        self,
        config: RunConfig,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        reference: Sequence[np.ndarray],
    ) -> None:
        self._config, self.settings = config, config.order
        self._model, self._optimizer = model, optimizer
        self._device = next(model.parameters()).device
        size = self.settings.reference_docs
        self._probes = list(reference[1::2])[:size]
        self._reference = self._rows_of(list(reference[0::2])[:size])
        self.gate = Gate(self.settings.gate_config(config.seed))
        self._chunk: list[Batch] = []  # what is left of the one under way
        self._row: dict[str, Any] = {}
        self._before: float | None = None
        self.seconds = 0.0

    def next(self, step: int, batches: Iterator[Batch]) -> Batch:
        """Return the batch of a step; at the border of a chunk the next one is pulled whole."""
        size = self.settings.chunk_steps
        if not self._chunk and step % size == 0 and step + size <= self._config.train.steps:
            started = time.perf_counter()
            chunk = [next(batches) for _ in range(size)]
            order = self._begin(step, chunk)
            self._chunk = [chunk[position] for position in order]
            self.seconds += time.perf_counter() - started
        return self._chunk.pop(0) if self._chunk else next(batches)

    def end(self, steps_done: int) -> dict[str, Any] | None:
        """Say that a step was taken; returns what is to be recorded where it ended a chunk."""
        if self._chunk or not self._row:
            return None
        started = time.perf_counter()
        row, self._row = self._row, {}
        if self.settings.mode == "commutator":
            drop = None
            if self._before is not None:
                drop = (self._before - self._probe_loss()) / self._before
                self._before = None
            self.gate.observe(drop)
            row |= {"drop": drop, **self.gate.metrics()}
        self.seconds += time.perf_counter() - started
        return {"step": steps_done, **row}

    def metrics(self) -> dict[str, float]:
        """Return the gate's evidence."""
        return self.gate.metrics() if self.settings.mode == "commutator" else {}

    def state_dict(self) -> dict[str, Any]:
        """Return plain values; at the border of a chunk only."""
        if self._chunk or self._row:
            raise StateError("a chunk is under way: checkpoint at its border")
        return {"gate": self.gate.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.gate.load_state_dict(state["gate"])
        self.seconds = float(state["seconds"])

    def _begin(self, step: int, chunk: list[Batch]) -> list[int]:
        """Decide the order of a chunk."""
        rate = learning_rate(step, self._config)
        as_it_came = list(range(len(chunk)))
        losses = [partial(self._batch_loss, batch) for batch in chunk]
        if self.settings.mode == "published":
            number = step // self.settings.chunk_steps
            seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
            order, curvatures = published_chunk_order(self._model, losses, rate, seed)
            self._row = {"order": order.tolist(), "curvatures": curvatures.tolist()}
            return order.tolist()
        point = Neighbourhood(self._model, self._optimizer)
        self._row = {"order": as_it_came, "sharpness": None}
        if self.gate.needs_sharpness:
            # Without a step behind it Adam has no scale, and what is measured says nothing.
            found = self._sharpness(point, losses[0], rate * len(chunk)) if step else None
            self._row["sharpness"] = found
            self.gate.begin(float("inf") if found is None else found)
        if self.gate.measures_next:
            self._before = self._probe_loss()
        if self.gate.orders_next:
            self._row["order"] = self._order(point, losses, rate)
        self._row |= {"is_ordered": self.gate.orders_next, "is_trial": self.gate.measures_next}
        return list(self._row["order"])

    def _sharpness(self, point: Neighbourhood, batch: Loss, length: float) -> float:
        limit = self.settings.max_sharpness / length
        iterations = self.settings.sharpness_iterations
        return length * sharpness(point, batch, iterations, limit)

    def _order(self, point: Neighbourhood, losses: Sequence[Loss], rate: float) -> list[int]:
        advantage = commutator(point, losses, self._reference_loss, rate)
        typical = float(np.sqrt((advantage**2).mean()))
        return solve_order(advantage, self.settings.tolerance * typical).tolist()

    def _batch_loss(self, batch: Batch) -> Tensor:
        """Mean loss of the rows of a batch by which it is judged."""
        rows, names = slice(self.settings.edge_rows), ("input_ids", "position_ids", "labels")
        ids, positions, labels = (batch[name][rows].to(self._device) for name in names)
        summed, count = loss(self._model(ids, positions), labels)
        return summed / count.clamp_min(1)

    def _reference_loss(self) -> Tensor:
        rows = self._reference
        summed, count = loss(self._model(rows.input_ids, rows.position_ids), rows.labels)
        return summed / count.clamp_min(1)

    def _probe_loss(self) -> float:
        return evaluate(self._model, self._probes, seq_len=self._config.data.seq_len).loss

    def _rows_of(self, documents: list[np.ndarray]) -> Rows:
        packed = pack(documents, self._config.data.seq_len)
        return next(packed.passes(packed.input_ids.numel(), self._device))
