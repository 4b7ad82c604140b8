# SPDX-License-Identifier: Apache-2.0
"""Rewards of probe documents under the current model: what the console learns from.

`inner`: r(x) = <P g_ref, g_x> per predicted token of x, P from Adam's second moment: to first
order, how much a step on x would lower the mean reference loss, over the learning rate. Taken in
the ghost form, several documents a row under the document mask. Positive helps.
`cosine`: the published reward, the cosine of g_ref and g_x with P = 1.

A refresh leaves model, optimiser, gradients and generators bit for bit as they were, also when
it fails. Deterministic for given parameters, optimiser state, reference set and refresh number.
Source: docs/ops/ghost_influence.md; sign: a step is -lr P g_x, so the loss falls by lr * r.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...loader.errors import ConfigError
from ..rows import Rows, pack, predicted_tokens
from ..untouched import untouched
from .capture import GhostCapture
from .checks import check_document_mask, check_shares
from .layers import check_supported
from .per_sample import cosine_rewards
from .reference import (
    ReferenceGradient,
    precondition,
    reference_gradient,
    without_baseline,
)
from .sharding import inner, is_sharded, most_of_ranks, reshard, unwrapped


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackConfig:
    """How rewards are measured."""

    reward: Literal["inner", "cosine"] = "inner"
    """"inner": preconditioned inner product per token; "cosine": the published reward."""
    rows_per_pass: int = 16
    """Rows of one forward and backward pass; bounds the memory."""
    seq_len: int = 256
    """Length of a row, in tokens; longer documents are cut over several rows."""
    reference_docs: int | None = 32
    """Reference documents drawn anew for each refresh; None: all of them, every time."""
    max_reference_tokens: int | None = None
    """Of a longer reference document, a window of this many tokens at a drawn place; None: all."""
    max_probe_tokens: int | None = 128
    """Of a longer probe, the first tokens up to here; None: all."""
    damping: float = 0.0
    """Share of each tensor's root mean second moment added to Adam's denominator; 0: exactly P."""
    baseline_docs: int = 0
    """Probes, drawn anew for each refresh, whose mean gradient is taken out of the reference
    gradient (`reference.without_baseline`), an estimate of the pool's; 0: the plain inner product.
    The published reward, "cosine", has none."""
    seed: int = 0
    """Seed of the drawing of reference documents, with the refresh number."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.reward not in ("inner", "cosine"):
            raise ConfigError(f'feedback.reward is {self.reward!r}; take "inner" or "cosine"')
        floors = {"rows_per_pass": 1, "seq_len": 2, "reference_docs": 1}
        floors |= {
            "baseline_docs": 0,
            "max_reference_tokens": 2,
            "max_probe_tokens": 2,
            "damping": 0,
        }
        for name, floor in floors.items():
            value = getattr(self, name)
            if value is not None and value < floor:
                raise ConfigError(f"feedback.{name} is {value}; it must be >= {floor}")


