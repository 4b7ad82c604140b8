# SPDX-License-Identifier: Apache-2.0
"""D3's edges of a real model: what training on one part does to the loss of another.

The formulas are those of `loader.schedule`; here the losses and products they take are measured.
A batch is one loss: that of a whole optimizer step, whatever the passes it is accumulated over, or
of some of its rows. The model comes out bit for bit as it went in.
Suffixes: N units or steps, M documents of a unit, D parameters.
Source: docs/d3.md, "Edges" and "The paper's errors".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...loader.schedule import (
    advantage_of,
    commutator_advantage,
    influence_of_products,
    published_order,
)
from ..untouched import untouched
from .neighbourhood import Loss, Neighbourhood

Floats = NDArray[np.float64]

PUBLISHED_STEP = 100
"""Learning rates in the paper's virtual step, gamma."""
PUBLISHED_SAMPLES = 5
"""Random vectors behind the paper's diagonal of the Hessian, W."""
_PIECE = 1 << 20  # parameters that are in fp64 at once


def look_ahead(
    point: Neighbourhood, steps: Sequence[Loss], probes: Sequence[Loss], eta: float
) -> tuple[Floats, Floats]:
    """Measure losses before and after one step on each unit alone.

    N gradients and N (N + 1) evaluations.

    Args:
        point: The model, and the P of its steps theta - eta P g_i.
        steps: [N] losses whose gradients are stepped along.
        probes: [N] losses that are looked at; all [M], or all scalars.
        eta: The learning rate.

    Returns:
        before [N, M] and after [N, N, M] for `lookahead_error`, their means over M for `lookahead`.
    """
    with untouched(point.model):
        before_NM = _measured(probes)
        after = []
        for loss in steps:
            step_D = point.precondition(point.gradient(loss))
            with point.moved(-eta * step_D):
                after.append(_measured(probes))
    return before_NM, np.stack(after)


def commutator(
    point: Neighbourhood, batches: Sequence[Loss], reference: Loss, eta: float
) -> Floats:
    """Measure the advantage of each batch over each other in a chunk, [N, N].

    2 N + 1 gradients: those ahead and behind along P v give both H_i P v and g_i.

    Args:
        point: The model and the P of its steps; 2 N vectors of its parameters are held at once,
            so take some of them where memory is short.
        batches: [N], one for each step of the chunk.
        reference: The loss that is to end low.
        eta: The learning rate of the chunk.
    """
    with untouched(point.model):
        direction_D = point.precondition(point.gradient(reference))
        gradients, products = [], []
        for loss in batches:
            gradient_D, product_D = point.product(loss, direction_D)
            gradients.append(point.precondition(gradient_D))
            products.append(product_D)
    return commutator_advantage(_inner(torch.stack(products), torch.stack(gradients)), eta)


def sharpness(
    point: Neighbourhood, loss: Loss, num_iterations: int, limit: float = float("inf")
) -> float:
    """Return the largest |eigenvalue| of the preconditioned Hessian (`Neighbourhood.sharpness`)."""
    with untouched(point.model):
        return point.sharpness(loss, num_iterations, limit)


def published_chunk_order(
    model: nn.Module, batches: Sequence[Loss], learning_rate: float, seed: int
) -> tuple[NDArray[np.int64], Floats]:
    """Order a chunk as the paper prints it, end to end.

    Gradients, the diagonal of each batch's Hessian by Hutchinson (five random vectors), the printed
    edge with gamma = 100 learning rates, row sums and a hundred random swaps. No sketches: they
    enter the inner products alone, which cancel. 11 N gradients.

    Args:
        model: In the mode it is to be measured in.
        batches: [N], the chunk in the order it came.
        learning_rate: Of the step at hand.
        seed: Of the random vectors and swaps.

    Returns:
        The order, [N]; the curvatures lambda, [N], which are all it depends on.
    """
    point = Neighbourhood(model)
    generator = torch.Generator().manual_seed(seed)
    gradients, curvatures = [], []
    with untouched(model):
        for loss in batches:
            gradient_D = point.gradient(loss)
            diagonal_D = hutchinson_diagonal(point, loss, gradient_D, generator)
            gradients.append(gradient_D)
            curvatures.append(float((gradient_D.double() ** 2 * diagonal_D.double()).sum()))
    stacked_ND = torch.stack(gradients)
    products_NN = _inner(stacked_ND, stacked_ND)
    products_NN = (products_NN + products_NN.T) / 2  # symmetric to the last bit, as it is in truth
    influence = influence_of_products(products_NN, curvatures, PUBLISHED_STEP * learning_rate)
    return published_order(advantage_of(influence), seed), np.array(curvatures)


def hutchinson_diagonal(
    point: Neighbourhood, loss: Loss, like_D: Tensor, generator: torch.Generator
) -> Tensor:
    """Estimate the diagonal of a loss's Hessian, [D]: the mean of z * H z over random signs z."""
    total_D = torch.zeros_like(like_D)
    for _ in range(PUBLISHED_SAMPLES):
        signs_D = torch.randint(0, 2, (len(like_D),), generator=generator).to(like_D) * 2 - 1
        total_D += signs_D * point.product(loss, signs_D)[1]
    return total_D / PUBLISHED_SAMPLES


@torch.no_grad()
def _measured(probes: Sequence[Loss]) -> Floats:
    """Return the losses of all probes, [N, M]."""
    rows = [np.atleast_1d(loss().detach().double().cpu().numpy()) for loss in probes]
    return np.stack(rows)


def _inner(left_ND: Tensor, right_ND: Tensor) -> Floats:
    """Return all inner products, [N, N], added in fp64."""
    total_NN = torch.zeros(len(left_ND), len(right_ND), dtype=torch.float64, device=left_ND.device)
    for left, right in zip(left_ND.split(_PIECE, 1), right_ND.split(_PIECE, 1), strict=True):
        total_NN += left.double() @ right.double().T
    return total_NN.cpu().numpy()
