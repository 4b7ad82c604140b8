# SPDX-License-Identifier: Apache-2.0
"""The compiled sequence_loss: close to fp64, independent of neighbours, without waiting."""

import torch
from moot.triton_kernels.ghost_influence import document_sums
from moot.triton_kernels.sequence_loss import sequence_loss, token_losses
from on_gpu import without_waiting
from torch.nn import functional

LENGTHS = [1, 0, 130, 300, 269]
TOKENS = sum(LENGTHS)
SHAPES = [(1, 1), (97, 64), (4099, 768), (50304, 1024), (8193, 1001)]
"""Vocabulary and width; rows of 1,001 numbers are read through pointers."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def make_inputs(seed, shape, dtype):
    """Hidden states, a head whose logits are of order 1, and targets."""
    generator = torch.Generator("cuda").manual_seed(seed)
    vocabulary, width = shape
    hidden = torch.randn(TOKENS, width, device="cuda", generator=generator)
    weight = torch.randn(vocabulary, width, device="cuda", generator=generator) / width**0.5
    targets = torch.randint(vocabulary, (TOKENS,), device="cuda", generator=generator)
    targets[::5] = vocabulary - 1
    targets[3::7] = -100
    return hidden.to(dtype), weight.to(dtype), targets


def plain(hidden, weight, targets, softcap):
    """The losses as torch writes them."""
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    return functional.cross_entropy(logits, targets, ignore_index=-100, reduction="none")


def check_shape(inputs, softcap, where):
    """Compare with fp64, then the documents in reverse order and each of them alone."""
    hidden, weight, targets = inputs
    ends = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0)
    exact = plain(hidden.double(), weight.double(), targets, softcap)
    naive = plain(*inputs, softcap).double()
    for found in without_waiting(lambda: token_losses(*inputs, ends, softcap=softcap)):
        if hidden.dtype == torch.float64:  # there the plain expression is the yardstick itself
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-11)
            continue
        limit = 2 * (naive - exact).abs().max() + 4 * exact.max() * torch.finfo(found.dtype).eps
        assert (found.double() - exact).abs().max() <= limit, where
    reference = torch.rand(TOKENS, device="cuda")
    sums = sequence_loss(*inputs, ends, reference, softcap=softcap)
    for again in without_waiting(lambda: sequence_loss(*inputs, ends, reference, softcap=softcap)):
        assert torch.equal(again, sums), where
    bounds = ends.tolist()
    for place, (i, j) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        alone = sequence_loss(
            hidden[i:j].clone(), weight, targets[i:j].clone(),
            torch.tensor([0, j - i], device="cuda"), reference[i:j].clone(), softcap=softcap,
        )  # fmt: skip
        assert torch.equal(alone[0], sums[place]), where
    order = torch.randperm(TOKENS, device="cuda")
    whole = torch.tensor([0, TOKENS], device="cuda")
    shuffled = token_losses(hidden[order], weight, targets[order], whole, softcap=softcap)
    tokens = token_losses(*inputs, ends, softcap=softcap)
    assert torch.equal(shuffled, tokens[order]), where
    assert torch.equal(document_sums(tokens, whole), sequence_loss(*inputs, whole, softcap=softcap))


def check():
    """Every shape and dtype, with and without a cap; a target past the vocabulary."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    for dtype in DTYPES:
        for seed, shape in enumerate(SHAPES):
            for softcap in (None, 5.0):
                check_shape(make_inputs(seed, shape, dtype), softcap, (shape, dtype, softcap))
    hidden, weight, targets = make_inputs(0, SHAPES[1], torch.bfloat16)
    targets[4] = len(weight)
    found = token_losses(hidden, weight, targets, torch.tensor([0, TOKENS], device="cuda"))
    assert found.isnan().nonzero().tolist() == [[4]]


if __name__ == "__main__":
    check()