class Feedback:
    """Measures rewards of one model; not thread-safe, to be called between training steps.

    Args:
        model: called as model(input_ids, position_ids) -> logits; built of Linear, Embedding,
            RMSNorm and LayerNorm as far as it trains, and masked by document.
        optimizer: Adam or AdamW over the model's parameters; may be None for `cosine`.
        config: see `FeedbackConfig`.

    Attributes:
        last: numbers of the last refresh: reference_loss (nats a token), reference_tokens and
            probe_tokens (predicted), influence (g_ref^T P g_ref, `inner` only),
            unstepped_parameters (those with P = 1), seconds.

    Raises:
        TypeError: a trainable parameter sits in a layer without a ghost form.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        config: FeedbackConfig,
    ) -> None:
        self._model = unwrapped(model)
        if config.reward == "inner":
            check_supported(self._model)
        elif is_sharded(self._model):
            raise ConfigError(
                'reward = "cosine" takes the gradient of each document, which a model sharded by '
                'fully_shard cannot give rank by rank; take reward = "inner"'
            )
        self.config = config
        self.last: dict[str, float] = {}
        self._optimizer = optimizer
        self._reference: list[np.ndarray] = []
        self._is_checked = False

    def set_reference(self, documents: Sequence[np.ndarray | Tensor]) -> None:
        """Set the documents whose loss is to fall.

        Args:
            documents: 1-D arrays or tensors of token ids; those under two tokens are left out.

        Raises:
            ConfigError: no document has two tokens.
        """
        self._reference = [np.asarray(document) for document in documents if len(document) > 1]
        if not self._reference:
            raise ConfigError(
                f"the reference set has {len(documents)} documents and none of two tokens or "
                "more; give it some text"
            )

    def rewards(
        self,
        refresh: int,
        tokens: np.ndarray | Tensor,
        cu_seqlens: np.ndarray | Tensor,
    ) -> np.ndarray:
        """Measure the reward of every probe under the current model.

        Args:
            refresh: number of the refresh; draws the reference documents.
            tokens: [T] int64, the probes one behind the other.
            cu_seqlens: [n + 1] int64; probe i is [cu_seqlens[i], cu_seqlens[i + 1]).

        Returns:
            [n] float64. A probe under two tokens predicts nothing and has reward 0.

        Raises:
            ConfigError: no reference set, or the optimiser is not of Adam's kind.
            TypeError: the model has trained layers without a ghost form.
            RuntimeError: documents see each other, or hooks cannot follow the model.
        """
        began = time.perf_counter()
        if not self._reference:
            raise ConfigError("no reference set: call set_reference(documents) before rewards()")
        probes = self._split(np.asarray(tokens), np.asarray(cu_seqlens))
        reshard(self._model)
        with untouched(self._model):
            reference_rows = pack(self._draw(refresh), self.config.seq_len)
            reference = reference_gradient(self._model, reference_rows, self._pass_tokens)
            self.last = {
                "reference_loss": reference.loss,
                "reference_tokens": float(reference.num_predicted),
            }
            if self.config.reward == "cosine":
                rewards = cosine_rewards(self._model, probes, self.config.seq_len, reference)
            else:
                baseline = self._baseline(refresh, probes)
                rewards = self._inner_rewards(probes, reference, reference_rows, baseline)
        predicted = self._predicted(probes)
        self.last["probe_tokens"] = float(predicted.sum())
        self.last["seconds"] = time.perf_counter() - began
        return rewards

    @property
    def _pass_tokens(self) -> int:
        return self.config.rows_per_pass * self.config.seq_len

    def _predicted(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """Return the number of tokens each document predicts, [n] int64."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        return predicted_tokens(lengths, self.config.seq_len)

    def _inner_rewards(
        self,
        probes: list[np.ndarray],
        reference: ReferenceGradient,
        reference_rows: Rows,
        baseline: ReferenceGradient | None,
    ) -> np.ndarray:
        """Return <P g_ref, g_x> per predicted token, [n] float64."""
        directions, num_unstepped = precondition(self._optimizer, reference, self.config.damping)
        self.last["unstepped_parameters"] = float(num_unstepped)
        self.last["influence"] = inner(reference.gradients.values(), directions.values())
        if baseline is not None:
            base, _ = precondition(self._optimizer, baseline, self.config.damping)
            directions = without_baseline(directions, base, baseline)
        device = next(iter(directions)).device
        capture = GhostCapture(self._model, directions)
        few_rows = next(reference_rows.passes(2 * self.config.seq_len, device))
        check_document_mask(self._model, few_rows)
        reshard(self._model)
        if not self._is_checked:
            check_shares(self._model, capture, few_rows)
            self._is_checked = True
        sums = np.zeros(len(probes))
        passes = list(pack(probes, self.config.seq_len).passes(self._pass_tokens, device))
        # Every pass of a sharded model gathers parameters from all ranks: all run as many.
        num_idle = 0
        if is_sharded(self._model):
            num_idle = most_of_ranks(len(passes), device) - len(passes)
        for rows in passes:
            rows.add_document_sums(capture.shares(rows).sum(0), sums)
        for _ in range(num_idle):
            capture.shares(few_rows)
        return sums / np.maximum(self._predicted(probes), 1)

    def _split(self, tokens: np.ndarray, cu_seqlens: np.ndarray) -> list[np.ndarray]:
        """Cut the probes out of their buffer, each to at most `max_probe_tokens`."""
        if len(cu_seqlens) == 0 or cu_seqlens[0] != 0 or cu_seqlens[-1] != len(tokens):
            raise ValueError(
                f"cu_seqlens must rise from 0 to the {len(tokens)} tokens given; "
                "pass document boundaries [0, ..., T]"
            )
        stops = cu_seqlens[1:]
        if self.config.max_probe_tokens is not None:
            stops = np.minimum(stops, cu_seqlens[:-1] + self.config.max_probe_tokens)
        return [tokens[a:b] for a, b in zip(cu_seqlens[:-1], stops, strict=True)]

    def _baseline(self, refresh: int, probes: list[np.ndarray]) -> ReferenceGradient | None:
        """Measure the mean gradient of a few of the probes; None where none is taken out."""
        usable = [probe for probe in probes if len(probe) > 1]
        num = min(self.config.baseline_docs, len(usable))
        if num == 0:
            return None
        random = np.random.default_rng((self.config.seed, refresh, 1))
        chosen = np.sort(random.choice(len(usable), num, replace=False))
        rows = pack([usable[i] for i in chosen], self.config.seq_len)
        return reference_gradient(self._model, rows, self._pass_tokens)

    def _draw(self, refresh: int) -> list[np.ndarray]:
        """Draw the reference documents of a refresh, and their windows."""
        random = np.random.default_rng((self.config.seed, refresh))
        chosen = np.arange(len(self._reference))
        limit = self.config.reference_docs
        if limit is not None and limit < len(chosen):
            chosen = np.sort(random.choice(len(chosen), limit, replace=False))
        documents = [self._reference[i] for i in chosen]
        window = self.config.max_reference_tokens
        if window is None:
            return documents
        starts = [random.integers(max(len(d) - window, 0) + 1) for d in documents]
        return [d[s : s + window] for d, s in zip(documents, starts, strict=True)]
