# SPDX-License-Identifier: Apache-2.0
"""The fit itself: pieces in memory -> an n-gram model with a quality head and topic heads.

A pure function of its pieces and its settings: the same in, the same bits out. Three disjoint sets of documents:
one to fit on, one to say when to stop, one that only the report sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...triton_kernels.document_scores import NgramModel
from ..errors import AgentError
from .config import FitConfig
from .features import average, count_ngrams
from .heads import HeadsConfig, Targets, Training, train_heads
from .pieces import Pieces
from .quantize import Agreement, compare, quantize, score
from .topics import Topics, fit_topics

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NUM_QUALITY_STATES = 5
MIN_DOCUMENTS = 10  # below this no split leaves something to fit, to stop by and to report on

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Splits:
    """Positions of pieces, [m] int64 each, disjoint by document."""

    train: np.ndarray
    stop: np.ndarray
    heldout: np.ndarray


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
        training: the float model and its losses.
        agreement: float against quantised values, over all pieces.
    """

    model: NgramModel
    edges: np.ndarray
    splits: Splits
    cluster: np.ndarray
    distance: np.ndarray
    values: np.ndarray
    training: Training
    agreement: Agreement

    @property
    def topic(self) -> np.ndarray:
        """The topic the model gives each piece, [n] int64: the first of its largest topic values."""
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
        progress: told the name of a stage and the share of it done, in [0, 1].

    Raises:
        AgentError: too few documents of either kind.
    """
    say = progress or (lambda stage, share: None)
    splits = split_documents(pieces, config.heldout_share, config.seed)
    say("count n-grams", 0.0)
    counts = count_ngrams(pieces, config.orders, config.num_buckets)
    say("cluster topics", 0.0)
    topics, cluster, distance = _cluster(pieces, counts, splits, config)
    targets = Targets(pieces.is_reference, cluster, len(topics))
    shares = average(counts)
    training = train_heads(
        shares,
        targets,
        (splits.train, splits.stop),
        _heads_config(config),
        lambda share: say("train heads", share),
    )
    say("quantise", 0.0)
    model = quantize(training.model, config.orders)
    values = score(model, pieces)
    agreement = compare(training.model.logits(shares), values)
    edges = _quintiles(values[~pieces.is_reference, 0])
    say("quantise", 1.0)
    return Fit(model, edges, splits, cluster, distance, values, training, agreement)


def split_documents(pieces: Pieces, heldout_share: float, seed: int) -> Splits:
    """Split corpus and reference documents alike; at least one of each lands in every part.

    Raises:
        AgentError: fewer than ten documents of either kind.
    """
    rng = np.random.default_rng([seed, 2])
    parts: list[np.ndarray] = [np.zeros(len(pieces), dtype=np.int64)]
    part = parts[0]
    for is_reference, name in ((False, "training"), (True, "reference")):
        mine = pieces.is_reference == is_reference
        documents = rng.permutation(np.unique(pieces.document_id[mine]))
        if len(documents) < MIN_DOCUMENTS:
            raise AgentError(
                f"the {name} set gave {len(documents)} documents with text, and fitting needs at "
                f"least {MIN_DOCUMENTS}: build a larger corpus (`moot corpus`) or a larger "
                "reference set"
            )
        num_out = max(1, round(heldout_share * len(documents)))
        part[mine & np.isin(pieces.document_id, documents[:num_out])] = 1
        part[mine & np.isin(pieces.document_id, documents[num_out : 2 * num_out])] = 2
    return Splits(*(np.flatnonzero(part == number) for number in (0, 2, 1)))


def _cluster(
    pieces: Pieces, counts: csr_matrix, splits: Splits, config: FitConfig
) -> tuple[Topics, np.ndarray, np.ndarray]:
    """Cluster the corpus pieces of the training split; assign every corpus piece."""
    fitted_on = splits.train[~pieces.is_reference[splits.train]]
    topics = fit_topics(counts[fitted_on], config.num_topics, config.projection_dim, config.seed)
    cluster, distance = topics.assign(counts)
    cluster[pieces.is_reference] = -1
    return topics, cluster, distance


def _heads_config(config: FitConfig) -> HeadsConfig:
    return HeadsConfig(
        dim=config.dim,
        epochs=config.epochs,
        patience=config.patience,
        batch_pieces=config.batch_pieces,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )


def _quintiles(values: np.ndarray) -> np.ndarray:
    """Borders that leave a fifth of `values` in each state, where values do not repeat."""
    ranked = np.sort(values)
    places = [len(ranked) * state // NUM_QUALITY_STATES for state in range(1, NUM_QUALITY_STATES)]
    return ranked[places].astype(np.float32)
