# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native novelty: allocate, hand over views, call once."""

import torch
from torch import Tensor

from .. import _native

_ROUTINES = {
    torch.float32: "novelty_fp32",
    torch.float16: "novelty_fp16",
    torch.bfloat16: "novelty_bf16",
}


def novelty_native(
    vectors: Tensor, centroids: Tensor, inverse_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the nearest centroids on the CPU; arguments as in novelty, already checked."""
    return find_nearest(vectors, centroids, inverse_norms, may_be_wide=True)


def find_nearest(
    vectors: Tensor, centroids: Tensor, inverse_norms: Tensor, *, may_be_wide: bool
) -> tuple[Tensor, Tensor]:
    """Without `may_be_wide` the loop for AVX2 runs, as on a machine that lacks AVX-512."""
    similarity = torch.empty(len(vectors), dtype=torch.float32)
    nearest = torch.empty(len(vectors), dtype=torch.int32)
    routine = getattr(_native, _ROUTINES[vectors.dtype])
    if vectors.dtype != torch.float32:  # NumPy has no bfloat16: bits travel
        vectors, centroids = vectors.view(torch.uint16), centroids.view(torch.uint16)
    given = (vectors, centroids, inverse_norms, similarity, nearest)
    routine(*(tensor.numpy() for tensor in given), 0, len(vectors), may_be_wide)
    return similarity, nearest
