# SPDX-License-Identifier: Apache-2.0
"""ngram_log_ratio in plain torch: the specification that kernel and native routine reproduce.

N-grams and their buckets are those of document_scores: an n-gram of order k starts at every token
that has k - 1 followers in its document. Sums are exact integers, rounded once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..hashing import HASH_START, absorb, finish
from .tables import STEP


def ngram_buckets(
    tokens: Tensor, cu_seqlens: Tensor, num_buckets: int, orders: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each order the document and the bucket of every n-gram, two int64 vectors."""
    document = torch.repeat_interleave(cu_seqlens.diff())
    words = tokens[cu_seqlens[0] : cu_seqlens[-1]].to(torch.int64)
    place = torch.arange(1, len(words) + 1, device=words.device)
    followers = cu_seqlens[1:][document] - cu_seqlens[0] - place
    state = torch.full_like(words, HASH_START)
    for order in range(1, orders.bit_length()):
        state = absorb(state, words.roll(1 - order))
        if orders >> order & 1:
            is_start = followers >= order - 1
            yield document[is_start], finish(state[is_start]) & (num_buckets - 1)


def ngram_log_ratio_reference(
    tokens: Tensor, cu_seqlens: Tensor, table: Tensor, orders: int
) -> Tensor:
    """Sum the table over each document's n-grams: [n] float64."""
    sums = torch.zeros(len(cu_seqlens) - 1, dtype=torch.int64, device=tokens.device)
    for document, bucket in ngram_buckets(tokens, cu_seqlens, len(table), orders):
        sums.index_add_(0, document, table[bucket].to(torch.int64))
    return sums.to(torch.float64) * STEP


def ngram_counts_reference(
    tokens: Tensor, cu_seqlens: Tensor, num_buckets: int, orders: int
) -> Tensor:
    """Count the n-grams of all documents in each bucket: [B] int64."""
    counts = torch.zeros(num_buckets, dtype=torch.int64, device=tokens.device)
    for _, bucket in ngram_buckets(tokens, cu_seqlens, num_buckets, orders):
        counts += torch.bincount(bucket, minlength=num_buckets)
    return counts
