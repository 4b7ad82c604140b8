# SPDX-License-Identifier: Apache-2.0
"""Topics: k-means over a dense projection of the pieces' tf-idf weighted hashed n-grams.

Deterministic for a seed whatever the number of threads: the linear algebra runs on one. Topics are
numbered by falling size. Needs scikit-learn (the `label` extra).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .features import Tfidf

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MIN_PIECES = 5  # a bucket seen in fewer pieces tells documents apart, not topics
MAX_SHARE = 0.5  # a bucket seen in more than half of all pieces tells nothing
SVD_ITERATIONS = 4
KMEANS_STARTS = 4


@dataclass(frozen=True)
class Topics:
    """Fitted clusters.

    Attributes:
        tfidf: the weights of the buckets.
        projection: scikit-learn's TruncatedSVD, or None where the sample is too small for one.
        centroids: [k, d] float64.
    """

    tfidf: Tfidf
    projection: Any
    centroids: np.ndarray

    def __len__(self) -> int:
        return len(self.centroids)

    def embed(self, counts: csr_matrix) -> np.ndarray:
        """Project counts [n, B] to unit vectors [n, d] float64."""
        return _embed(self.tfidf, self.projection, counts)

    def assign(self, counts: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest centroid of every piece, [n] int64, and its squared distance, [n]."""
        points = self.embed(counts)
        products = points @ self.centroids.T
        distance = (points**2).sum(axis=1)[:, None] - 2 * products
        distance += (self.centroids**2).sum(axis=1)[None, :]
        topic = distance.argmin(axis=1)
        return topic, distance[np.arange(len(topic)), topic]


def fit_topics(counts: csr_matrix, num_topics: int, projection_dim: int, seed: int) -> Topics:
    """Cluster pieces by their n-grams.

    With fewer distinct pieces than topics, as many topics are made as there are distinct pieces.

    Args:
        counts: [n, B] hashed n-gram counts, n >= 1.
        num_topics: clusters wanted.
        projection_dim: dimensions k-means works in.
        seed: of the projection and of the first centroids.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        tfidf = Tfidf.fit(counts, MIN_PIECES, MAX_SHARE)
        projection = _fit_projection(tfidf.transform(counts), projection_dim, seed)
        points = _embed(tfidf, projection, counts)
        num_distinct = len(np.unique(points.round(6), axis=0))
        clusters = KMeans(min(num_topics, num_distinct), n_init=KMEANS_STARTS, random_state=seed)
        clusters.fit(points)
    sizes = np.bincount(clusters.labels_, minlength=clusters.n_clusters)
    by_size = np.argsort(-sizes, kind="stable")
    return Topics(tfidf, projection, clusters.cluster_centers_[by_size].astype(np.float64))


def _fit_projection(weighted: csr_matrix, projection_dim: int, seed: int) -> Any:
    from sklearn.decomposition import TruncatedSVD

    dim = min(projection_dim, min(weighted.shape) - 1)
    if dim < 2:
        return None
    return TruncatedSVD(dim, n_iter=SVD_ITERATIONS, random_state=seed).fit(weighted)


def _embed(tfidf: Tfidf, projection: Any, counts: csr_matrix) -> np.ndarray:
    weighted = tfidf.transform(counts)
    points = weighted.toarray() if projection is None else projection.transform(weighted)
    points = points.astype(np.float64)
    length = np.sqrt((points**2).sum(axis=1, keepdims=True))
    return points / np.maximum(length, 1e-12)
