# SPDX-License-Identifier: Apache-2.0
"""The compiled head_influence: close to fp64, independent of neighbours, without waiting."""

import torch
from moot.triton_kernels.head_influence import TOKEN_INFLUENCES, head_influence
from on_gpu import without_waiting

LENGTHS = [1, 0, 130, 300, 269]
TOKENS = sum(LENGTHS)
SHAPES = [(1, 1), (97, 64), (4099, 768), (50304, 1024), (8193, 1001)]
"""Vocabulary and width; rows of 1,001 numbers are read through pointers."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def make_inputs(seed, shape, dtype):
    """Hidden states, head and direction whose products are of order 1, and targets."""
    generator = torch.Generator("cuda").manual_seed(seed)
    vocabulary, width = shape
    sizes = ((TOKENS, width), shape, shape)
    made = [torch.randn(size, device="cuda", generator=generator) for size in sizes]
    hidden, weight, direction = made[0], made[1] / width**0.5, made[2] / width**0.5
    targets = torch.randint(vocabulary, (TOKENS,), device="cuda", generator=generator)
    targets[::5] = vocabulary - 1
    targets[3::7] = -100
    return *(x.to(dtype) for x in (hidden, weight, direction)), targets


def plain(hidden, weight, direction, targets, softcap):
    """Influence of each token, logits and slopes written out."""
    logits, slopes = hidden @ weight.T, hidden @ direction.T
    if softcap:
        logits = softcap * (logits / softcap).tanh()
        slopes = slopes * (1 - (logits / softcap).square())
    at_target = slopes.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return ((logits.softmax(-1) * slopes).sum(-1) - at_target).masked_fill(targets < 0, 0.0)


def check_shape(inputs, softcap, where):
    """Compare with fp64, then each document alone."""
    hidden, weight, direction, targets = inputs
    ends = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0)
    double = (x.double() for x in inputs[:3])
    exact = plain(*double, targets, softcap)
    naive = plain(*inputs, softcap).double()
    found, _ = TOKEN_INFLUENCES(*inputs, ends, softcap or 0.0, "triton")
    if hidden.dtype == torch.float64:  # there the plain expression is the yardstick itself
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)
    else:
        scale = exact.abs().max().clamp(min=1.0)
        limit = 2 * (naive - exact).abs().max() + 4 * scale * torch.finfo(found.dtype).eps
        assert (found.double() - exact).abs().max() <= limit, where
    sums = torch.stack(head_influence(*inputs, ends, softcap=softcap))
    for again in without_waiting(lambda: head_influence(*inputs, ends, softcap=softcap)):
        assert torch.equal(torch.stack(again), sums), where
    bounds = ends.tolist()
    for place, (i, j) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        alone = head_influence(
            hidden[i:j].clone(), weight, direction, targets[i:j].clone(),
            torch.tensor([0, j - i], device="cuda"), softcap=softcap,
        )  # fmt: skip
        assert torch.equal(torch.stack(alone)[:, 0], sums[:, place]), where


def check():
    """Every shape and dtype, with and without a cap."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    for dtype in DTYPES:
        for seed, shape in enumerate(SHAPES):
            for softcap in (None, 5.0):
                check_shape(make_inputs(seed, shape, dtype), softcap, (shape, dtype, softcap))


if __name__ == "__main__":
    check()
