# SPDX-License-Identifier: Apache-2.0
"""The compiled ghost_influence: close to fp64, independent of neighbours, without waiting."""

import torch
from moot.triton_kernels.ghost_influence import (
    document_sums,
    embedding_influence,
    ghost_influence,
    layer_influences,
    scale_influence,
)
from on_gpu import without_waiting

TOKENS = 700
SHAPES = [(1, 1), (64, 33), (1024, 1024), (768, 3072), (3072, 768), (1001, 520), (2064, 272)]
"""Inputs and outputs of a layer."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def make_layer(seed, shape, dtype, has_bias):
    """Activations, output gradients, direction and perhaps a bias."""
    generator = torch.Generator("cuda").manual_seed(seed)
    inputs, outputs = shape
    sizes = [(TOKENS, inputs), (TOKENS, outputs), shape[::-1], (outputs,)]
    made = [torch.randn(size, device="cuda", generator=generator).to(dtype) for size in sizes]
    return made if has_bias else [*made[:3], None]


def plain(a, b, direction, bias):
    """The formula as torch writes it."""
    partials = (a @ direction.T * b).sum(-1)
    return partials if bias is None else partials + b @ bias


def check_layer(layer, where):
    """Compare one layer with fp64, then its tokens in another order and some of them alone."""
    a, b, direction, bias = layer
    double = [None if x is None else x.double() for x in layer]
    exact, naive = plain(*double), plain(*layer).double()
    scale = plain(*(None if x is None else x.square() for x in double)).sqrt().max()
    order = torch.randperm(TOKENS, device="cuda")
    for found in without_waiting(lambda: ghost_influence(*layer)):
        limit = 2 * (naive - exact).abs().max() + 4 * scale * torch.finfo(found.dtype).eps
        if b.dtype != torch.float64:  # there the plain expression is the yardstick itself
            assert (found.double() - exact).abs().max() <= limit, where
        else:
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=float(scale) * 1e-13)
        for places in (order, order[:130], order[:1]):
            again = ghost_influence(a[places], b[places], direction, bias)
            assert torch.equal(again, found[places]), where


def check_grouped(dtype):
    """Twenty layers of two shapes, with and without bias: the bits of each layer alone."""
    layers = [
        make_layer(seed, SHAPES[2 + seed % 2], dtype, has_bias=seed % 5 == 0) for seed in range(20)
    ]
    for found in without_waiting(lambda: layer_influences(*zip(*layers, strict=True))):
        for layer, row in zip(layers, found, strict=True):
            assert torch.equal(ghost_influence(*layer), row), dtype


def check_rows(dtype):
    """Norms and embeddings against the reference in fp64; sums of documents against the CPU."""
    a, b, _, bias = make_layer(0, (520, 520), dtype, True)
    tokens = torch.randint(TOKENS, (TOKENS,), device="cuda")
    calls = [
        (lambda **how: scale_influence(a, b, bias, bias, **how), b * (a * bias + bias)),
        (lambda **how: embedding_influence(tokens, b, a, **how), b * a[tokens]),
    ]
    for call, terms in calls:
        exact = call(implementation="reference").double()
        scale = terms.double().square().sum(-1).sqrt().max()
        for found in without_waiting(call):
            error = (found.double() - exact).abs().max()
            assert error <= 64 * scale * torch.finfo(found.dtype).eps, dtype
    partials = torch.randn(3, 5000, device="cuda", dtype=torch.float32)
    cu_seqlens = torch.tensor([0, 0, 1, 513, 4000, 5000])
    expected = document_sums(partials.cpu(), cu_seqlens)
    on_device = cu_seqlens.cuda()
    for found in without_waiting(lambda: document_sums(partials, on_device)):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-11)
        for i in range(5):
            alone = partials[:, cu_seqlens[i] : cu_seqlens[i + 1]]
            offsets = torch.tensor([0, alone.shape[1]], device="cuda")
            assert torch.equal(document_sums(alone, offsets)[0], found[i])


def check():
    """Every shape and dtype."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    for dtype in DTYPES:
        for seed, shape in enumerate(SHAPES):
            for has_bias in (False, True):
                where = (shape, dtype, has_bias)
                check_layer(make_layer(seed, shape, dtype, has_bias), where)
        check_rows(dtype)
    check_grouped(torch.bfloat16)


if __name__ == "__main__":
    check()
