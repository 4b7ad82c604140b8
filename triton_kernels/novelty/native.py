# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native novelty: allocate, hand over views, call once."""

import torch
from torch import Tensor

from .. import _native


def novelty_native(
    vectors: Tensor, centroids: Tensor, inverse_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the nearest centroids on the CPU; arguments as in novelty, already checked."""
    similarity = torch.empty(len(vectors), dtype=torch.float32)
    nearest = torch.empty(len(vectors), dtype=torch.int32)
    rest = (inverse_norms.numpy(), similarity.numpy(), nearest.numpy(), 0, len(vectors))
    if vectors.dtype == torch.float32:
        _native.novelty_fp32(vectors.numpy(), centroids.numpy(), *rest)
        return similarity, nearest
    bits = (vectors.view(torch.uint16).numpy(), centroids.view(torch.uint16).numpy())
    if vectors.dtype == torch.float16:
        _native.novelty_fp16(*bits, *rest)
    else:
        _native.novelty_bf16(*bits, *rest)
    return similarity, nearest
