# SPDX-License-Identifier: Apache-2.0
"""The fit itself: pieces in memory -> an n-gram model with a quality head and topic heads.

A pure function of its pieces and its settings: the same in, the same bits out. Three disjoint sets:
one to fit on, one to say when to stop, one that only the report sees (splits.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...triton_kernels.document_scores import NgramModel
from .config import FitConfig
from .features import average, count_ngrams
from .heads import FloatModel, HeadsConfig, Target, Training, join, train_heads
from .pieces import Pieces
from .quality import quality_target, shares_domain, shuffle_tokens
from .quantize import Agreement, compare, quantize, score
from .splits import Splits, split_pieces
from .topics import fit_topics

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NUM_QUALITY_STATES = 5
QUALITY_DIM = 4  # of the table's columns; one would do in floats, four keep the rounding small

Progress = Callable[[str, int, int | None, str], None]


@dataclass(frozen=True)
class Fit:
    """What was fitted on `pieces`, and what it says of them.

    Attributes:
        model: the quantised model; head 0 is quality, heads 1.. are the topics.
        edges: [4] float32, quintile borders of the corpus pieces' quality value.
        splits: the pieces fitted on, stopped by, held out.
        cluster: [n] int64, the k-means topic of each piece; -1 for reference pieces.
        distance: [n] float64, squared distance to that centroid.
        values: [n, 1+k] float32, the quantised model's values.
        shuffled_values: [m] float32, the quality value of a shuffled copy of each reference piece.
        quality_training: the float quality head and its losses.
        topic_training: the same of the topics; None where there is one topic only.
        agreement: float against quantised values, over all pieces.
        warnings: what could not be done as asked.
    """

    model: NgramModel
    edges: np.ndarray
    splits: Splits
    cluster: np.ndarray
    distance: np.ndarray
    values: np.ndarray
    shuffled_values: np.ndarray
    quality_training: Training
    topic_training: Training | None
    agreement: Agreement
    warnings: tuple[str, ...]

    @property
    def topic(self) -> np.ndarray:
        """The topic the model gives each piece, [n] int64: the first of its largest values."""
        return self.values[:, 1:].argmax(axis=1)

    @property
    def quality_state(self) -> np.ndarray:
        """The quality state of each piece, [n] int64: the number of edges at or below its value."""
        return np.searchsorted(self.edges, self.values[:, 0], side="right")


def fit_pieces(pieces: Pieces, config: FitConfig, progress: Progress | None = None) -> Fit:
    """Fit topics and quality on pieces of corpus and reference documents.

    Args:
        pieces: corpus and reference pieces; document ids differ between the two.
        config: settings.
        progress: called as progress(stage, done, total, detail).

    Raises:
        AgentError: too few documents of either kind.
    """
    say = progress or (lambda stage, done, total, detail: None)
    splits = split_pieces(pieces, config.heldout_share, config.seed)
    say("count n-grams", 0, None, "")
    counts = count_ngrams(pieces, config.orders, config.num_buckets)
    shares = average(counts)
    say("cluster topics", 0, None, "")
    num_topics, cluster, distance = _cluster(pieces, counts, splits, config)
    topic_training = _train_topics(shares, cluster, num_topics, splits, config, say)
    shuffled = shuffle_tokens(pieces.take(np.flatnonzero(pieces.is_reference)), config.seed)
    quality_training = _train_quality(pieces, shares, shuffled, splits, config, say)
    say("quantise", 0, None, "")
    topic_model = topic_training.model if topic_training else _no_topics(config)
    floats = join([quality_training.model, topic_model])
    model = quantize(floats, config.orders)
    values = score(model, pieces)
    return Fit(
        model=model,
        edges=_quintiles(values[~pieces.is_reference, 0]),
        splits=splits,
        cluster=cluster,
        distance=distance,
        values=values,
        shuffled_values=score(model, shuffled)[:, 0],
        quality_training=quality_training,
        topic_training=topic_training,
        agreement=compare(floats.logits(shares), values),
        warnings=_warnings(pieces, num_topics, config),
    )


def _warnings(pieces: Pieces, num_topics: int, config: FitConfig) -> tuple[str, ...]:
    found = []
    if num_topics < config.num_topics:
        found.append(
            f"the sample holds only {num_topics} distinct pieces to fit on, so there are "
            f"{num_topics} topics, not {config.num_topics}"
        )
    if not shares_domain(pieces):
        found.append(
            "reference and corpus share no domain: quality was fitted against all of the corpus "
            "and may mostly tell the domains apart"
        )
    return tuple(found)


def _cluster(
    pieces: Pieces, counts: csr_matrix, splits: Splits, config: FitConfig
) -> tuple[int, np.ndarray, np.ndarray]:
    """Cluster the corpus pieces of the training split; assign every corpus piece."""
    fitted_on = splits.train[~pieces.is_reference[splits.train]]
    topics = fit_topics(counts[fitted_on], config.num_topics, config.projection_dim, config.seed)
    cluster, distance = topics.assign(counts)
    cluster[pieces.is_reference] = -1
    return len(topics), cluster, distance


def _train_topics(
    shares: csr_matrix,
    cluster: np.ndarray,
    num_topics: int,
    splits: Splits,
    config: FitConfig,
    say: Progress,
) -> Training | None:
    if num_topics < 2:
        return None
    weight = (cluster >= 0).astype(np.float32)
    target = Target(np.maximum(cluster, 0), weight, num_topics)
    heads_config = _heads_config(config, config.dim - QUALITY_DIM)
    return train_heads(
        shares,
        target,
        (splits.train, splits.stop),
        heads_config,
        lambda epoch: say("fit topics", epoch, config.epochs, "epochs"),
    )


def _train_quality(
    pieces: Pieces,
    shares: csr_matrix,
    shuffled: Pieces,
    splits: Splits,
    config: FitConfig,
    say: Progress,
) -> Training:
    from scipy.sparse import vstack

    num_shuffled = len(shuffled) if config.shuffled_share else 0
    extra = average(count_ngrams(shuffled, config.orders, config.num_buckets))[:num_shuffled]
    target = quality_target(pieces, num_shuffled, config.shuffled_share)
    original = np.flatnonzero(pieces.is_reference)[:num_shuffled]
    train, stop = (
        np.concatenate([split, len(pieces) + np.flatnonzero(np.isin(original, split))])
        for split in (splits.train, splits.stop)
    )
    return train_heads(
        vstack([shares, extra], format="csr"),
        target,
        (train, stop),
        _heads_config(config, QUALITY_DIM),
        lambda epoch: say("fit quality", epoch, config.epochs, "epochs"),
    )


def _no_topics(config: FitConfig) -> FloatModel:
    """The topic head of a corpus with one topic: constant."""
    dim = config.dim - QUALITY_DIM
    table = np.zeros((config.num_buckets, dim), dtype=np.float32)
    return FloatModel(table, np.zeros((1, dim), np.float32), np.zeros(1, np.float32))


def _heads_config(config: FitConfig, dim: int) -> HeadsConfig:
    return HeadsConfig(
        dim=dim,
        epochs=config.epochs,
        patience=config.patience,
        batch_pieces=config.batch_pieces,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )


def _quintiles(values: np.ndarray) -> np.ndarray:
    """Borders that leave a fifth of `values` in each state, where values do not repeat."""
    ranked = np.sort(values)
    places = [len(ranked) * state // NUM_QUALITY_STATES for state in range(1, NUM_QUALITY_STATES)]
    return ranked[places].astype(np.float32)
