# SPDX-License-Identifier: Apache-2.0
"""What does the influence through the LM head cost beside the losses alone?

    python benchmarks/bench_head_influence.py [--device cuda] [--quick] [--out FILE.jsonl]

On CUDA in bf16: the fused kernel against sequence_loss and a separate pass for the influence,
torch's expression with logits and slopes written out, and the same compiled; the floor is two
products. We know of no public library with this op. On the CPU there is no kernel: the reference in
fp32 against the expression. Nearness to fp64 gates all.
"""

from collections.abc import Callable

import torch
from moot.triton_kernels.head_influence import TOKEN_INFLUENCES, head_influence
from moot.triton_kernels.sequence_loss import sequence_loss
from ops import interleaved, main, rotated, row
from torch import Tensor

OP = "head_influence"


def make_inputs(device: torch.device, tokens: int, width: int, vocabulary: int) -> tuple:
    """Hidden states, head and direction with products of order 1, targets, documents of 256."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    hidden = torch.randn(tokens, width, device=device).to(dtype)
    weight, direction = (
        (torch.randn(vocabulary, width, device=device) / width**0.5).to(dtype) for _ in range(2)
    )
    targets = torch.randint(vocabulary, (tokens,), device=device)
    return hidden, weight, direction, targets, torch.arange(0, tokens + 1, 256, device=device)


def plain(hidden: Tensor, weight: Tensor, direction: Tensor, targets: Tensor) -> Tensor:
    """Each token's influence, logits and slopes in memory."""
    logits, slopes = hidden @ weight.T, hidden @ direction.T
    expected = (logits.softmax(-1) * slopes).sum(-1)
    return expected - slopes.gather(1, targets[:, None])[:, 0]


def check(inputs: tuple) -> None:
    """Raise where the op is farther from fp64 than the plain expression may be."""
    hidden, weight, direction, targets = inputs[0][:256], *inputs[1:3], inputs[3][:256]
    ends = torch.tensor([0, len(hidden)], device=hidden.device)
    found, _ = TOKEN_INFLUENCES(hidden, weight, direction, targets, ends, 0.0, "auto")
    naive = plain(hidden, weight, direction, targets).double()
    exact = plain(hidden.double(), weight.double(), direction.double(), targets)
    limit = 2 * (naive - exact).abs().max() + 4 * exact.abs().max() * 2.0**-23
    assert (found.double() - exact).abs().max() <= limit, "head_influence is not near fp64"


def shape_rows(device: torch.device, quick: bool, shape: tuple[int, int, int]) -> list[dict]:
    """Rows of one shape: ours, the losses alone, with a separate pass, the products alone."""
    tokens, width, vocabulary = shape
    inputs = make_inputs(device, *shape)
    check(inputs)
    some = rotated(inputs, device)

    def losses(i: int) -> Tensor:
        hidden, weight, _, targets, ends = some[i % len(some)]
        return sequence_loss(hidden, weight, targets, ends)

    def products(i: int) -> tuple[Tensor, Tensor]:
        hidden, weight, direction = some[i % len(some)][:3]
        return hidden @ weight.T, hidden @ direction.T

    name = "ours" if device.type == "cuda" else "reference (no kernel on the CPU)"
    works: dict[str, Callable[[int], object]] = {
        name: lambda i: head_influence(*some[i % len(some)]),
        "sequence_loss alone": losses,
        "sequence_loss + separate pass": lambda i: (losses(i), plain(*some[i % len(some)][:4])),
        "logits and slopes written out": lambda i: plain(*some[i % len(some)][:4]),
        "two products alone": products,
    }
    if device.type == "cuda":
        compiled = torch.compile(plain, dynamic=False)
        works["torch.compile"] = lambda i: compiled(*some[i % len(some)][:4])
    with torch.no_grad():
        timings = interleaved(works, device, quick, budget_s=9.0)
    work = 2 * tokens * width * vocabulary / 1e12
    return [
        row(OP, each, timing, device, tokens=tokens, width=width, vocabulary=vocabulary,
            dtype=str(inputs[0].dtype), tokens_per_s=tokens / timing.median_s,
            tflops=work * (1 + (each != "sequence_loss alone")) / timing.median_s,
            times_sequence_loss=timing.median_s / timings["sequence_loss alone"].median_s)
        for each, timing in timings.items()
    ]  # fmt: skip


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows by shape."""
    torch.manual_seed(0)
    shapes = [(512, 256, 8192)]
    if device.type == "cuda":
        shapes = [(8192, 2048, 50304), (8192, 4096, 128256)]
    return [each for shape in shapes for each in shape_rows(device, quick, shape)]


if __name__ == "__main__":
    main(measure)
