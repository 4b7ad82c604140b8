# SPDX-License-Identifier: Apache-2.0
"""The compiled gradient_sketch: close to fp64, independent of neighbours, without waiting."""

import torch
from moot.triton_kernels import gradient_sketch, sketch_projection
from on_gpu import without_waiting

LENGTHS = [0, 1, 127, 128, 129, 0, 700, 5, 300]
SHAPES = [(1, 1), (64, 33), (1024, 1024), (1001, 520), (2064, 768)]
RANKS = [(64, 64), (16, 8), (33, 1)]
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def make_inputs(seed, shape, ranks, dtype):
    """Documents one behind the other; the first and last ten tokens belong to nobody."""
    generator = torch.Generator("cuda").manual_seed(seed)
    cu_seqlens = torch.tensor([10, *LENGTHS]).cumsum(0).cuda()
    tokens = int(cu_seqlens[-1]) + 10
    rows = [
        torch.randn(tokens, size, device="cuda", generator=generator).to(dtype) for size in shape
    ]
    projections = [
        sketch_projection(size, rank, seed=seed + side, dtype=dtype, device="cuda")
        for side, (size, rank) in enumerate(zip(shape, ranks, strict=True))
    ]
    return [*rows, *projections, cu_seqlens]


def plain(a, b, p, q, cu_seqlens):
    """The formula as torch writes it, document by document."""
    ends = cu_seqlens.tolist()
    return torch.stack([
        torch.einsum("tq,tp->qp", b[i:j] @ q, a[i:j] @ p)
        for i, j in zip(ends[:-1], ends[1:], strict=True)
    ])


def check_one(given, where):
    """Compare with fp64, then the documents in another order and each alone."""
    a, b, p, q, cu_seqlens = given
    double = [x.double() for x in given[:4]]
    exact, naive = plain(*double, cu_seqlens), plain(*given).double()
    scale = plain(*(x.square() for x in double), cu_seqlens).sqrt().max()
    for found in without_waiting(lambda: gradient_sketch(*given)):
        error, limit = (found.double() - exact).abs().max(), 2 * (naive - exact).abs().max()
        if a.dtype == torch.float64:  # there the plain expression is the yardstick itself
            limit = 1e-12 * scale
        assert error <= limit + 4 * scale * torch.finfo(found.dtype).eps, where
        for i in range(len(LENGTHS)):
            document = slice(int(cu_seqlens[i]), int(cu_seqlens[i + 1]))
            offsets = torch.tensor([0, LENGTHS[i]], device="cuda")
            alone = gradient_sketch(a[document], b[document], p, q, offsets)
            assert torch.equal(alone[0], found[i]), where


def check():
    """Every shape, rank and dtype; signs of the projections as on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    on_device = sketch_projection(1000, seed=-3, device="cuda")
    assert torch.equal(on_device.cpu(), sketch_projection(1000, seed=-3))
    for dtype in DTYPES:
        for seed, shape in enumerate(SHAPES):
            for ranks in RANKS:
                check_one(make_inputs(seed, shape, ranks, dtype), (shape, ranks, dtype))


if __name__ == "__main__":
    check()
