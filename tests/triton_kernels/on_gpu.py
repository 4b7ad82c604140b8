# SPDX-License-Identifier: Apache-2.0
"""What the checks of gpu/*.py share."""

import dataclasses

import torch


def to_cuda(value):
    """Move a tensor, or every tensor of a dataclass; the rest stays what it is."""
    if isinstance(value, torch.Tensor):
        return value.cuda()
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return type(value)(**{name: to_cuda(each) for name, each in fields.items()})


def without_waiting(call):
    """Call it three times: to compile, where nothing may wait for the device, and in a graph.

    Returns the last two results; `call` takes nothing and returns tensors or a dataclass of them.
    """
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = call()
    graph.replay()
    torch.cuda.synchronize()
    return eager, replayed
