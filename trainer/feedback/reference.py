# SPDX-License-Identifier: Apache-2.0
"""The direction rewards are measured along: the reference gradient, preconditioned by Adam.

`g_ref` is the gradient of the mean loss per predicted token over the reference documents.
`P = 1 / (sqrt(v_hat) + eps)` is the diagonal Adam divides by, from the optimiser's `exp_avg_sq`
with its bias correction; a parameter the optimiser has not stepped yet has P = 1. Damping adds a
share of each tensor's root mean second moment to the denominator: it bounds P where v is next to
nothing (rows of tokens the training has hardly met), at the price of Adam's exact scale.
Nothing is written to parameters, `.grad` or the optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...loader.errors import ConfigError
from ..cross_entropy import loss_and_gradient
from ..model import autocast
from ..rows import Rows, pack
from .scratch import Scratch
from .sharding import inner, is_sharded, whole


@dataclass(frozen=True, slots=True)
class ReferenceGradient:
    """The gradient of the mean reference loss."""

    gradients: dict[nn.Parameter, Tensor]
    """One for each trainable parameter, shape and dtype of the parameter."""
    loss: float
    """Mean over the predicted tokens, in nats."""
    num_predicted: int
    """Number of tokens the loss predicts."""


def reference_gradient(model: nn.Module, rows: Rows, max_tokens: int) -> ReferenceGradient:
    """Compute the gradient of the mean loss per token.

    Args:
        model: in the mode it is to be measured in.
        rows: the packed reference documents.
        max_tokens: tokens of one pass.

    Returns:
        Gradients added over the passes in order, then divided once.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    totals = [torch.zeros_like(p) for p in parameters]
    summed_loss = 0.0
    scratch = Scratch()
    for part in rows.passes(max_tokens, parameters[0].device):
        part_loss, gradients = pass_gradients(model, part, parameters, scratch)
        summed_loss += part_loss
        # One by one: parameters that are sharded and parameters that are not make no one list.
        for total, gradient in zip(totals, gradients, strict=True):
            total.add_(gradient)
    for total in totals:
        total.div_(float(rows.num_predicted))
    return ReferenceGradient(
        dict(zip(parameters, totals, strict=True)),
        summed_loss / rows.num_predicted,
        rows.num_predicted,
    )


def pass_gradients(
    model: nn.Module, rows: Rows, parameters: Sequence[nn.Parameter], scratch: Scratch
) -> tuple[float, list[Tensor]]:
    """Return the summed loss of some rows (on the model's device) and its gradients.

    Of a model sharded by fully_shard, every rank gives the same rows, and gets its shards of the
    gradients.
    """
    with autocast(rows.input_ids.device):
        logits = model(rows.input_ids, rows.position_ids)
    logits_gradient = scratch.like(logits)
    losses = loss_and_gradient(logits, rows.labels, logits_gradient)
    take = _sharded_gradients if is_sharded(model) else _whole_gradients
    return float(losses.sum(dtype=torch.float64)), take(logits, logits_gradient, parameters)


def _whole_gradients(
    logits: Tensor, logits_gradient: Tensor, parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    try:
        gradients = torch.autograd.grad(
            logits, parameters, logits_gradient, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        if "Checkpointing is not compatible with .grad()" not in str(error):
            raise
        raise RuntimeError(
            "the reference gradient cannot be taken through a reentrant checkpoint; use "
            "activation checkpointing with use_reentrant=False"
        ) from error
    return list(gradients)


def _sharded_gradients(
    logits: Tensor, logits_gradient: Tensor, parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    """Let fully_shard reduce into `.grad`, and put back what stood there."""
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        logits.backward(logits_gradient)
        if all(parameter.grad is None for parameter in parameters):
            raise RuntimeError(
                "fully_shard has reduced no gradient: measure between steps, with "
                "set_requires_gradient_sync(True)"
            )
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def document_gradient(
    model: nn.Module,
    document: np.ndarray,
    row_tokens: int,
    parameters: Sequence[nn.Parameter],
    scratch: Scratch,
) -> list[Tensor]:
    """Return the gradient of the summed loss of one document of at least two tokens."""
    rows = pack([document], row_tokens)
    (part,) = rows.passes(rows.input_ids.numel(), parameters[0].device)
    return pass_gradients(model, part, parameters, scratch)[1]


def precondition(
    optimizer: torch.optim.Optimizer | None, reference: ReferenceGradient, damping: float
) -> tuple[dict[nn.Parameter, Tensor], int]:
    """Return G = P g_ref, and how many parameters had no second moment yet (P = 1 there).

    Raises:
        ConfigError: the optimiser is not of Adam's kind, or does not hold a parameter.
    """
    if optimizer is None:
        raise ConfigError('reward = "inner" needs the optimizer; pass it, or take "cosine"')
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    directions, num_identity = {}, 0
    for parameter, gradient in reference.gradients.items():
        if parameter not in group_of:
            raise ConfigError(
                f"a trainable parameter of shape {list(parameter.shape)} is in no group of the "
                "optimizer; add it, or freeze it with requires_grad_(False)"
            )
        denominator = adam_denominator(optimizer, parameter, group_of[parameter], damping)
        num_identity += denominator is None
        directions[parameter] = gradient if denominator is None else gradient / denominator
    return directions, num_identity


def without_baseline(
    directions: dict[nn.Parameter, Tensor],
    base_directions: dict[nn.Parameter, Tensor],
    baseline: ReferenceGradient,
) -> dict[nn.Parameter, Tensor]:
    """Return P g_ref minus its part along P g, g the mean gradient of some of the probes.

    Adam's step has a length of its own: more of what every document asks for moves the model no
    further. To first order, a share e of document x in a step of fixed length along P g changes
    the reference loss by -e times `<g_ref - c g, P g_x>`, c = `<g_ref, P g> / <g, P g>`, up to a
    factor. Without this the direction that all documents share, which swings in sign and size
    from step to step, outweighs what tells them apart (docs/console.md).

    Args:
        directions: P g_ref by parameter.
        base_directions: P g by parameter.
        baseline: g by parameter.
    """
    shared = _inner(directions, baseline.gradients) / _inner(base_directions, baseline.gradients)
    return {p: d - shared * base_directions[p] for p, d in directions.items()}


def _inner(a: dict[nn.Parameter, Tensor], b: dict[nn.Parameter, Tensor]) -> float:
    """Add up the products of two sets of tensors, in fp64."""
    return inner(a.values(), [b[p] for p in a])


def adam_denominator(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group: dict, damping: float
) -> Tensor | None:
    """Return sqrt(v_hat) + eps + damping, or None before the first step.

    Raises:
        ConfigError: the optimiser is not of Adam's kind.
    """
    if "betas" not in group or "eps" not in group:
        raise ConfigError(
            f'reward = "inner" reads Adam\'s second moment, and {type(optimizer).__name__} has '
            'none; train with AdamW, or take reward = "cosine"'
        )
    state = optimizer.state.get(parameter) or {}
    steps = float(state.get("step", 0))
    if steps == 0 or "exp_avg_sq" not in state:
        return None
    second_moment = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    correction = 1.0 - float(group["betas"][1]) ** steps
    corrected = second_moment / correction
    floor = damping * float(whole(corrected.mean()).sqrt()) if damping else 0.0
    return corrected.sqrt_().add_(group["eps"] + floor)
