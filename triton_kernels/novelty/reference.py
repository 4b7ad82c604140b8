# SPDX-License-Identifier: Apache-2.0
"""novelty in plain torch: the formula of docs/ops/novelty.md and nothing else.

Shape suffixes: N vectors, K centroids, D dimensions.
"""

import torch
from torch import Tensor


def novelty_reference(
    vectors_ND: Tensor, centroids_KD: Tensor, inverse_norms_K: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the largest cosine of each vector and the first centroid that has it.

    Computes in fp32, or in the vectors' dtype where that is wider; forms the N x K products.
    """
    dtype = torch.promote_types(vectors_ND.dtype, torch.float32)
    vectors_ND = vectors_ND.to(dtype)
    products_NK = vectors_ND @ centroids_KD.to(dtype).T * inverse_norms_K.to(dtype)
    products_NK = torch.where(products_NK.isnan(), -torch.inf, products_NK)
    largest_N = products_NK.amax(1)
    nearest_N = (products_NK == largest_N[:, None]).to(torch.int32).argmax(1)
    return largest_N * inverse_norms(vectors_ND), nearest_N.to(torch.int32)


def inverse_norms(vectors_ND: Tensor) -> Tensor:
    """Return 1 / length of each vector; 0 for length 0, NaN where its square is not finite."""
    square_N = vectors_ND.square().sum(1)
    inverse_N = torch.where(square_N > 0, square_N.rsqrt(), 0.0)
    return torch.where(square_N.isfinite(), inverse_N, torch.nan)
