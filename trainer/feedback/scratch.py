# SPDX-License-Identifier: Apache-2.0
"""Memory for the logits' gradient, the same from pass to pass: fresh pages cost more than sums."""

from __future__ import annotations

import torch
from torch import Tensor


class Scratch:
    """One buffer that grows to the largest tensor asked for; its contents are whatever is left."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def like(self, x: Tensor) -> Tensor:
        """Return a contiguous tensor of the shape, dtype and device of x, until the next call."""
        if self._memory is None or self._memory.numel() < x.numel():
            self._memory = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
        return self._memory[: x.numel()].view(x.shape)
