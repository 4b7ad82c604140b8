# SPDX-License-Identifier: Apache-2.0
"""What does a sketch of every document's gradient cost beside reading its operands once?

    python benchmarks/bench_gradient_sketch.py [--device cuda] [--quick] [--out FILE.jsonl]

On CUDA in bf16: the kernel against einsum in torch and compiled by torch (for these, documents of
one length: they see a dense batch), and a copy of as many bytes as the floor. Also with ragged
documents, which the rivals cannot take. On the CPU the reference in fp32 against the einsum.
Nearness to fp64 is the gate.
"""

from collections.abc import Callable

import torch
from moot.triton_kernels import gradient_sketch, sketch_projection
from ops import interleaved, main, rotated, row
from torch import Tensor

OP = "gradient_sketch"
RANK = 64


def make_inputs(device: torch.device, tokens: int, width: int, lengths: Tensor) -> tuple:
    """Activations, output gradients, projections, offsets."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = [torch.randn(tokens, width, device=device).to(dtype) for _ in range(2)]
    sides = [
        sketch_projection(width, RANK, seed=seed, dtype=dtype, device=device) for seed in (1, 2)
    ]
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return (*rows, *sides, cu_seqlens.to(device))


def by_einsum(a: Tensor, b: Tensor, p: Tensor, q: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Documents of one length as a dense batch."""
    num = cu_seqlens.shape[0] - 1
    left, right = (b @ q).view(num, -1, RANK), (a @ p).view(num, -1, RANK)
    return torch.einsum("ntq,ntp->nqp", left, right)


def check(inputs: tuple) -> None:
    """Raise where the op is farther from fp64 than the plain expression may be."""
    double = [x.double() for x in inputs[:4]]
    exact, naive = by_einsum(*double, inputs[4]), by_einsum(*inputs).double()
    scale = by_einsum(*(x.square() for x in double), inputs[4]).sqrt().max()
    limit = 2 * (naive - exact).abs().max() + 4 * scale * 2.0**-23
    error = (gradient_sketch(*inputs).double() - exact).abs().max()
    assert error <= limit, "gradient_sketch is not near fp64"


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows by width; equal documents, then ragged ones of the same tokens."""
    torch.manual_seed(0)
    is_cuda = device.type == "cuda"
    tokens, length = (32768, 512) if is_cuda else (1024, 256)
    compiled = torch.compile(by_einsum, dynamic=False)
    rows = []
    for width in (1024, 2048, 4096) if is_cuda else (512,):
        equal = torch.full((tokens // length,), length)
        inputs = make_inputs(device, tokens, width, equal)
        check(inputs)
        cuts = torch.randperm(tokens - 1)[: tokens // length - 1].sort().values + 1
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.tensor([tokens])])
        ragged = ends.to(device)
        some = rotated(inputs, device)
        works: dict[str, Callable[[int], object]] = {
            "ours": lambda i, some=some: gradient_sketch(*some[i % len(some)]),
            "ours, ragged": lambda i, some=some, ragged=ragged: gradient_sketch(
                *some[i % len(some)][:4], ragged
            ),
            "einsum": lambda i, some=some: by_einsum(*some[i % len(some)]),
            "copy of half the operands": lambda i, some=some: some[i % len(some)][0].clone(),
        }
        if is_cuda:
            works["torch.compile einsum"] = lambda i, some=some: compiled(*some[i % len(some)])
        size = 2 * inputs[0].nbytes / 1e9  # both operands read, or one read and written
        rows += [
            row(OP, name, timing, device, tokens=tokens, width=width, rank=RANK,
                documents=len(equal), dtype=str(inputs[0].dtype),
                gigabytes_per_s=size / timing.median_s, tokens_per_s=tokens / timing.median_s)
            for name, timing in interleaved(works, device, quick, budget_s=10.0).items()
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    main(measure)
