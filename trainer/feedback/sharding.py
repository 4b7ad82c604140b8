# SPDX-License-Identifier: Apache-2.0
"""Models of several processes: what is unwrapped, what is sharded, what is refused.

DistributedDataParallel is unwrapped: its parameters are whole, and measuring needs no other rank.
FSDP2 (`fully_shard`) is followed: G is sharded as the parameters are, and gathered layer by layer
where it is used. Everything here is free of collectives on a model without DTensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

REFUSED_WRAPPERS = {
    "FullyShardedDataParallel": "shard it with fully_shard (FSDP2) instead",
    "DataParallel": "use DistributedDataParallel instead",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that DistributedDataParallel wraps, or the model itself."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inside: nn.Module = model.module
        return inside
    return model


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return a module's type; of one that fully_shard was called on, the type it had before."""
    return type(module).__bases__[1] if _is_fsdp(module) else type(module)


def is_sharded(model: nn.Module) -> bool:
    """Whether fully_shard was called on the model or a part of it."""
    return any(_is_fsdp(module) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Give every module its sharded parameters back, which are those that optimizers hold.

    After a forward pass without a backward pass the outermost module still has whole ones.
    """
    for module in model.modules():
        if _is_fsdp(module):
            cast(Any, module).reshard()


def check_placement(model: nn.Module) -> None:
    """Refuse wrappers and placements that hooks cannot follow.

    Raises:
        TypeError: the wrapper or the parameter, by name.
    """
    for name, module in model.named_modules():
        advice = REFUSED_WRAPPERS.get(type(module).__name__)
        if advice is not None and type(module).__module__.startswith("torch."):
            kind = type(module).__name__
            raise TypeError(f"no rewards through {kind} ({name or 'the model itself'}): {advice}")
    sharded = is_sharded(model)
    for name, parameter in model.named_parameters():
        if not _is_dtensor(parameter):
            continue
        placements = cast(Any, parameter).placements
        num_cuts = sum(not place.is_replicate() for place in placements)
        if not sharded or num_cuts > 1:
            raise TypeError(
                f"{name} is a DTensor that fully_shard alone did not make (tensor parallel?): "
                "rewards follow FSDP2 and HSDP only"
            )


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from its shards: a collective where it is a DTensor."""
    return cast(Any, tensor).full_tensor() if _is_dtensor(tensor) else tensor


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    """Add up the products of two lists of tensors, in fp64."""
    pairs = zip(left, right, strict=True)
    return sum(float(whole((a.double() * b.double()).sum())) for a, b in pairs)


def most_of_ranks(number: int, device: torch.device) -> int:
    """Return the largest of all ranks' numbers."""
    largest = torch.tensor(number, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def _is_fsdp(module: nn.Module) -> bool:
    # A model is sharded only by a program that has imported this; importing it is slow.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def _is_dtensor(tensor: Tensor) -> bool:
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)
