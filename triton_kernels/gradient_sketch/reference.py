# SPDX-License-Identifier: Apache-2.0
"""gradient_sketch in plain torch: the formula of docs/ops/gradient_sketch.md and nothing else.

No checks (the op makes them) and no triton. Documents one by one: a sketch sees its own tokens
alone. Shape suffixes: T tokens, I inputs and O outputs of a layer, P and Q ranks, N documents.
"""

import torch
from torch import Tensor

from ..hashing import hash_ids


def gradient_sketch(
    activations_TI: Tensor,
    output_grads_TO: Tensor,
    input_projection_IP: Tensor,
    output_projection_OQ: Tensor,
    cu_seqlens: Tensor,
) -> Tensor:
    """Return the sum over a document's tokens of (b_t Q) (a_t P)^T, [N, Q, P]."""
    dtype = output_grads_TO.dtype
    wide = torch.promote_types(dtype, torch.float32)
    activations_TI, input_projection_IP = activations_TI.to(dtype), input_projection_IP.to(dtype)
    output_projection_OQ = output_projection_OQ.to(dtype)
    ends = cu_seqlens.tolist()
    shape = (len(ends) - 1, output_projection_OQ.shape[1], input_projection_IP.shape[1])
    sketch_NQP = output_grads_TO.new_zeros(shape, dtype=wide)
    for i, (begin, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        left_TQ = (output_grads_TO[begin:end] @ output_projection_OQ).to(wide)
        right_TP = (activations_TI[begin:end] @ input_projection_IP).to(wide)
        sketch_NQP[i] = left_TQ.T @ right_TP
    return sketch_NQP


def signs(features: int, rank: int, seed: int, device: torch.device) -> Tensor:
    """Return -1 or 1 by the top bit of the hash of (place, seed), [features, rank] float32."""
    places = torch.arange(features * rank, dtype=torch.int64, device=device)
    top = hash_ids(places, seed) >> 31
    return (1.0 - 2.0 * top.to(torch.float32)).view(features, rank)
