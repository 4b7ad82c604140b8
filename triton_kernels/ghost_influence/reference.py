# SPDX-License-Identifier: Apache-2.0
"""Ghost influence in plain torch: the formulas of docs/ops/ghost_influence.md and nothing else.

No shape checks (the op makes them) and no triton. Shape suffixes: T tokens, I inputs and
O outputs of a layer, D width, V vocabulary, N documents, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def layer_influences(
    activations: Sequence[Tensor],
    output_grads: Sequence[Tensor],
    directions: Sequence[Tensor],
    bias_directions: Sequence[Tensor | None],
) -> Tensor:
    """Return the terms of every layer and token, [L, T]."""
    layers = zip(activations, output_grads, directions, bias_directions, strict=True)
    return torch.stack([linear_influence(*layer) for layer in layers])


def linear_influence(
    activations_TI: Tensor,
    output_grads_TO: Tensor,
    direction_OI: Tensor,
    bias_direction_O: Tensor | None,
) -> Tensor:
    """Return b_t . (G a_t) + b_t . G_b for every token, [T]."""
    activations_TI = activations_TI.to(output_grads_TO.dtype)
    direction_OI = direction_OI.to(output_grads_TO.dtype)
    if direction_OI.shape[0] > direction_OI.shape[1]:
        # The same number, (G^T b_t) . a_t: the product is written at the narrower width.
        partials_T = _row_dots(output_grads_TO @ direction_OI, activations_TI)
    else:
        partials_T = _row_dots(activations_TI @ direction_OI.T, output_grads_TO)
    if bias_direction_O is None:
        return partials_T
    return partials_T + wide(output_grads_TO) @ bias_direction_O.to(partials_T.dtype)


def scale_influence(
    normalised_TD: Tensor,
    output_grads_TD: Tensor,
    direction_D: Tensor | None,
    bias_direction_D: Tensor | None,
) -> Tensor:
    """Return b_t . (G_gamma * xhat_t) + b_t . G_b for every token, [T]."""
    output_grads_TD = wide(output_grads_TD)
    dtype = output_grads_TD.dtype
    partials_T = output_grads_TD.new_zeros(output_grads_TD.shape[0])
    if direction_D is not None:
        partials_T = (normalised_TD.to(dtype) * output_grads_TD) @ direction_D.to(dtype)
    if bias_direction_D is not None:
        partials_T = partials_T + output_grads_TD @ bias_direction_D.to(dtype)
    return partials_T


def embedding_influence(tokens_T: Tensor, output_grads_TD: Tensor, direction_VD: Tensor) -> Tensor:
    """Return e_t . G[token_t] for every token, [T]."""
    return _row_dots(direction_VD[tokens_T], output_grads_TD)


def document_sums(partials_LT: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the sum of each document's partials, [N] float64, added from its first token on."""
    partials_T = partials_LT[0].double()
    for more_T in partials_LT[1:]:
        partials_T = partials_T + more_T
    return torch.segment_reduce(
        partials_T, "sum", offsets=cu_seqlens, axis=0, initial=0.0, unsafe=True
    )


def wide(x: Tensor) -> Tensor:
    """Return x in fp32 or better, in which dots are summed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _row_dots(x_TD: Tensor, y_TD: Tensor) -> Tensor:
    """Return the dot of each row of x with the same row of y."""
    return (wide(x_TD) * y_TD).sum(-1)
