# SPDX-License-Identifier: Apache-2.0
"""The float model: one table of n-gram vectors and the linear heads that read their mean.

Head 0 is quality (a logit: reference-like against corpus text, both classes weighing the same), heads 1..k are the
topics' logits. Trained jointly with Adam and early stopping; single-threaded, so the same seed gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class HeadsConfig:
    """How the table and the heads are trained."""

    dim: int
    epochs: int
    patience: int
    batch_pieces: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Targets:
    """What the heads are to say.

    Attributes:
        is_reference: [n] bool.
        topic: [n] int64, -1 where the topic heads learn nothing (reference pieces).
        num_topics: number of topic heads.
    """

    is_reference: np.ndarray
    topic: np.ndarray
    num_topics: int

    def take(self, piece_pos: np.ndarray) -> Targets:
        """Return the targets at `piece_pos`."""
        return Targets(self.is_reference[piece_pos], self.topic[piece_pos], self.num_topics)


@dataclass(frozen=True)
class FloatModel:
    """The trained parameters.

    Attributes:
        table: [B, D] float32; a bucket never seen in training is zero.
        heads: [1+k, D] float32.
        bias: [1+k] float32.
    """

    table: np.ndarray
    heads: np.ndarray
    bias: np.ndarray

    def logits(self, average: csr_matrix) -> np.ndarray:
        """Return [n, 1+k] float64 logits of rows of n-gram shares [n, B]."""
        mean = average.astype(np.float64) @ self.table.astype(np.float64)
        return mean @ self.heads.astype(np.float64).T + self.bias


@dataclass(frozen=True)
class Training:
    """The best model and the loss on the stopping split after every epoch."""

    model: FloatModel
    stop_losses: tuple[float, ...]
    best_epoch: int


class _Model(torch.nn.Module):
    def __init__(self, num_buckets: int, num_heads: int, config: HeadsConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        # A zero table: an n-gram that training never meets says nothing afterwards.
        self.table = torch.nn.Parameter(torch.zeros(num_buckets, config.dim))
        self.heads = torch.nn.Parameter(torch.randn(num_heads, config.dim, generator=generator))
        self.bias = torch.nn.Parameter(torch.zeros(num_heads))

    def forward(self, average: csr_matrix) -> torch.Tensor:
        mean = torch.nn.functional.embedding_bag(
            torch.from_numpy(average.indices.astype(np.int64)),
            self.table,
            torch.from_numpy(average.indptr.astype(np.int64)),
            mode="sum",
            per_sample_weights=torch.from_numpy(average.data),
            include_last_offset=True,
        )
        return mean @ self.heads.T + self.bias


def train_heads(
    average: csr_matrix,
    targets: Targets,
    splits: tuple[np.ndarray, np.ndarray],
    config: HeadsConfig,
    progress: Callable[[float], None],
) -> Training:
    """Train table and heads, keeping the epoch that is best on the stopping split.

    Args:
        average: [n, B] float32 shares of n-grams.
        targets: of the n pieces.
        splits: positions of the pieces to train on, and of those that say when to stop.
        config: see `HeadsConfig`.
        progress: told the share of epochs done, in [0, 1].
    """
    train_pos, stop_pos = splits
    model = _Model(average.shape[1], 1 + targets.num_topics, config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rng = np.random.default_rng(config.seed)
    share = _reference_share(targets.is_reference[train_pos])
    losses: list[float] = []
    best = _snapshot(model)
    with _one_thread():
        for epoch in range(config.epochs):
            for batch in _batches(rng.permutation(train_pos), config.batch_pieces):
                optimizer.zero_grad()
                _loss(model(average[batch]), targets.take(batch), share).backward()
                optimizer.step()
            losses.append(_stop_loss(model, average[stop_pos], targets.take(stop_pos)))
            progress((epoch + 1) / config.epochs)
            if losses[-1] <= min(losses):
                best = _snapshot(model)
            elif epoch - int(np.argmin(losses)) >= config.patience:
                break
    return Training(best, tuple(losses), 1 + int(np.argmin(losses)))


def _loss(logits: torch.Tensor, targets: Targets, reference_share: float) -> torch.Tensor:
    """Balanced logistic loss of the quality head plus cross-entropy of the topic heads."""
    is_reference = torch.from_numpy(targets.is_reference)
    weight = torch.where(is_reference, 0.5 / reference_share, 0.5 / (1 - reference_share))
    quality = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, 0], is_reference.to(logits.dtype), weight
    )
    topic = torch.from_numpy(targets.topic)
    has_topic = topic >= 0
    if not bool(has_topic.any()):
        return quality
    return quality + torch.nn.functional.cross_entropy(logits[has_topic, 1:], topic[has_topic])


@torch.no_grad()
def _stop_loss(model: _Model, average: csr_matrix, targets: Targets) -> float:
    share = _reference_share(targets.is_reference)
    return float(_loss(model(average), targets, share))


def _reference_share(is_reference: np.ndarray) -> float:
    return float(np.clip(is_reference.mean(), 1e-6, 1 - 1e-6))


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _snapshot(model: _Model) -> FloatModel:
    table, heads, bias = (
        parameter.detach().numpy().copy() for parameter in (model.table, model.heads, model.bias)
    )
    return FloatModel(table, heads, bias)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums split over threads depend on their number; the arithmetic here is small enough for one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
