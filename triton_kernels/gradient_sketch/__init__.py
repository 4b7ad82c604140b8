# SPDX-License-Identifier: Apache-2.0
"""gradient_sketch: the gradient of each document in a linear layer, projected on both sides.

Two Triton kernels on CUDA, plain torch on the CPU. Inner products of sketches estimate inner
products of gradients; no gradient is formed. Mathematics and cost: docs/ops/gradient_sketch.md.
"""

import math

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..registry import register
from . import reference

__all__ = ["gradient_sketch", "sketch_projection"]

DEFAULT_RANK = 64


def gradient_sketch(
    activations: Tensor,
    output_grads: Tensor,
    input_projection: Tensor,
    output_projection: Tensor,
    cu_seqlens: Tensor,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Return Q^T g P for the gradient g of each document, from activations and output gradients.

    A sketch depends on its document's tokens alone. Products are taken in the dtype of
    `output_grads`; the projected rows are rounded to it, sums are in fp32 or better. Not
    differentiable.

    Args:
        activations: [T, I] floating, the layer's inputs a_t.
        output_grads: [T, O] floating, b_t = d loss / d y_t of a SUMMED loss.
        input_projection: [I, P] floating, as `sketch_projection` makes it. Activations and both
            projections are cast to the dtype of `output_grads`, at each call where it differs.
        output_projection: [O, Q] floating. The kernel serves P and Q up to 64.
        cu_seqlens: [N + 1] int64, not descending, within [0, T]; document i is the tokens
            [cu[i], cu[i + 1]).
        implementation: "auto" takes the kernel on CUDA and the reference on the CPU; there is no
            native routine. "triton" on CPU tensors needs TRITON_INTERPRET=1.

    Returns:
        [N, Q, P], fp32 (fp64 for fp64 output_grads): sum over t of (Q^T b_t) (P^T a_t)^T.

    Raises:
        ValueError: a shape, dtype or device that does not fit; on the CPU also offsets out of
            range. On CUDA offsets are not looked at, only cut to [0, T].

    Source: Kronecker projections, Choe et al. 2024 (arXiv:2405.13954); docs/ops/gradient_sketch.md.
    """
    tensors = (activations, output_grads, input_projection, output_projection, cu_seqlens)
    _check(*tensors)
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_offsets(cu_seqlens, activations.shape[0])
    return _OP(*tensors, implementation)


def sketch_projection(
    features: int,
    rank: int = DEFAULT_RANK,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a random matrix of +-1/sqrt(rank): P P^T is the identity on average.

    Signs are a hash of (place, seed), the same on every device and in every release of torch.

    Args:
        features: Rows, I or O of a layer.
        rank: Columns; at 4, 16, 64, ... the entries are exact in every dtype.
        seed: In [-2**63, 2**63). Give each layer and each side its own: equal seeds give equal
            signs, and the errors of two layers would add up instead of averaging out.
        dtype: Floating.
        device: Where it is made.

    Returns:
        [features, rank].

    Raises:
        ValueError: a size below 1, or a seed out of range.
    """
    if features < 1 or rank < 1:
        raise ValueError(f"a projection of shape [{features}, {rank}]; both must be at least 1")
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}; it must fit in a signed 64-bit integer")
    return (reference.signs(features, rank, seed, torch.device(device)) / math.sqrt(rank)).to(dtype)


def _run(
    activations: Tensor,
    output_grads: Tensor,
    input_projection: Tensor,
    output_projection: Tensor,
    cu_seqlens: Tensor,
    implementation: str,
) -> Tensor:
    """Sketch by the implementation that is named last."""
    given = (activations, output_grads, input_projection, output_projection, cu_seqlens)
    if choose(implementation, output_grads.device, has_native=False) == "triton":
        from .kernel import gradient_sketch_fwd

        return gradient_sketch_fwd(*given)
    return reference.gradient_sketch(*given)


def _fake(
    activations: Tensor,
    output_grads: Tensor,
    input_projection: Tensor,
    output_projection: Tensor,
    cu_seqlens: Tensor,
    implementation: str,
) -> Tensor:
    """Empty result."""
    ranks = (output_projection.shape[1], input_projection.shape[1])
    wide = torch.promote_types(output_grads.dtype, torch.float32)
    return output_grads.new_empty((cu_seqlens.shape[0] - 1, *ranks), dtype=wide)


_OP = register(
    "gradient_sketch(Tensor activations, Tensor output_grads, Tensor input_projection, "
    "Tensor output_projection, Tensor cu_seqlens, str implementation) -> Tensor",
    _run,
    _fake,
)


def _check(
    activations: Tensor,
    output_grads: Tensor,
    input_projection: Tensor,
    output_projection: Tensor,
    cu_seqlens: Tensor,
) -> None:
    """Raise ValueError for shapes, dtypes and devices that do not fit."""
    _require(activations.dim() == 2, "activations", "[T, I]", activations)
    tokens, inputs = activations.shape
    fits = output_grads.dim() == 2 and output_grads.shape[0] == tokens
    _require(fits, "output_grads", f"[{tokens}, O]", output_grads)
    outputs = output_grads.shape[1]
    for name, matrix, width in (
        ("input_projection", input_projection, inputs),
        ("output_projection", output_projection, outputs),
    ):
        fits = matrix.dim() == 2 and matrix.shape[0] == width and matrix.shape[1] > 0
        _require(fits, name, f"[{width}, rank]", matrix)
    _require(cu_seqlens.dim() == 1 and cu_seqlens.shape[0] > 0, "cu_seqlens", "[N + 1]", cu_seqlens)
    if cu_seqlens.dtype != torch.int64:
        raise ValueError(f"cu_seqlens is {cu_seqlens.dtype}; it must be int64")
    for tensor in (activations, output_grads, input_projection, output_projection):
        if not tensor.is_floating_point():
            raise ValueError(f"all tensors but cu_seqlens must be floating, one is {tensor.dtype}")
        if tensor.device != cu_seqlens.device:
            raise ValueError(f"tensors lie on {tensor.device} and {cu_seqlens.device}; choose one")


def _check_offsets(cu_seqlens: Tensor, num_tokens: int) -> None:
    """Raise ValueError for offsets that descend or leave the tokens; looks at the data."""
    if bool((cu_seqlens.diff() < 0).any()) or cu_seqlens[0] < 0 or cu_seqlens[-1] > num_tokens:
        raise ValueError(
            f"cu_seqlens must not descend and must lie within [0, {num_tokens}], the tokens; it "
            f"runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}"
        )


def _require(fits: bool, name: str, shape: str, given: Tensor) -> None:
    """Raise when an argument has the wrong shape."""
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, not {list(given.shape)}")
