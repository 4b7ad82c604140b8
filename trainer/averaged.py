# SPDX-License-Identifier: Apache-2.0
"""A running average of the model's weights, at which probes are rewarded.

The last iterate swings along the steep directions of the loss, and there the gradients of all
documents point the same way, one way at one refresh and the other way at the next: what the swing
says drowns what a document teaches. At the average of the last steps the swing is gone.
Source: docs/console.md, "Where rewards are measured".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class AveragedWeights:
    """The exponential average of a model's parameters.

    Args:
        model: The model that is trained.
        decay: What a step keeps of the average; 0 is the last iterate itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = list(model.parameters())
        self._decay = decay
        self._average = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        torch._foreach_lerp_(self._average, self._parameters, 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model; behind it the weights are as before, bit for bit."""
        last = [p.detach().clone() for p in self._parameters]
        self._write(self._average)
        try:
            yield
        finally:
            self._write(last)

    def state_dict(self) -> list[torch.Tensor]:
        """Return the average."""
        return self._average

    def load_state_dict(self, average: list[torch.Tensor]) -> None:
        """Go on from a saved average."""
        for ours, theirs in zip(self._average, average, strict=True):
            ours.copy_(theirs)

    @torch.no_grad()
    def _write(self, weights: list[torch.Tensor]) -> None:
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)
