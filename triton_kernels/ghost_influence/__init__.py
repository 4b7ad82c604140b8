# SPDX-License-Identifier: Apache-2.0
"""Ghost influence: what each token of a batch would add to a step along a direction G.

For a layer, <G, g_x> is the sum over the tokens of x of b_t . (G a_t): activations and output
gradients suffice, and no gradient of a single document is ever formed. The ops give one partial
per token and layer; `document_sums` adds the partials of a document in a fixed order.

Triton kernels on CUDA, the plain torch of `reference.py` on the CPU. The kernels' partials do not
depend on the other tokens of the batch, nor on the layers launched together; nothing is read back
to the host. Nothing here is differentiable.
Source: docs/ops/ghost_influence.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..dispatch import Implementation
from . import ops

__all__ = [
    "document_sums",
    "embedding_influence",
    "ghost_influence",
    "layer_influences",
    "scale_influence",
]


def ghost_influence(
    activations: Tensor,
    output_grads: Tensor,
    direction: Tensor,
    bias_direction: Tensor | None = None,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return each token's share of <G, gradient> in a linear layer y = W a + bias.

    Products are taken in the dtype of `output_grads`, dots are summed in fp32 or better.
    Deterministic; linear in `direction`.

    Args:
        activations: [T, I] floating, the layer's inputs a_t; cast to the dtype of `output_grads`.
        output_grads: [T, O] floating, b_t = d loss / d y_t of a SUMMED loss.
        direction: [O, I] floating, G, shaped like the weight; cast as the activations are, at
            each call: keep it in that dtype.
        bias_direction: [O] floating, G of the bias; None where the layer has none.
        implementation: "auto" takes the kernel on CUDA and the reference on the CPU; there is no
            native routine. "triton" on CPU tensors needs TRITON_INTERPRET=1.

    Returns:
        [T], fp32 (fp64 for fp64 inputs): b_t . (G a_t) + b_t . G_b.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    _check_layer(activations, output_grads, direction, bias_direction)
    partials = ops.LAYERS(
        [activations], [output_grads], [direction], [bias_direction], implementation
    )
    return partials[0]


def layer_influences(
    activations: Sequence[Tensor],
    output_grads: Sequence[Tensor],
    directions: Sequence[Tensor],
    bias_directions: Sequence[Tensor | None] | None = None,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return `ghost_influence` of many linear layers that saw the same tokens.

    On CUDA layers of one shape share a launch, eight at most. A row has the bits that
    `ghost_influence` gives for its layer alone. `document_sums` takes the result as it is.

    Args:
        activations: L tensors [T, I_l], I_l and O_l of each layer's own.
        output_grads: L tensors [T, O_l], all of one dtype.
        directions: L tensors [O_l, I_l].
        bias_directions: L tensors [O_l] or None; None where no layer has a bias.
        implementation: as in ghost_influence.

    Returns:
        [L, T], fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: no layer, lists of different lengths, or layers that do not fit together.
    """
    num_layers = len(directions)
    biases = [None] * num_layers if bias_directions is None else list(bias_directions)
    if num_layers == 0 or {len(activations), len(output_grads), len(biases)} != {num_layers}:
        raise ValueError(
            f"{len(activations)} activations, {len(output_grads)} output_grads, {num_layers} "
            f"directions, {len(biases)} bias_directions; pass one of each for a layer, and a layer"
        )
    for layer in zip(activations, output_grads, directions, biases, strict=True):
        _check_layer(*layer)
    first = output_grads[0]
    for grads in output_grads:
        if len(grads) != len(first) or grads.dtype != first.dtype or grads.device != first.device:
            raise ValueError(
                "layers must share tokens, dtype and device: output_grads are "
                f"{len(first)} x {first.dtype} on {first.device} and "
                f"{len(grads)} x {grads.dtype} on {grads.device}"
            )
    return ops.LAYERS(
        list(activations), list(output_grads), list(directions), biases, implementation
    )


