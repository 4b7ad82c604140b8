# SPDX-License-Identifier: Apache-2.0
"""Cosine rewards: <g_ref, g_x> / (|g_ref| |g_x|), from the gradient of every single document.

The published reward (P = I). The ghost form gives inner products, not the norm of g_x, so every
document has a forward and backward pass of its own, and its gradient is held once.
Cost: the training cost of the probes' tokens in small passes, plus three reads of all parameters
for each document; meant for models of some millions of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .reference import ReferenceGradient, document_gradient
from .scratch import Scratch


def cosine_rewards(
    model: nn.Module,
    documents: Sequence[np.ndarray],
    row_tokens: int,
    reference: ReferenceGradient,
) -> np.ndarray:
    """Return the cosine of each document's gradient and the reference gradient.

    Args:
        model: in the mode it is to be measured in.
        documents: n arrays of token ids.
        row_tokens: longer documents are cut into rows of this many tokens.
        reference: of the same model.

    Returns:
        [n] float64 in [-1, 1]; 0 where a document predicts nothing or a gradient vanishes.
    """
    parameters = list(reference.gradients)
    targets = list(reference.gradients.values())
    reference_norm = _dot(targets, targets) ** 0.5
    rewards = np.zeros(len(documents))
    scratch = Scratch()
    for i, document in enumerate(documents):
        if len(document) < 2:
            continue
        gradients = document_gradient(model, document, row_tokens, parameters, scratch)
        norm = _dot(gradients, gradients) ** 0.5 * reference_norm
        rewards[i] = _dot(gradients, targets) / norm if norm > 0 else 0.0
    return rewards


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the inner product over all tensors, added in fp64 from one fp32 dot each."""
    dots = [torch.dot(a.flatten(), b.flatten()) for a, b in zip(left, right, strict=True)]
    return float(torch.stack(dots).sum(dtype=torch.float64))
