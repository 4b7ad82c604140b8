# SPDX-License-Identifier: Apache-2.0
"""Ghost influence: what each token of a batch would add to a step along a direction G.

For a layer, <G, g_x> is the sum over the tokens of x of b_t . (G a_t): activations and output
gradients suffice, and no gradient of a single document is ever formed. The op gives one partial
per token and layer; `document_sums` adds the partials of a document in a fixed order.
Today every device takes the plain torch of `reference.py`.
Source: docs/ops/ghost_influence.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference

__all__ = ["document_sums", "embedding_influence", "ghost_influence", "scale_influence"]


def ghost_influence(
    activations: Tensor,
    output_grads: Tensor,
    direction: Tensor,
    bias_direction: Tensor | None = None,
) -> Tensor:
    """Return each token's share of <G, gradient> in a linear layer y = W a + bias.

    Products are taken in the dtype of `output_grads`, dots are summed in fp32 or better.
    Deterministic; linear in `direction`.

    Args:
        activations: [T, I] floating, the layer's inputs a_t; cast to the dtype of `output_grads`.
        output_grads: [T, O] floating, b_t = d loss / d y_t of a SUMMED loss.
        direction: [O, I] floating, G, shaped like the weight.
        bias_direction: [O] floating, G of the bias; None where the layer has none.

    Returns:
        [T], fp32 (fp64 for fp64 inputs): b_t . (G a_t) + b_t . G_b.

    Raises:
        ValueError: shapes do not fit together.
    """
    _require(activations.dim() == 2, "activations", "[T, I]", activations)
    tokens, inputs = activations.shape
    _require(
        output_grads.dim() == 2 and len(output_grads) == tokens,
        "output_grads",
        f"[{tokens}, O]",
        output_grads,
    )
    outputs = output_grads.shape[1]
    _require(direction.shape == (outputs, inputs), "direction", f"[{outputs}, {inputs}]", direction)
    if bias_direction is not None:
        fits = bias_direction.shape == (outputs,)
        _require(fits, "bias_direction", f"[{outputs}]", bias_direction)
    return reference.linear_influence(activations, output_grads, direction, bias_direction)


def scale_influence(
    normalised: Tensor,
    output_grads: Tensor,
    direction: Tensor | None,
    bias_direction: Tensor | None = None,
) -> Tensor:
    """Return each token's share of <G, gradient> in a norm y = gamma * xhat + bias.

    Args:
        normalised: [T, D] floating, xhat, the input before gamma.
        output_grads: [T, D] floating, b_t.
        direction: [D] floating, G of gamma; None where gamma does not train.
        bias_direction: [D] floating, G of the bias, or None.

    Returns:
        [T], fp32 or fp64: b_t . (G_gamma * xhat_t) + b_t . G_b.

    Raises:
        ValueError: shapes do not fit together.
    """
    _require(normalised.dim() == 2, "normalised", "[T, D]", normalised)
    shape = tuple(normalised.shape)
    _require(output_grads.shape == shape, "output_grads", f"{list(shape)}", output_grads)
    for name, vector in (("direction", direction), ("bias_direction", bias_direction)):
        if vector is not None:
            _require(vector.shape == shape[1:], name, f"[{shape[1]}]", vector)
    return reference.scale_influence(normalised, output_grads, direction, bias_direction)


def embedding_influence(tokens: Tensor, output_grads: Tensor, direction: Tensor) -> Tensor:
    """Return each token's share of <G, gradient> in an embedding y_t = W[token_t].

    Args:
        tokens: [T] int64, in [0, V).
        output_grads: [T, D] floating, e_t.
        direction: [V, D] floating, G.

    Returns:
        [T], fp32 or fp64: e_t . G[token_t].

    Raises:
        ValueError: shapes do not fit together.
    """
    _require(tokens.dim() == 1, "tokens", "[T]", tokens)
    fits = output_grads.dim() == 2 and len(output_grads) == len(tokens)
    _require(fits, "output_grads", f"[{len(tokens)}, D]", output_grads)
    fits = direction.dim() == 2 and direction.shape[1] == output_grads.shape[1]
    _require(fits, "direction", f"[V, {output_grads.shape[1]}]", direction)
    return reference.embedding_influence(tokens, output_grads, direction)


def document_sums(partials: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Add the partials of each document, from its first token to its last, in fp64.

    The sum of a document does not depend on what stands before or after it.

    Args:
        partials: [T] floating.
        cu_seqlens: [N + 1] int64, rising from 0 to T: document i is [cu[i], cu[i + 1]).

    Returns:
        [N] float64; 0 for an empty document.

    Raises:
        ValueError: `cu_seqlens` does not cut [0, T) into documents.
    """
    ends_fit = (
        cu_seqlens.dim() == 1
        and len(cu_seqlens) > 0
        and int(cu_seqlens[0]) == 0
        and int(cu_seqlens[-1]) == len(partials)
        and bool((cu_seqlens.diff() >= 0).all())
    )
    if not ends_fit:
        raise ValueError(
            f"cu_seqlens must rise from 0 to the {len(partials)} partials given; "
            "pass document boundaries [0, ..., T]"
        )
    return reference.document_sums(partials, cu_seqlens.to(torch.int64))


def _require(fits: bool, name: str, shape: str, given: Tensor) -> None:
    """Raise when an argument has the wrong shape."""
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, not {list(given.shape)}")
