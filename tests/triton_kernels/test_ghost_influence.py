# SPDX-License-Identifier: Apache-2.0
"""Ghost influence against autograd's per-sample gradients and against forward-mode derivatives."""

import pytest
import torch
from moot.triton_kernels.ghost_influence import (
    document_sums,
    embedding_influence,
    ghost_influence,
    scale_influence,
)
from torch import nn

LENGTHS = [3, 0, 1, 9, 4]
TOKENS = sum(LENGTHS)
CU_SEQLENS = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def per_sample(layer, inputs, weights_TO, directions):
    """<G, g_x> for every document, g_x from autograd, of the loss sum_t tanh(y_t) . w_t."""
    found = []
    for start, stop in zip(CU_SEQLENS[:-1], CU_SEQLENS[1:], strict=True):
        total = (layer(inputs[start:stop]).tanh() * weights_TO[start:stop]).sum()
        gradients = torch.autograd.grad(total, list(layer.parameters()))
        found.append(sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)))
    return torch.stack(found)


def output_grads(layer, inputs, weights_TO):
    output = layer(inputs).detach().requires_grad_()
    return torch.autograd.grad((output.tanh() * weights_TO).sum(), output)[0]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(("inputs", "outputs"), [(7, 5), (5, 7), (1, 1), (6, 6)])
def test_linear_equals_autograd_per_sample_gradients(inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    a, w = randn(TOKENS, inputs), randn(TOKENS, outputs)
    directions = [torch.randn_like(p) for p in layer.parameters()]
    partials = ghost_influence(a, output_grads(layer, a, w), *directions)
    assert partials.shape == (TOKENS,)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS), per_sample(layer, a, w, directions), **EXACT
    )


def test_linear_equals_the_derivative_along_the_direction():
    layer = nn.Linear(7, 5).double()
    a, w = randn(TOKENS, 7), randn(TOKENS, 5)
    directions = {name: torch.randn_like(p) for name, p in layer.named_parameters()}

    def token_losses(parameters):
        return (torch.func.functional_call(layer, parameters, (a,)).tanh() * w).sum(-1)

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    _, along = torch.func.jvp(token_losses, (parameters,), (directions,))
    partials = ghost_influence(
        a, output_grads(layer, a, w), directions["weight"], directions["bias"]
    )
    torch.testing.assert_close(partials, along, **EXACT)


def test_linear_equals_the_outer_product_form():
    a, b, direction = randn(TOKENS, 7), randn(TOKENS, 5), randn(5, 7)
    outer = torch.einsum("to,ti->toi", b, a)
    expected = (outer * direction).sum((1, 2))
    torch.testing.assert_close(ghost_influence(a, b, direction), expected, **EXACT)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_scale_equals_autograd_per_sample_gradients(kind):
    layer = (nn.LayerNorm(6) if kind == "layer_norm" else nn.RMSNorm(6, eps=1e-5)).double()
    nn.init.normal_(layer.weight)
    x, w = randn(TOKENS, 6), randn(TOKENS, 6)
    directions = [torch.randn_like(p) for p in layer.parameters()]
    plain = nn.LayerNorm(6, elementwise_affine=False) if len(directions) == 2 else None
    xhat = plain(x) if plain else nn.functional.rms_norm(x, (6,), None, 1e-5)
    partials = scale_influence(xhat, output_grads(layer, x, w), *directions)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS), per_sample(layer, x, w, directions), **EXACT
    )


def test_scale_takes_either_direction_alone():
    xhat, b, scale, bias = randn(4, 6), randn(4, 6), randn(6), randn(6)
    both = scale_influence(xhat, b, scale, bias)
    apart = scale_influence(xhat, b, scale) + scale_influence(xhat, b, None, bias)
    torch.testing.assert_close(both, apart, **EXACT)
    assert torch.equal(scale_influence(xhat, b, None), torch.zeros(4, dtype=torch.float64))


def test_embedding_equals_autograd_per_sample_gradients():
    layer = nn.Embedding(11, 6).double()
    tokens, w = torch.randint(11, (TOKENS,)), randn(TOKENS, 6)
    directions = [torch.randn_like(layer.weight)]
    partials = embedding_influence(tokens, output_grads(layer, tokens, w), *directions)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS), per_sample(layer, tokens, w, directions), **EXACT
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_near_fp64(dtype):
    a, b, direction, bias = randn(64, 48), randn(64, 96), randn(96, 48), randn(96)
    given = [x.to(dtype) for x in (a, b, direction, bias)]
    exact = ghost_influence(*(x.double() for x in given))
    got = ghost_influence(*given)
    assert got.dtype == torch.float32
    naive = (given[0] @ given[2].T * given[1]).sum(-1) + given[1] @ given[3]
    error = (got.double() - exact).abs().max()
    scale = exact.abs().max() * torch.finfo(dtype).eps
    assert error <= 2 * (naive.double() - exact).abs().max() + 4 * scale


def test_document_sums_do_not_depend_on_the_neighbours():
    partials = torch.randn(TOKENS) * torch.logspace(-6, 6, TOKENS)
    together = document_sums(partials, CU_SEQLENS)
    for i, (start, stop) in enumerate(zip(CU_SEQLENS[:-1], CU_SEQLENS[1:], strict=True)):
        alone = document_sums(partials[start:stop], torch.tensor([0, int(stop - start)]))
        assert torch.equal(together[i], alone[0])
    assert together.dtype == torch.float64
    assert together[1] == 0.0


def test_no_tokens_and_no_documents():
    empty = ghost_influence(torch.zeros(0, 3), torch.zeros(0, 2), torch.zeros(2, 3))
    assert empty.shape == (0,)
    assert document_sums(empty, torch.tensor([0])).shape == (0,)
    assert document_sums(empty, torch.tensor([0, 0])).tolist() == [0.0]


def test_shapes_that_do_not_fit_are_named():
    a, b, direction = torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"direction must have shape \[2, 3\]"):
        ghost_influence(a, b, direction.T)
    with pytest.raises(ValueError, match=r"output_grads must have shape \[4, O\]"):
        ghost_influence(a, b[:3], direction)
    with pytest.raises(ValueError, match="bias_direction"):
        ghost_influence(a, b, direction, torch.zeros(3))
    with pytest.raises(ValueError, match="output_grads"):
        scale_influence(a, b, torch.zeros(3))
    with pytest.raises(ValueError, match="direction"):
        embedding_influence(torch.zeros(4, dtype=torch.int64), b, torch.zeros(5, 3))
    for boundaries in ([0, 3], [1, 4], [0, 3, 2, 4], []):
        with pytest.raises(ValueError, match="cu_seqlens"):
            document_sums(torch.zeros(4), torch.tensor(boundaries, dtype=torch.int64))
