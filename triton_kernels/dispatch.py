# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an op runs: the kernel on CUDA, the native routine on the CPU."""

import os
from typing import Literal, get_args

import torch

Implementation = Literal["auto", "native", "reference", "triton"]


def choose(implementation: str, device: torch.device, *, has_native: bool = True) -> str:
    """Resolve "auto" for a device and refuse what cannot run there.

    Args:
        implementation: One of `Implementation`.
        device: Where the tensors lie.
        has_native: False for an op whose reference serves the CPU.

    Raises:
        ValueError: An unknown name, or an implementation that does not serve the device.
    """
    if implementation not in get_args(Implementation):
        names = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation is {implementation!r}; choose one of {names}")
    on_cpu = device.type == "cpu"
    if implementation == "auto":
        if device.type not in {"cpu", "cuda"}:
            raise ValueError(f"no implementation for {device}; move the tensors to cpu or cuda")
        if not on_cpu:
            return "triton"
        return "native" if has_native else "reference"
    if implementation == "native" and not has_native:
        raise ValueError("this op has no native routine; take 'reference', or 'auto'")
    if implementation == "native" and not on_cpu:
        raise ValueError(f"the native routine serves CPU tensors, these lie on {device}")
    if implementation == "triton" and on_cpu and not _interprets():
        raise ValueError(
            "the Triton kernel runs on CPU tensors only in Triton's interpreter; set "
            "TRITON_INTERPRET=1 before the first call, or take implementation='native'"
        )
    return implementation


def _interprets() -> bool:
    """Whether Triton's interpreter is switched on in the environment."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in {"1", "true", "on", "y", "yes"}
