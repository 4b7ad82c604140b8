# SPDX-License-Identifier: Apache-2.0
"""Linear heads over the mean of learned n-gram vectors, in floats.

Each target has vectors and an epoch to stop at of its own: quality is overfitted after one or two
passes, topics only later. `join` lays the tables side by side. Single-threaded, so the same seed
gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class HeadsConfig:
    """How one target's table and heads are trained; `dim` is the width of the table."""

    dim: int
    epochs: int
    patience: int
    batch_pieces: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Target:
    """What heads are to say of each piece.

    Attributes:
        label: [n] int64, in [0, num_classes).
        weight: [n] float32, >= 0; pieces of weight 0 take no part.
        num_classes: 2 for one logistic head, told by `is_binary`; else one head a class.
        is_binary: whether one head says "class 1".
    """

    label: np.ndarray
    weight: np.ndarray
    num_classes: int
    is_binary: bool = False

    @property
    def num_heads(self) -> int:
        """Heads this target needs."""
        return 1 if self.is_binary else self.num_classes


@dataclass(frozen=True)
class FloatModel:
    """Trained parameters.

    Attributes:
        table: [B, D] float32; a bucket never seen in training is zero.
        heads: [H, D] float32.
        bias: [H] float32.
    """

    table: np.ndarray
    heads: np.ndarray
    bias: np.ndarray

    def logits(self, average: csr_matrix) -> np.ndarray:
        """Return [n, H] float64 logits of rows of n-gram shares [n, B]."""
        mean = average.astype(np.float64) @ self.table.astype(np.float64)
        return mean @ self.heads.astype(np.float64).T + self.bias


@dataclass(frozen=True)
class Training:
    """The best model, and the loss on the stopping split after every epoch."""

    model: FloatModel
    stop_losses: tuple[float, ...]

    @property
    def best_epoch(self) -> int:
        """The epoch kept, counted from 1."""
        return 1 + int(np.argmin(self.stop_losses))


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
    target: Target,
    splits: tuple[np.ndarray, np.ndarray],
    config: HeadsConfig,
    progress: Callable[[int], None],
) -> Training:
    """Train a table and heads with Adam, keeping the epoch that is best on the stopping split.

    Args:
        average: [n, B] float32 shares of n-grams.
        target: of the n pieces.
        splits: positions of the pieces to train on, and of those that say when to stop.
        config: see `HeadsConfig`.
        progress: told the number of epochs done.
    """
    train_pos, stop_pos = (split[target.weight[split] > 0] for split in splits)
    model = _Model(average.shape[1], target.num_heads, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    rng = np.random.default_rng(config.seed)
    losses: list[float] = []
    best = _snapshot(model)
    with _one_thread():
        for epoch in range(config.epochs):
            for batch in _batches(rng.permutation(train_pos), config.batch_pieces):
                optimizer.zero_grad()
                _loss(model(average[batch]), target, batch).backward()
                optimizer.step()
            with torch.no_grad():
                losses.append(float(_loss(model(average[stop_pos]), target, stop_pos)))
            progress(epoch + 1)
            if losses[-1] <= min(losses):
                best = _snapshot(model)
            elif epoch - int(np.argmin(losses)) >= config.patience:
                break
    return Training(best, tuple(losses))


def join(models: Sequence[FloatModel]) -> FloatModel:
    """Lay models side by side: tables by columns, heads below each other, zero elsewhere.

    Tables are first brought to one largest value, each head undoing it, so that one integer step
    fits all.
    """
    scaled = [_to_unit_table(model) for model in models]
    dims = [model.table.shape[1] for model in scaled]
    heads = np.zeros((sum(len(model.heads) for model in scaled), sum(dims)), dtype=np.float32)
    row = column = 0
    for model, dim in zip(scaled, dims, strict=True):
        heads[row : row + len(model.heads), column : column + dim] = model.heads
        row, column = row + len(model.heads), column + dim
    table = np.concatenate([model.table for model in scaled], axis=1)
    return FloatModel(table, heads, np.concatenate([model.bias for model in scaled]))


def _to_unit_table(model: FloatModel) -> FloatModel:
    peak = np.float32(np.abs(model.table).max(initial=0.0)) or np.float32(1.0)
    return FloatModel(model.table / peak, model.heads * peak, model.bias)


def _loss(logits: torch.Tensor, target: Target, piece_pos: np.ndarray) -> torch.Tensor:
    """Weighted mean of the logistic loss or of the cross-entropy."""
    label = torch.from_numpy(target.label[piece_pos])
    weight = torch.from_numpy(target.weight[piece_pos])
    if target.is_binary:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, 0], label.to(logits.dtype), reduction="none"
        )
    else:
        losses = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    return (weight * losses).sum() / weight.sum()


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
    """Sums split over threads depend on their number; what is done here is small enough for one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
