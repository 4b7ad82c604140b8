# SPDX-License-Identifier: Apache-2.0
"""Features of pieces: how often each hashed n-gram occurs, as a sparse matrix, and its tf-idf form.

The bucket of an n-gram comes from `document_scores` itself, so that what is fitted here is what the
op reads. No n-gram crosses a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...triton_kernels.hashing import HASH_START, absorb, finish
from .pieces import Pieces

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def count_ngrams(pieces: Pieces, orders: tuple[int, ...], num_buckets: int) -> csr_matrix:
    """Count the hashed n-grams of every piece.

    Returns:
        [n, num_buckets] float32 CSR matrix, indices sorted in each row; a row sums to its number of
        n-grams.
    """
    from scipy.sparse import csr_matrix

    rows, buckets = [], []
    for order in orders:
        starts, owner = ngram_starts(pieces, order)
        rows.append(owner)
        buckets.append(_buckets(pieces.tokens, starts, order, num_buckets))
    row_pos, bucket = np.concatenate(rows), np.concatenate(buckets)
    shape = (len(pieces), num_buckets)
    counts = csr_matrix((np.ones(len(bucket), dtype=np.float32), (row_pos, bucket)), shape=shape)
    counts.sum_duplicates()
    return counts


def ngram_starts(pieces: Pieces, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Find where the n-grams of one order start.

    Returns:
        (starts, owner), each [m] int64: the position of the first token, and the piece it belongs
        to.
    """
    num_ngrams = np.maximum(pieces.lengths - (order - 1), 0)
    owner = np.repeat(np.arange(len(pieces)), num_ngrams)
    before = np.cumsum(num_ngrams) - num_ngrams
    nth = np.arange(len(owner)) - np.repeat(before, num_ngrams)
    return pieces.cu_seqlens[:-1][owner] + nth, owner


def average(counts: csr_matrix) -> csr_matrix:
    """Divide each row by its sum: the weights of the op's mean over n-grams."""
    total = np.asarray(counts.sum(axis=1)).ravel()
    return _scale_rows(counts, 1.0 / np.maximum(total, 1.0))


@dataclass(frozen=True)
class Tfidf:
    """Weights learned on a sample: which buckets count for topics, and how much.

    Attributes:
        bucket: [f] int64, the buckets kept, ascending.
        weight: [f] float32, their inverse document frequency.
    """

    bucket: np.ndarray
    weight: np.ndarray

    @staticmethod
    def fit(counts: csr_matrix, min_pieces: int, max_share: float) -> Tfidf:
        """Keep the buckets in at least `min_pieces` pieces and at most `max_share` of them.

        Where none is left (a handful of pieces), every bucket that occurs is kept.
        """
        num_pieces = counts.shape[0]
        occurrences = np.bincount(counts.indices, minlength=counts.shape[1])
        kept = (occurrences >= min_pieces) & (occurrences <= max_share * num_pieces)
        if np.count_nonzero(kept) < 2:
            kept = occurrences > 0
        bucket = np.flatnonzero(kept)
        weight = np.log((1.0 + num_pieces) / (1.0 + occurrences[bucket])) + 1.0
        return Tfidf(bucket, weight.astype(np.float32))

    def transform(self, counts: csr_matrix) -> csr_matrix:
        """Return [n, f] float32 rows (1 + log count) * idf of unit length (or zero)."""
        weighted = counts[:, self.bucket].tocsr()
        weighted.data = (1.0 + np.log(weighted.data)).astype(np.float32)
        weighted.data *= self.weight[weighted.indices]
        length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return _scale_rows(weighted, 1.0 / np.maximum(length, 1e-12))


def _scale_rows(matrix: csr_matrix, factors: np.ndarray) -> csr_matrix:
    scaled = matrix.copy()
    scaled.data = scaled.data * np.repeat(factors, np.diff(scaled.indptr)).astype(np.float32)
    return scaled


def _buckets(tokens: np.ndarray, starts: np.ndarray, order: int, num_buckets: int) -> np.ndarray:
    words = torch.from_numpy(tokens.astype(np.int64))
    first = torch.from_numpy(starts)
    state = torch.full_like(first, HASH_START)
    for place in range(order):
        state = absorb(state, words[first + place])
    return (finish(state) & (num_buckets - 1)).numpy()
