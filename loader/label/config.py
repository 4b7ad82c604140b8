# SPDX-License-Identifier: Apache-2.0
"""Settings of `moot fit`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What is sampled, and how topics and quality are fitted.

    Attributes:
        seed: of the sample, the split, the clusters and the training.
        seq_len: most tokens a piece holds; the loader's `seq_len`.
        num_topics: clusters of the topic agent.
        max_pieces: most pieces drawn from the corpus.
        max_reference_pieces: most pieces drawn from the reference set.
        max_tokens: most tokens drawn from each of the two.
        max_shards: most shards read from each of the two; above it a seeded choice of them is read.
        num_buckets: rows of the n-gram table, a power of two.
        dim: width of the table, a multiple of 16.
        orders: lengths of the n-grams, a subset of (1, 2, 3).
        projection_dim: dimensions in which k-means runs.
        heldout_share: share of pieces, by whole sources or documents, kept for the report; as many
            again say when to stop.
        shuffled_share: weight of shuffled reference text among what quality is told from, in [0,
            1); 0 leaves reference against corpus text alone.
        epochs: most passes over the sample.
        patience: epochs without a better stopping loss after which training ends.
        batch_pieces: pieces an optimiser step.
        learning_rate: of Adam.
        force: fit again although a fit of the same settings and corpus is stored.
    """

    seed: int = 0
    seq_len: int = 256
    num_topics: int = 13
    max_pieces: int = 12_000
    max_reference_pieces: int = 6_000
    max_tokens: int = 3_000_000
    max_shards: int = 64
    num_buckets: int = 2**16
    dim: int = 16
    orders: tuple[int, ...] = (1, 2)
    projection_dim: int = 64
    heldout_share: float = 0.1
    shuffled_share: float = 0.5
    epochs: int = 12
    patience: int = 2
    batch_pieces: int = 128
    learning_rate: float = 0.02
    force: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(self.orders))
        counts = ["seq_len", "num_topics", "max_pieces", "max_reference_pieces", "max_tokens"]
        counts += ["max_shards", "projection_dim", "epochs", "patience", "batch_pieces"]
        for name in counts:
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _check(self.seed >= 0, "seed", self.seed, "at least 0")
        buckets = self.num_buckets
        _check(buckets > 0 and buckets & (buckets - 1) == 0, "num_buckets", buckets, "a power of 2")
        _check(self.dim > 0 and self.dim % 16 == 0, "dim", self.dim, "a multiple of 16")
        is_choice = bool(self.orders) and list(self.orders) == sorted({*self.orders} & {1, 2, 3})
        _check(is_choice, "orders", self.orders, "an ascending choice of 1, 2, 3")
        share = self.heldout_share
        _check(0 < share <= 0.4, "heldout_share", share, "in (0, 0.4]")
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _check(0 <= self.shuffled_share < 1, "shuffled_share", self.shuffled_share, "in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the outcome: every field but `force`, as JSON would hold it."""
        fields = asdict(self)
        del fields["force"]
        return {**fields, "orders": list(self.orders)}


def _check(is_valid: bool, name: str, value: object, allowed: str) -> None:
    if not is_valid:
        raise ConfigError(f"FitConfig.{name} is {value!r}; it must be {allowed}")
