# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native ngram_log_ratio: allocate, hand over views, call once."""

import torch
from torch import Tensor

from .. import _native


def ngram_log_ratio_native(
    tokens: Tensor, cu_seqlens: Tensor, table: Tensor, orders: int
) -> Tensor:
    """Sum the table over each document's n-grams on the CPU; arguments already checked."""
    num_documents = len(cu_seqlens) - 1
    ratios = torch.empty(num_documents, dtype=torch.float64)
    _native.ngram_log_ratio(
        tokens.numpy(), cu_seqlens.numpy(), table.numpy(), orders, ratios.numpy(), 0, num_documents
    )
    return ratios


def ngram_counts_native(
    tokens: Tensor, cu_seqlens: Tensor, num_buckets: int, orders: int
) -> Tensor:
    """Count the n-grams of all documents in each bucket on the CPU; arguments already checked."""
    counts = torch.zeros(num_buckets, dtype=torch.int64)
    last = len(cu_seqlens) - 1
    _native.count_ngrams(tokens.numpy(), cu_seqlens.numpy(), orders, counts.numpy(), 0, last)
    return counts
