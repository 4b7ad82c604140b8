# SPDX-License-Identifier: Apache-2.0
"""What does every token's influence through a linear layer cost beside the layer's own product?

    python benchmarks/bench_ghost_influence.py [--device cuda] [--quick] [--out FILE.jsonl]

On CUDA in bf16: the fused kernel against cuBLAS and a row dot, the same compiled by torch,
GhostSuite's token x token form with 4,096 reference tokens, and, as the floor, the product alone.
Then many small layers in grouped launches against a launch each, and the sums of documents. On the
CPU the reference in fp32 against writing each document's gradient out. Nearness to fp64 gates all.
"""

from collections.abc import Callable

import torch
from moot.triton_kernels.ghost_influence import document_sums, ghost_influence, layer_influences
from ops import interleaved, main, rotated, row
from torch import Tensor

OP = "ghost_influence"
REFERENCE_TOKENS = 4096


def make_layer(device: torch.device, tokens: int, inputs: int, outputs: int) -> tuple:
    """Activations, output gradients and a direction."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sizes = ((tokens, inputs), (tokens, outputs), (outputs, inputs))
    return tuple(torch.randn(size, device=device).to(dtype) for size in sizes)


def plain(a: Tensor, b: Tensor, direction: Tensor) -> Tensor:
    """The product at the narrower width, then the row dot."""
    if len(direction) > direction.shape[1]:
        return ((b @ direction).float() * a).sum(-1)
    return ((a @ direction.T).float() * b).sum(-1)


def token_by_token(reference: tuple, a: Tensor, b: Tensor) -> Tensor:
    """Every token against every reference token: the direction is never formed."""
    return ((a @ reference[0].T).float() * (b @ reference[1].T)).sum(-1)


def written_out(a: Tensor, b: Tensor, direction: Tensor, cu_seqlens: list[int]) -> Tensor:
    """Each document's gradient, then its dot with the direction."""
    pairs = zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)
    return torch.stack([((b[i:j].T @ a[i:j]) * direction).sum() for i, j in pairs])


def check(layer: tuple) -> None:
    """Raise where the op is farther from fp64 than the plain expression may be."""
    a, b, direction = (x[:512] if x is not layer[2] else x for x in layer)
    found, naive = ghost_influence(a, b, direction).double(), plain(a, b, direction).double()
    a, b, direction = a.double(), b.double(), direction.double()
    exact = ((a @ direction.T) * b).sum(-1)
    scale = ((a.square() @ direction.square().T) * b.square()).sum(-1).sqrt().max()
    limit = 2 * (naive - exact).abs().max() + 4 * scale * 2.0**-23
    assert (found - exact).abs().max() <= limit, "ghost_influence is not near fp64"


def shape_rows(device: torch.device, quick: bool, shape: tuple[int, int, int]) -> list[dict]:
    """Rows of one layer: ours, the rivals, the product alone."""
    tokens, inputs, outputs = shape
    layer = make_layer(device, *shape)
    check(layer)
    some = rotated(layer, device)
    works: dict[str, Callable[[int], object]] = {
        "ours": lambda i: ghost_influence(*some[i % len(some)]),
        "product + row dot": lambda i: plain(*some[i % len(some)]),
        "product alone": lambda i: some[i % len(some)][0] @ some[i % len(some)][2].T,
    }
    if device.type == "cuda":
        compiled = torch.compile(plain, dynamic=False)
        works["torch.compile"] = lambda i: compiled(*some[i % len(some)])
        if outputs <= 2 * inputs:
            held = make_layer(device, REFERENCE_TOKENS, inputs, outputs)[:2]
            works["token x token, 4096 reference tokens"] = lambda i: token_by_token(
                held, *some[i % len(some)][:2]
            )
    else:
        ends = list(range(0, tokens + 1, 256))
        works["gradient of each document"] = lambda i: written_out(*layer, ends)
    timings = interleaved(works, device, quick, budget_s=8.0)
    work = 2 * tokens * inputs * outputs / 1e12  # of the layer's product, whoever does more
    return [
        row(OP, name, timing, device, tokens=tokens, inputs=inputs, outputs=outputs,
            dtype=str(layer[0].dtype), tflops=work / timing.median_s,
            tokens_per_s=tokens / timing.median_s)
        for name, timing in timings.items()
    ]  # fmt: skip


def group_rows(device: torch.device, quick: bool) -> list[dict]:
    """Rows of 24 small layers, together and one by one, and of the sums of documents."""
    tokens, width, num = (4096, 512, 24) if device.type == "cuda" else (512, 256, 24)
    layers = [make_layer(device, tokens, width, width) for _ in range(num)]
    lists = list(zip(*layers, strict=True))
    partials = layer_influences(*lists)
    assert torch.equal(partials[-1], ghost_influence(*layers[-1])), "grouping changes the bits"
    cu_seqlens = torch.arange(0, tokens + 1, 128, device=device)
    works = {
        "ours, 24 layers together": lambda i: layer_influences(*lists),
        "ours, 24 layers one by one": lambda i: [ghost_influence(*layer) for layer in layers],
        "product + row dot, 24 layers": lambda i: [plain(*layer) for layer in layers],
        "sums of documents, ours": lambda i: document_sums(partials, cu_seqlens),
        "sums of documents, torch": lambda i: document_sums(
            partials, cu_seqlens, implementation="reference"
        ),
    }
    return [
        row(OP, name, timing, device, tokens=tokens, inputs=width, outputs=width, layers=num)
        for name, timing in interleaved(works, device, quick, budget_s=6.0).items()
    ]


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows by shape; the last shape on CUDA is a head's."""
    torch.manual_seed(0)
    shapes = [(1024, 512, 512)]
    if device.type == "cuda":
        shapes = [(16384, 2048, 2048), (16384, 2048, 8192), (8192, 2048, 50304)]
    rows = [each for shape in shapes for each in shape_rows(device, quick, shape)]
    return rows + group_rows(device, quick)


if __name__ == "__main__":
    main(measure)
