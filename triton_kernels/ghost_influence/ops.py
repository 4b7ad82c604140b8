# SPDX-License-Identifier: Apache-2.0
"""The registered ops of ghost influence: choose an implementation; arguments are checked before."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import choose
from ..registry import register
from . import reference


def _run_layers(
    activations: list[Tensor],
    output_grads: list[Tensor],
    directions: list[Tensor],
    bias_directions: list[Tensor | None],
    implementation: str,
) -> Tensor:
    """Return [L, T]."""
    if _takes_kernel(implementation, output_grads[0]):
        from .kernel import ghost_influence_fwd

        return ghost_influence_fwd(activations, output_grads, directions, bias_directions)
    return reference.layer_influences(activations, output_grads, directions, bias_directions)


def _fake_layers(
    activations: list[Tensor],
    output_grads: list[Tensor],
    directions: list[Tensor],
    bias_directions: list[Tensor | None],
    implementation: str,
) -> Tensor:
    """Return [L, T]."""
    shape = (len(directions), output_grads[0].shape[0])
    return output_grads[0].new_empty(shape, dtype=_wide_dtype(output_grads[0]))


def _run_scale(
    normalised: Tensor,
    output_grads: Tensor,
    direction: Tensor | None,
    bias_direction: Tensor | None,
    implementation: str,
) -> Tensor:
    """Return [T]."""
    if _takes_kernel(implementation, output_grads):
        from .rows_kernel import scale_influence_fwd

        return scale_influence_fwd(normalised, output_grads, direction, bias_direction)
    return reference.scale_influence(normalised, output_grads, direction, bias_direction)


def _fake_scale(
    normalised: Tensor,
    output_grads: Tensor,
    direction: Tensor | None,
    bias_direction: Tensor | None,
    implementation: str,
) -> Tensor:
    """Return [T]."""
    return output_grads.new_empty(output_grads.shape[0], dtype=_wide_dtype(output_grads))


def _run_embedding(
    tokens: Tensor, output_grads: Tensor, direction: Tensor, implementation: str
) -> Tensor:
    """Return [T]."""
    if _takes_kernel(implementation, output_grads):
        from .rows_kernel import embedding_influence_fwd

        return embedding_influence_fwd(tokens, output_grads, direction)
    return reference.embedding_influence(tokens, output_grads, direction)


def _fake_embedding(
    tokens: Tensor, output_grads: Tensor, direction: Tensor, implementation: str
) -> Tensor:
    """Return [T]."""
    dtype = torch.promote_types(_wide_dtype(output_grads), direction.dtype)
    return output_grads.new_empty(output_grads.shape[0], dtype=dtype)


def _run_sums(partials: Tensor, cu_seqlens: Tensor, implementation: str) -> Tensor:
    """Return [N] from partials [L, T]."""
    if _takes_kernel(implementation, partials):
        from .rows_kernel import document_sums_fwd

        return document_sums_fwd(partials, cu_seqlens)
    return reference.document_sums(partials, cu_seqlens)


def _fake_sums(partials: Tensor, cu_seqlens: Tensor, implementation: str) -> Tensor:
    """Return [N]."""
    return partials.new_empty(cu_seqlens.shape[0] - 1, dtype=torch.float64)


def _takes_kernel(implementation: str, tensor: Tensor) -> bool:
    return choose(implementation, tensor.device, has_native=False) == "triton"


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


LAYERS = register(
    "ghost_influence(Tensor[] activations, Tensor[] output_grads, Tensor[] directions, "
    "Tensor?[] bias_directions, str implementation) -> Tensor",
    _run_layers,
    _fake_layers,
)
SCALE = register(
    "scale_influence(Tensor normalised, Tensor output_grads, Tensor? direction, "
    "Tensor? bias_direction, str implementation) -> Tensor",
    _run_scale,
    _fake_scale,
)
EMBEDDING = register(
    "embedding_influence(Tensor tokens, Tensor output_grads, Tensor direction, "
    "str implementation) -> Tensor",
    _run_embedding,
    _fake_embedding,
)
SUMS = register(
    "document_sums(Tensor partials, Tensor cu_seqlens, str implementation) -> Tensor",
    _run_sums,
    _fake_sums,
)