def scale_influence(
    normalised: Tensor,
    output_grads: Tensor,
    direction: Tensor | None,
    bias_direction: Tensor | None = None,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return each token's share of <G, gradient> in a norm y = gamma * xhat + bias.

    Args:
        normalised: [T, D] floating, xhat, the input before gamma.
        output_grads: [T, D] floating, b_t.
        direction: [D] floating, G of gamma; None where gamma does not train.
        bias_direction: [D] floating, G of the bias, or None.
        implementation: as in ghost_influence.

    Returns:
        [T], fp32 (fp64 for fp64 output_grads): b_t . (G_gamma * xhat_t) + b_t . G_b.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    _require(normalised.dim() == 2, "normalised", "[T, D]", normalised)
    shape = tuple(normalised.shape)
    _require(output_grads.shape == shape, "output_grads", f"{list(shape)}", output_grads)
    for name, vector in (("direction", direction), ("bias_direction", bias_direction)):
        if vector is not None:
            _require(vector.shape == shape[1:], name, f"[{shape[1]}]", vector)
    _require_floating_together(normalised, output_grads, direction, bias_direction)
    return ops.SCALE(normalised, output_grads, direction, bias_direction, implementation)


def embedding_influence(
    tokens: Tensor,
    output_grads: Tensor,
    direction: Tensor,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return each token's share of <G, gradient> in an embedding y_t = W[token_t].

    Args:
        tokens: [T] int32 or int64, in [0, V).
        output_grads: [T, D] floating, e_t.
        direction: [V, D] floating, G.
        implementation: as in ghost_influence.

    Returns:
        [T], fp32 or fp64: e_t . G[token_t]. In the kernel a token out of range gives NaN.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        IndexError: on the CPU, a token out of range.
    """
    _require(tokens.dim() == 1, "tokens", "[T]", tokens)
    if tokens.dtype not in {torch.int32, torch.int64}:
        raise ValueError(f"tokens are {tokens.dtype}; they must be int32 or int64")
    fits = output_grads.dim() == 2 and len(output_grads) == len(tokens)
    _require(fits, "output_grads", f"[{len(tokens)}, D]", output_grads)
    fits = direction.dim() == 2 and direction.shape[1] == output_grads.shape[1]
    _require(fits, "direction", f"[V, {output_grads.shape[1]}]", direction)
    _require_floating_together(output_grads, direction)
    if tokens.device != direction.device:
        raise ValueError(f"tokens lie on {tokens.device}, direction on {direction.device}")
    return ops.EMBEDDING(tokens, output_grads, direction, implementation)


def document_sums(
    partials: Tensor, cu_seqlens: Tensor, *, implementation: Implementation = "auto"
) -> Tensor:
    """Add the partials of each document in fp64: over the layers, then over its tokens.

    The sum of a document does not depend on what stands before or after it. The reference adds
    from the first token to the last, the kernel in 512 lanes counted from the first token and then
    across the lanes: two fixed orders, equal up to fp64 rounding.

    Args:
        partials: [T] floating, or [L, T]: the layers are added first, from the first to the last.
        cu_seqlens: [N + 1] int64, rising from 0 to T: document i is [cu[i], cu[i + 1]).
        implementation: as in ghost_influence.

    Returns:
        [N] float64; 0 for an empty document.

    Raises:
        ValueError: wrong shapes; on the CPU also `cu_seqlens` that does not cut [0, T) into
            documents. On CUDA its content is not looked at, only cut to [0, T].
    """
    if partials.dim() not in {1, 2} or (partials.dim() == 2 and len(partials) == 0):
        raise ValueError(f"partials must have shape [T] or [L, T], not {list(partials.shape)}")
    num_tokens = partials.shape[-1]
    fits = cu_seqlens.dim() == 1 and len(cu_seqlens) > 0
    if fits and cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        fits = (
            int(cu_seqlens[0]) == 0
            and int(cu_seqlens[-1]) == num_tokens
            and bool((cu_seqlens.diff() >= 0).all())
        )
    if not fits:
        raise ValueError(
            f"cu_seqlens must rise from 0 to the {num_tokens} partials given; "
            "pass document boundaries [0, ..., T]"
        )
    if cu_seqlens.device != partials.device:
        raise ValueError(f"cu_seqlens lies on {cu_seqlens.device}, partials on {partials.device}")
    return ops.SUMS(
        partials if partials.dim() == 2 else partials[None],
        cu_seqlens.to(torch.int64),
        implementation,
    )


def _check_layer(
    activations: Tensor, output_grads: Tensor, direction: Tensor, bias_direction: Tensor | None
) -> None:
    """Raise ValueError when the tensors of a linear layer do not fit together."""
    _require(activations.dim() == 2, "activations", "[T, I]", activations)
    tokens, inputs = activations.shape
    fits = output_grads.dim() == 2 and len(output_grads) == tokens
    _require(fits, "output_grads", f"[{tokens}, O]", output_grads)
    outputs = output_grads.shape[1]
    _require(direction.shape == (outputs, inputs), "direction", f"[{outputs}, {inputs}]", direction)
    if bias_direction is not None:
        fits = bias_direction.shape == (outputs,)
        _require(fits, "bias_direction", f"[{outputs}]", bias_direction)
    _require_floating_together(output_grads, activations, direction, bias_direction)


def _require(fits: bool, name: str, shape: str, given: Tensor) -> None:
    """Raise when an argument has the wrong shape."""
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, not {list(given.shape)}")


def _require_floating_together(first: Tensor, *others: Tensor | None) -> None:
    """Raise unless all tensors hold floats and lie on one device."""
    for tensor in (first, *others):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"all tensors must be floating, one is {tensor.dtype}")
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"tensors lie on {first.device} and {tensor.device}; move them to one")
