# SPDX-License-Identifier: Apache-2.0
"""What the ops over an LM head ask of their arguments."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_head(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    softcap: float | None,
) -> None:
    """Raise ValueError for what does not fit together; contents are looked at on the CPU only."""
    if hidden.dim() != 2:
        raise ValueError(f"hidden must have shape [T, H], not {list(hidden.shape)}")
    tokens, width = hidden.shape
    fits = head_weight.dim() == 2 and head_weight.shape[1] == width and len(head_weight) > 0
    _require(fits, "head_weight", f"[V, {width}] with V > 0", head_weight)
    _require(targets.shape == (tokens,), "targets", f"[{tokens}]", targets)
    if targets.dtype not in {torch.int32, torch.int64}:
        raise ValueError(f"targets are {targets.dtype}; they must be int32 or int64")
    fits = cu_seqlens.dim() == 1 and len(cu_seqlens) > 0 and cu_seqlens.dtype == torch.int64
    _require(fits, "cu_seqlens", "[N + 1] and be int64", cu_seqlens)
    if softcap is not None and not (math.isfinite(softcap) and softcap > 0):
        raise ValueError(f"softcap is {softcap}; it must be a number above 0, or None for no cap")
    check_floating({"hidden": hidden, "head_weight": head_weight})
    check_device(hidden, {"head_weight": head_weight, "targets": targets, "cu_seqlens": cu_seqlens})
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_contents(targets, cu_seqlens, len(head_weight))


def check_reference(reference_losses: Tensor | None, hidden: Tensor, cu_seqlens: Tensor) -> None:
    """Raise ValueError unless the reference losses are [T] or [N] floats beside hidden."""
    if reference_losses is None:
        return
    tokens, documents = len(hidden), len(cu_seqlens) - 1
    fits = reference_losses.dim() == 1 and len(reference_losses) in {tokens, documents}
    _require(fits, "reference_losses", f"[{tokens}] or [{documents}]", reference_losses)
    check_floating({"reference_losses": reference_losses})
    check_device(hidden, {"reference_losses": reference_losses})


def check_floating(tensors: dict[str, Tensor]) -> None:
    """Raise unless all tensors hold floats of 2 bytes or more."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            raise ValueError(f"{name} is {tensor.dtype}; it must be bf16, fp16, fp32 or fp64")


def check_device(hidden: Tensor, tensors: dict[str, Tensor]) -> None:
    """Raise unless all tensors lie where the hidden states do."""
    for name, tensor in tensors.items():
        if tensor.device != hidden.device:
            raise ValueError(
                f"{name} lies on {tensor.device}, hidden on {hidden.device}; move them to one"
            )


def _check_contents(targets: Tensor, cu_seqlens: Tensor, vocabulary: int) -> None:
    """Raise for a target past the vocabulary or offsets that do not cut [0, T)."""
    wrong = (targets >= vocabulary).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"targets[{place}] is {int(targets[place])}, the head has {vocabulary} rows; "
            "a target that predicts nothing is negative"
        )
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != len(targets) or bool((cu_seqlens.diff() < 0).any()):
        raise ValueError(
            f"cu_seqlens must rise from 0 to the {len(targets)} tokens; it runs from {first} to "
            f"{last}"
        )


def _require(fits: bool, name: str, shape: str, given: Tensor) -> None:
    """Raise when an argument has the wrong shape."""
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, not {list(given.shape)} {given.dtype}")
