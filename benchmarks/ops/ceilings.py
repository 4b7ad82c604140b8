# SPDX-License-Identifier: Apache-2.0
"""What the device itself can do: copying and multiplying matrices, measured in the same run."""

import torch

from .timing import interleaved

_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}


def ceilings(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Measure copy bandwidth and matrix products on random data.

    Returns:
        `copy_gigabytes_per_s`, read and written bytes together; `matmul_tflops` of bf16 with fp32
        sums on CUDA, of fp32 with one thread on the CPU.
    """
    num = _COPY_BYTES[device.type] // 4
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    source = torch.randn(num, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    taken = interleaved(
        {"copy": lambda i: target.copy_(source), "matmul": lambda i: left @ right},
        device,
        quick,
        budget_s=10.0,
    )
    return {
        "copy_gigabytes_per_s": 2 * source.nbytes / taken["copy"].median_s / 1e9,
        "matmul_tflops": 2 * side**3 / taken["matmul"].median_s / 1e12,
    }
