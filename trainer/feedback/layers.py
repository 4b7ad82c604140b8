# SPDX-License-Identifier: Apache-2.0
"""The layers that have a ghost form, and each one's share of <G, gradient> token by token.

Known: Linear, Embedding, RMSNorm, LayerNorm, as torch has them. A trainable parameter anywhere
else is refused by name. Parameters may be shared among them in any way: a gradient is the sum
over a parameter's uses, and so are the shares against its one G.
Source: docs/ops/ghost_influence.md. Shape suffixes: B rows, L positions, T = B * L.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ...triton_kernels.ghost_influence import (
    embedding_influence,
    ghost_influence,
    scale_influence,
)
from .sharding import check_placement, kind_of

SUPPORTED = (nn.Linear, nn.Embedding, nn.RMSNorm, nn.LayerNorm)


def check_supported(model: nn.Module) -> None:
    """Refuse models whose parameters have no ghost form here.

    Raises:
        TypeError: a trainable parameter sits in a module of another type, or in one that computes
            with parameters of its own; or the model is wrapped or sharded in a way that is not
            followed. By name.
        ValueError: a layer is set up in a way that has no ghost form, by name.
    """
    check_placement(model)
    for name, module in model.named_modules():
        own = {key for key, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        # The exact type: a subclass may compute something else with the same parameters.
        kind = kind_of(module)
        if kind not in SUPPORTED:
            raise TypeError(
                f"no ghost form for {kind.__name__} ({name or 'the model itself'}): "
                f"rewards know {', '.join(kind.__name__ for kind in SUPPORTED)}; freeze its "
                "parameters or build the model from these"
            )
        if not own <= {"weight", "bias"}:
            extra = ", ".join(sorted(own - {"weight", "bias"}))
            raise TypeError(
                f"no ghost form for the parameters {extra} of {name!r}: a {kind.__name__} has "
                "weight and bias; take reparametrisations such as weight_norm off"
            )
        _check_settings(name, module)


def _check_settings(name: str, module: nn.Module) -> None:
    """Refuse settings under which the formulas do not hold."""
    if isinstance(module, nn.Embedding) and (
        module.sparse or module.scale_grad_by_freq or module.max_norm is not None
    ):
        raise ValueError(
            f"no ghost form for the embedding {name!r} with sparse, scale_grad_by_freq or "
            "max_norm; build it without"
        )
    if isinstance(module, nn.RMSNorm | nn.LayerNorm) and len(module.normalized_shape) > 1:
        raise ValueError(
            f"no ghost form for {name!r}, which normalises over {len(module.normalized_shape)} "
            "axes; rewards know norms over the last one"
        )


def check_layout(name: str, leading: tuple[int, ...], shape: tuple[int, int]) -> None:
    """Refuse inputs that are not one token's after the other, in the batch's order.

    Args:
        name: of the layer.
        leading: shape of its input without the features: [B, L, ...] or [T, ...]; axes behind
            the tokens (heads) are summed over.
        shape: [B, L] of the batch.

    Raises:
        RuntimeError: anything else, or one that may be read in two ways.
    """
    num_tokens = shape[0] * shape[1]
    rest = leading[2:] if leading[:2] == shape else leading[1:]
    is_by_token = leading[:2] == shape or leading[:1] == (num_tokens,)
    # [B, heads, L, D] with as many heads as tokens looks like [B, L, heads, D].
    if not is_by_token or shape[1] in rest:
        raise RuntimeError(
            f"{name} sees inputs of shape {[*leading, '...']}, not one for each of the "
            f"{shape[0]} x {shape[1]} tokens; rewards need [rows, tokens, ...]"
        )


def token_shares(
    module: nn.Module, source: Tensor, grad: Tensor, known: Mapping[str, Tensor], num_tokens: int
) -> Tensor:
    """Return one call's share of <G, gradient> at every token.

    Args:
        module: of a type in `SUPPORTED`.
        source: what it was called with; tokens first, axes of heads behind them.
        grad: of the summed loss by its output.
        known: G by the name of the parameter, "weight" and "bias"; what is not there is frozen.
        num_tokens: T.

    Returns:
        [T] float64.
    """
    weight, bias = known.get("weight"), known.get("bias")
    grad_XO = grad.reshape(-1, grad.shape[-1])
    if isinstance(module, nn.Embedding):
        assert weight is not None, "only modules with a direction are hooked"
        shares_X = _embedding_shares(module, source.reshape(-1), grad_XO, weight)
    elif isinstance(module, nn.Linear):
        if weight is None:  # frozen beside a bias that trains
            assert bias is not None, "only modules with a direction are hooked"
            shares_X = scale_influence(grad_XO, grad_XO, None, bias)
        else:
            activations_XI = source.reshape(-1, source.shape[-1])
            shares_X = ghost_influence(activations_XI, grad_XO, weight, bias)
    else:
        normalised_XD = _normalised(module, source).reshape(grad_XO.shape)
        shares_X = scale_influence(normalised_XD, grad_XO, weight, bias)
    return shares_X.double().view(num_tokens, -1).sum(1)


def _embedding_shares(
    module: nn.Embedding, tokens_X: Tensor, grad_XO: Tensor, weight: Tensor
) -> Tensor:
    shares_X = embedding_influence(tokens_X, grad_XO, weight)
    if module.padding_idx is None:
        return shares_X
    # Its row gets no gradient from here; a tied head gives it one, so G is not 0 there.
    return shares_X.masked_fill(tokens_X == module.padding_idx, 0.0)


def _normalised(module: nn.Module, source: Tensor) -> Tensor:
    """Return a norm's input before its scale."""
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(source, module.normalized_shape, None, module.eps)
    assert isinstance(module, nn.LayerNorm), "check_supported knows no other"
    return F.layer_norm(source, list(module.normalized_shape), None, None, module.eps)
