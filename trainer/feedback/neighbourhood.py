# SPDX-License-Identifier: Apache-2.0
"""The point a model stands at, and moves away from it: what D3's edges are measured with.

Gradients, steps as the optimizer scales them, and Hessian-vector products as differences of two
gradients, over all trainable parameters or some of them. Every move is taken back bit for bit, also
when it fails. Arithmetic is that of the loss handed in: hand in one without autocast, or the
difference of two gradients drowns in bf16's rounding. Suffix D: parameters, flattened.
Source: docs/d3.md, "Edges".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...loader.errors import ConfigError
from .reference import adam_denominator

Loss: TypeAlias = Callable[[], Tensor]
"""Computes a loss of the model as it stands: a scalar, or [M], one number a document."""

_FARTHEST = 0.25
"""A difference moves no parameter by more than this share of their root mean square."""


class Neighbourhood:
    """The surroundings of a model's parameters.

    Args:
        model: Measured as it stands; enclose calls in `untouched(model)`.
        optimizer: Of Adam's kind: P is the inverse of what it divides by, 1 where it has not
            stepped yet. None: P = 1, plain gradient descent.
        parameters: Those that count, None for all trainable ones.
        damping: As in `FeedbackConfig`.

    Raises:
        ConfigError: The optimizer is not of Adam's kind or does not hold a parameter, or no
            parameter is trained.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
        damping: float = 0.0,
    ) -> None:
        self.model = model
        chosen = model.parameters() if parameters is None else parameters
        self._parameters = [p for p in chosen if p.requires_grad]
        if not self._parameters:
            raise ConfigError("no parameter is trained: there is nowhere to move")
        self._scale_D = self._preconditioner(optimizer, damping)

    def gradient(self, loss: Loss) -> Tensor:
        """Return the gradient of the mean of a loss, [D]."""
        gradients = torch.autograd.grad(
            loss().mean(), self._parameters, allow_unused=True, materialize_grads=True
        )
        return _flat(gradients)

    def precondition(self, vector_D: Tensor, power: float = 1.0) -> Tensor:
        """Return P^power v, [D]."""
        if self._scale_D is None:
            return vector_D
        return vector_D * self._scale_D**power

    @contextlib.contextmanager
    def moved(self, displacement_D: Tensor) -> Iterator[None]:
        """Move the parameters by a displacement, and put them back as they were."""
        saved = [p.detach().clone() for p in self._parameters]
        parts = displacement_D.split([p.numel() for p in self._parameters])
        try:
            with torch.no_grad():
                for parameter, part in zip(self._parameters, parts, strict=True):
                    parameter.add_(part.view_as(parameter))
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, saved, strict=True):
                    parameter.copy_(value)

    def product(self, loss: Loss, direction_D: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient g and H d of a loss, [D] each, from two gradients.

        One ahead and one behind along d: half their difference is the product, their mean the
        gradient, both but for the third derivative of the loss.
        """
        distance = self._distance(direction_D)
        if distance == 0:
            return self.gradient(loss), torch.zeros_like(direction_D)
        with self.moved(distance * direction_D):
            ahead_D = self.gradient(loss)
        with self.moved(-distance * direction_D):
            behind_D = self.gradient(loss)
        return (ahead_D + behind_D) / 2, (ahead_D - behind_D) / (2 * distance)

    def sharpness(self, loss: Loss, num_iterations: int = 4, limit: float = float("inf")) -> float:
        """Return the largest |eigenvalue| of P^(1/2) H P^(1/2), by power iteration.

        An estimate from below, from the gradient and a fixed random direction; equal on repeat.

        Args:
            loss: Whose Hessian.
            num_iterations: Products, two gradients each; the first starts from one gradient more.
            limit: Where the estimate exceeds it, that is enough.
        """
        gradient_D = self.precondition(self.gradient(loss), 0.5)
        generator = torch.Generator().manual_seed(0)
        random_D = torch.randn(len(gradient_D), generator=generator).to(gradient_D)
        vector_D = _unit(gradient_D) + _unit(random_D)
        largest = 0.0
        for _ in range(num_iterations):
            vector_D = _unit(vector_D)
            _, product_D = self.product(loss, self.precondition(vector_D, 0.5))
            vector_D = self.precondition(product_D, 0.5)
            largest = max(largest, float(vector_D.norm()))
            if largest > limit or not torch.isfinite(vector_D).all():
                break
        return largest

    def _distance(self, direction_D: Tensor) -> float:
        """Return how far along a direction its two gradients stand."""
        size = float(direction_D.norm())
        if size == 0:
            return 0.0
        here_D = _flat([p.detach() for p in self._parameters])
        spread = float(here_D.norm()) or 1.0
        near = torch.finfo(direction_D.dtype).eps ** (1 / 3) * spread / size
        rms = spread / len(here_D) ** 0.5
        return min(near, _FARTHEST * rms / float(direction_D.abs().max()))

    def _preconditioner(
        self, optimizer: torch.optim.Optimizer | None, damping: float
    ) -> Tensor | None:
        if optimizer is None:
            return None
        group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        scales = []
        for parameter in self._parameters:
            if parameter not in group_of:
                raise ConfigError("a parameter that is to be moved is in no group of the optimizer")
            below = adam_denominator(optimizer, parameter, group_of[parameter], damping)
            scales.append(torch.ones_like(parameter) if below is None else 1 / below)
        return _flat([scale.detach() for scale in scales])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _unit(vector_D: Tensor) -> Tensor:
    size = float(vector_D.norm())
    return vector_D / size if size > 0 else vector_D
