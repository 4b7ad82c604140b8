# SPDX-License-Identifier: Apache-2.0
"""Measuring without a trace: a model comes out of a measurement bit for bit as it went in.

Inside, modules are in evaluation mode, gradients are recorded, and drawing random numbers is
free. On the way out, by return or by exception: training flags, `requires_grad` flags, buffers
and the generators of torch (CPU, and CUDA where the model is) are as they were. Parameters,
`.grad` and optimiser state are never written in the first place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a measurement and restore everything after it."""
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone(), buffer._version)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    tensors = [parameter for parameter, _ in trainable] + [saved[2] for saved in buffers]
    devices = sorted({x.device.index for x in tensors if x.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        try:
            for module, _ in training:
                module.training = False
            yield
        finally:
            for module, was_training in training:
                module.training = was_training
            for parameter, required_grad in trainable:
                parameter.requires_grad_(required_grad)
            _restore_buffers(buffers)


@torch.no_grad()
def _restore_buffers(buffers: list[tuple[nn.Module, str, Tensor, Tensor, int]]) -> None:
    """Put back buffers that the measurement replaced or wrote to."""
    for module, name, buffer, saved, version in buffers:
        module._buffers[name] = buffer
        if buffer._version != version or not torch.equal(buffer, saved):
            buffer.copy_(saved)
