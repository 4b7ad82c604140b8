# SPDX-License-Identifier: Apache-2.0
"""What does it cost to find each vector's nearest centroid, against a product and its maximum?

    python benchmarks/bench_novelty.py [--device cpu] [--quick] [--out FILE]

The rival is torch: one matrix product of all cosines, then max. It writes n x K numbers and reads
them again; its product is the vendor's. On CUDA also torch.compile of the same. The floor is the
matrix product alone. The gate: similarities within the tolerance of docs/ops/novelty.md.
"""

from typing import Any

import torch
from moot.triton_kernels import CentroidBank, novelty
from ops import interleaved, main, not_installed, rotated, row

OP = "novelty"
DIM = 768


def make_inputs(
    num_vectors: int, num_centroids: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, CentroidBank]:
    """Random vectors and centroids."""
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randn(num_vectors + num_centroids, DIM, generator=generator, device=device)
    rows = rows.to(dtype)
    return rows[:num_vectors].clone(), CentroidBank.of(rows[num_vectors:].clone())


def by_torch(
    vectors: torch.Tensor, centroids: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All cosines at once, in the dtype of the vectors, then max."""
    cosines = (vectors @ centroids.T) * inverse
    largest, nearest = cosines.max(1)
    return largest.float() / vectors.float().norm(dim=1), nearest


def check(vectors: torch.Tensor, bank: CentroidBank) -> None:
    """Raise unless some similarities are right, against fp64."""
    some = vectors[:64].double()
    cosines = some @ bank.centroids.double().T / bank.centroids.double().norm(dim=1)
    wanted = cosines.amax(1) / some.norm(dim=1)
    error = (novelty(vectors, bank).similarity[:64] - wanted).abs().max()
    if not error <= 2e-6:
        raise AssertionError(f"similarity is off by {float(error):.1e}")


def measure(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Rows for every dtype that the device has a fast product for."""
    if device.type == "cuda":
        shape, dtypes = (65_536, 16_384), (torch.bfloat16, torch.float16)
    else:
        shape, dtypes = (1_024, 4_096), (torch.float32, torch.bfloat16)
    if quick:
        shape = (shape[0] // 4, shape[1] // 2)
    rows = []
    for dtype in dtypes:
        rows += measure_dtype(*shape, dtype, device, quick)
    return rows + (not_installed(OP, device, ["faiss"]) if device.type == "cuda" else [])


def measure_dtype(
    num_vectors: int, num_centroids: int, dtype: torch.dtype, device: torch.device, quick: bool
) -> list[dict[str, Any]]:
    """Rows of every implementation for one dtype."""
    vectors, bank = make_inputs(num_vectors, num_centroids, dtype, device)
    check(vectors, bank)
    inverse = bank.inverse_norms.to(dtype)
    some = rotated((vectors,), device)
    works: dict[str, Any] = {
        "triton" if device.type == "cuda" else "native": lambda i: novelty(
            *some[i % len(some)], bank
        ),
        "torch mm + max": lambda i: by_torch(*some[i % len(some)], bank.centroids, inverse),
        "the product alone": lambda i: some[i % len(some)][0] @ bank.centroids.T,
    }
    if device.type == "cuda":
        compiled = torch.compile(by_torch)
        works["torch.compile(mm + max)"] = lambda i: compiled(
            *some[i % len(some)], bank.centroids, inverse
        )
    flop = 2 * num_vectors * num_centroids * DIM
    return [
        row(
            OP, f"{which} ({str(dtype).removeprefix('torch.')})", timing, device,
            vectors=num_vectors, centroids=num_centroids, dim=DIM,
            documents_per_s=num_vectors / timing.median_s, tflops=flop / timing.median_s / 1e12,
        )
        for which, timing in interleaved(works, device, quick, budget_s=15.0).items()
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
