# SPDX-License-Identifier: Apache-2.0
"""Ghost influence against autograd's per-sample gradients and against forward-mode derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels.ghost_influence import (
    document_sums,
    embedding_influence,
    ghost_influence,
    layer_influences,
    scale_influence,
)
from torch import nn

LENGTHS = [3, 0, 1, 9, 4]
TOKENS = sum(LENGTHS)
CU_SEQLENS = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
EXACT = {"rtol": 1e-12, "atol": 1e-12}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["reference", "triton"])
def chosen(request):
    return {"implementation": request.param}


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
@pytest.mark.parametrize(("inputs", "outputs"), [(7, 5), (5, 7), (1, 1), (33, 65)])
def test_linear_equals_autograd_per_sample_gradients(inputs, outputs, bias, chosen):
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    a, w = randn(TOKENS, inputs), randn(TOKENS, outputs)
    directions = [torch.randn_like(p) for p in layer.parameters()]
    partials = ghost_influence(a, output_grads(layer, a, w), *directions, **chosen)
    assert partials.shape == (TOKENS,)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS, **chosen), per_sample(layer, a, w, directions), **EXACT
    )


def test_linear_equals_the_derivative_along_the_direction(chosen):
    layer = nn.Linear(7, 5).double()
    a, w = randn(TOKENS, 7), randn(TOKENS, 5)
    directions = {name: torch.randn_like(p) for name, p in layer.named_parameters()}

    def token_losses(parameters):
        return (torch.func.functional_call(layer, parameters, (a,)).tanh() * w).sum(-1)

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    _, along = torch.func.jvp(token_losses, (parameters,), (directions,))
    partials = ghost_influence(
        a, output_grads(layer, a, w), directions["weight"], directions["bias"], **chosen
    )
    torch.testing.assert_close(partials, along, **EXACT)


def test_linear_equals_the_outer_product_form(chosen):
    a, b, direction = randn(TOKENS, 7), randn(TOKENS, 5), randn(5, 7)
    outer = torch.einsum("to,ti->toi", b, a)
    expected = (outer * direction).sum((1, 2))
    torch.testing.assert_close(ghost_influence(a, b, direction, **chosen), expected, **EXACT)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_scale_equals_autograd_per_sample_gradients(kind, chosen):
    layer = (nn.LayerNorm(6) if kind == "layer_norm" else nn.RMSNorm(6, eps=1e-5)).double()
    nn.init.normal_(layer.weight)
    x, w = randn(TOKENS, 6), randn(TOKENS, 6)
    directions = [torch.randn_like(p) for p in layer.parameters()]
    plain = nn.LayerNorm(6, elementwise_affine=False) if len(directions) == 2 else None
    xhat = plain(x) if plain else nn.functional.rms_norm(x, (6,), None, 1e-5)
    partials = scale_influence(xhat, output_grads(layer, x, w), *directions, **chosen)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS, **chosen), per_sample(layer, x, w, directions), **EXACT
    )


def test_scale_takes_either_direction_alone(chosen):
    xhat, b, scale, bias = randn(4, 6), randn(4, 6), randn(6), randn(6)
    both = scale_influence(xhat, b, scale, bias, **chosen)
    apart = scale_influence(xhat, b, scale, **chosen) + scale_influence(
        xhat, b, None, bias, **chosen
    )
    torch.testing.assert_close(both, apart, **EXACT)
    assert torch.equal(scale_influence(xhat, b, None, **chosen), torch.zeros(4).double())


def test_embedding_equals_autograd_per_sample_gradients(chosen):
    layer = nn.Embedding(11, 6).double()
    tokens, w = torch.randint(11, (TOKENS,)), randn(TOKENS, 6)
    directions = [torch.randn_like(layer.weight)]
    partials = embedding_influence(tokens, output_grads(layer, tokens, w), *directions, **chosen)
    torch.testing.assert_close(
        document_sums(partials, CU_SEQLENS, **chosen),
        per_sample(layer, tokens, w, directions),
        **EXACT,
    )


class Tied(nn.Module):
    """Embedding, norm, two linear layers, and a head that shares the embedding's matrix."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 40), nn.Linear(40, 6, bias=False)
        nn.init.normal_(self.norm.weight)

    def forward(self, tokens, taps=None):
        """taps collects (inputs, output) of every layer that has parameters."""
        taps = [] if taps is None else taps
        embedded = self.embedding(tokens)
        xhat = nn.functional.layer_norm(embedded, (6,))
        normed = xhat * self.norm.weight + self.norm.bias
        up = self.up(normed)
        hidden = self.down(up.tanh())
        logits = hidden @ self.embedding.weight.T
        taps += [embedded, xhat, normed, up, up.tanh(), hidden, logits]
        return nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum")


def test_whole_model_equals_autograd_and_the_derivative_along_the_direction(chosen):
    """Embedding, norm, linear layers with and without bias, and a tied head, layer by layer."""
    model = Tied().double()
    directions = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    documents = [torch.randint(11, (length,)) for length in (5, 2, 40)]
    found, expected, along = [], [], []
    for tokens in documents:
        taps = []
        loss = model(tokens, taps)
        embedded, xhat, normed, up, acted, hidden, logits = taps
        outputs = [embedded, normed, up, hidden, logits]
        e, n, u, h, b = torch.autograd.grad(loss, outputs, retain_graph=True)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        expected.append(
            sum((g * directions[k]).sum() for k, g in zip(names, gradients, strict=True))
        )
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        call = lambda p, t=tokens: torch.func.functional_call(model, p, (t,))  # noqa: E731
        along.append(torch.func.jvp(call, (parameters,), (directions,))[1])
        matrix = directions["embedding.weight"]
        linear = layer_influences(
            [normed.detach(), acted.detach(), hidden.detach()], [u, h, b],
            [directions["up.weight"], directions["down.weight"], matrix],
            [directions["up.bias"], None, None], **chosen,
        )  # fmt: skip
        scale = [directions["norm.weight"], directions["norm.bias"]]
        terms = [
            linear,
            embedding_influence(tokens, e, matrix, **chosen)[None],
            scale_influence(xhat.detach(), n, *scale, **chosen)[None],
        ]
        found.append(
            document_sums(torch.cat(terms), torch.tensor([0, len(tokens)]), **chosen).squeeze(0)
        )
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), **EXACT)
    torch.testing.assert_close(torch.stack(found), torch.stack(along), **EXACT)


SIZES = [1, 3, 16, 17, 31, 32, 33, 64, 65]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    # Errors are compared at their largest, so there must be some; one token alone is looked at in
    # test_partials_do_not_depend_on_the_other_tokens.
    tokens=st.sampled_from([31, 32, 33, 70]),
    shape=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    dtype=st.sampled_from(DTYPES),
    has_bias=st.booleans(),
    implementation=st.sampled_from(["reference", "triton", "triton"]),
)
def test_linear_is_as_close_to_fp64_as_the_plain_expression(
    seed, tokens, shape, dtype, has_bias, implementation
):
    torch.manual_seed(seed)
    inputs, outputs = shape
    tensors = [randn(tokens, inputs), randn(tokens, outputs), randn(outputs, inputs)]
    given = [x.to(dtype) for x in [*tensors, randn(outputs)][: 3 + has_bias]]
    got = ghost_influence(*given, implementation=implementation)
    assert got.dtype == torch.promote_types(dtype, torch.float32) and got.shape == (tokens,)

    def plain(a, b, direction, bias=None):
        partials = (a @ direction.T * b).sum(-1)
        return partials if bias is None else partials + b @ bias

    exact = plain(*(x.double() for x in given))
    # What a sum of that many terms comes to, whether or not these happen to cancel.
    scale = plain(*(x.double().square() for x in given)).sqrt().max()
    naive = (plain(*given).double() - exact).abs().max()
    error = (got.double() - exact).abs().max()
    assert error <= 2 * naive + 4 * scale * torch.finfo(got.dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_as_close_to_fp64_as_the_plain_expression(dtype, chosen):
    for tokens, width in ((33, 1), (17, 255), (33, 257), (20, 520)):
        sizes = [(tokens, width), (tokens, width), (width,), (width,)]
        x, b, scale, bias = (randn(*size).to(dtype) for size in sizes)
        rows = torch.randint(tokens, (tokens,))
        cases = [
            (scale_influence(x, b, scale, bias, **chosen), lambda x, b, s, c: b * (x * s + c)),
            (embedding_influence(rows, b, x, **chosen), lambda x, b, s, c: b * x[rows]),  # noqa: B023
        ]
        for got, terms in cases:
            exact = terms(*(t.double() for t in (x, b, scale, bias)))
            naive = terms(x, b, scale, bias).sum(-1).double() - exact.sum(-1)
            error = (got.double() - exact.sum(-1)).abs().max()
            limit = exact.square().sum(-1).sqrt().max() * torch.finfo(got.dtype).eps
            assert error <= 2 * naive.abs().max() + 4 * limit


def make_layers(shapes, tokens, dtype=torch.float32):
    """Layers of the shapes given, every third with a bias."""
    return [
        [randn(tokens, i).to(dtype), randn(tokens, o).to(dtype), randn(o, i).to(dtype),
         randn(o).to(dtype) if place % 3 == 0 else None]
        for place, (i, o) in enumerate(shapes)
    ]  # fmt: skip


def test_every_output_is_written(poisoned_empty, chosen):
    layers = make_layers([(33, 17), (17, 33), (33, 17), (40, 70)], 35)
    partials = layer_influences(*zip(*layers, strict=True), **chosen)
    assert torch.isfinite(partials).all()
    a, b = layers[0][0], randn(35, 33)
    assert torch.isfinite(scale_influence(a, b, randn(33), **chosen)).all()
    assert torch.isfinite(embedding_influence(torch.arange(35), b, a, **chosen)).all()
    assert torch.isfinite(document_sums(partials, torch.tensor([0, 0, 34, 35]), **chosen)).all()


def test_layers_launched_together_have_the_bits_of_each_alone(chosen):
    """Nineteen layers of three shapes: two launches for the first, one for each other."""
    shapes = [(33, 17), (17, 40), (33, 17)] * 6 + [(8, 8)]
    layers = make_layers(shapes, 35)
    together = layer_influences(*zip(*layers, strict=True), **chosen)
    again = layer_influences(*zip(*layers[::-1], strict=True), **chosen)
    for place, layer in enumerate(layers):
        alone = ghost_influence(*layer, **chosen)
        assert torch.equal(together[place], alone)
        assert torch.equal(again[len(layers) - 1 - place], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(40, 33), (33, 70)], ids=str)
def test_partials_do_not_depend_on_the_other_tokens(shape, dtype):
    """Alone, shuffled or among others: the kernels give a token the same bits."""
    kernel = {"implementation": "triton"}
    ((a, b, direction, bias),) = make_layers([shape], 70, dtype)
    rows, order = torch.randint(70, (70,)), torch.randperm(70)
    scale, table = randn(shape[1]).to(dtype), randn(70, shape[1]).to(dtype)

    def partials(places):
        return [
            ghost_influence(a[places], b[places], direction, bias, **kernel),
            ghost_influence(a[places], b[places], direction, **kernel),
            scale_influence(table[places], b[places], scale, **kernel),
            embedding_influence(rows[places], b[places], table, **kernel),
        ]

    together = partials(torch.arange(70))
    for places in (order, torch.arange(31, 70), torch.tensor([69])):
        for some, whole in zip(partials(places), together, strict=True):
            assert torch.equal(some, whole[places])
    for one, other in zip(together, partials(torch.arange(70)), strict=True):
        assert torch.equal(one, other)


def test_document_sums_do_not_depend_on_the_neighbours(chosen):
    partials = torch.randn(2, 1300) * torch.logspace(-6, 6, 1300)
    cu_seqlens = torch.tensor([0, 3, 3, 4, 700, 1300])
    for summed in (partials, partials[0]):
        together = document_sums(summed, cu_seqlens, **chosen)
        for i, (start, stop) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
            alone = document_sums(
                summed[..., start:stop], torch.tensor([0, int(stop - start)]), **chosen
            )
            assert torch.equal(together[i], alone[0])
        assert together.dtype == torch.float64
        assert together[1] == 0.0


def test_document_sums_add_layers_and_tokens(chosen):
    partials = torch.randn(3, 1300)
    cu_seqlens = torch.tensor([0, 1, 1, 600, 1300])
    found = document_sums(partials, cu_seqlens, **chosen)
    pairs = zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)
    expected = torch.stack([partials[:, start:stop].double().sum() for start, stop in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_no_tokens_and_no_documents(chosen):
    empty = ghost_influence(torch.zeros(0, 3), torch.zeros(0, 2), torch.zeros(2, 3), **chosen)
    assert empty.shape == (0,)
    assert scale_influence(torch.zeros(0, 3), torch.zeros(0, 3), None, **chosen).shape == (0,)
    none = torch.zeros(0, dtype=torch.int64)
    assert embedding_influence(none, torch.zeros(0, 3), torch.zeros(2, 3), **chosen).shape == (0,)
    assert document_sums(empty, torch.tensor([0]), **chosen).shape == (0,)
    assert document_sums(empty, torch.tensor([0, 0]), **chosen).tolist() == [0.0]


def test_infinite_values_stay_with_their_token():
    """A column past the last tile reads zeros; a zero times infinity must not show."""
    a, b, direction = torch.ones(3, 5), torch.ones(3, 33), torch.ones(33, 5)
    a[1], b[2] = torch.inf, torch.inf
    partials = ghost_influence(a, b, direction, implementation="triton")
    assert partials.tolist() == [165.0, torch.inf, torch.inf]
    partials = ghost_influence(a, b, direction, torch.full((33,), 2.0), implementation="triton")
    assert partials.tolist() == [231.0, torch.inf, torch.inf]


def test_unknown_token_is_no_score():
    b, direction = torch.ones(3, 4), torch.ones(5, 4)
    found = embedding_influence(torch.tensor([5, 4, -1]), b, direction, implementation="triton")
    assert found.isnan().tolist() == [True, False, True]
    with pytest.raises(IndexError):
        embedding_influence(torch.tensor([5, 4, -1]), b, direction)


def test_ops_are_registered(chosen):
    from moot.triton_kernels.ghost_influence import ops

    layers = make_layers([(33, 17), (17, 33)], 5)
    name = chosen["implementation"]
    lists = [list(column) for column in zip(*layers, strict=True)]
    torch.library.opcheck(ops.LAYERS, (*lists, name))
    b, scale = randn(5, 33), randn(33)
    torch.library.opcheck(ops.SCALE, (layers[0][0], b, scale, None, name))
    torch.library.opcheck(ops.EMBEDDING, (torch.arange(5), b, layers[0][0], name))
    torch.library.opcheck(ops.SUMS, (b, torch.tensor([0, 4, 33]), name))


def test_compiled_graph_holds_the_ops_whole():
    a, b, direction = randn(TOKENS, 7), randn(TOKENS, 5), randn(5, 7)

    def score(a, b, direction, cu_seqlens):
        partials = layer_influences([a, a], [b, b], [direction, direction])
        return document_sums(partials, cu_seqlens)

    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a, b, direction, CU_SEQLENS), score(a, b, direction, CU_SEQLENS))


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


def test_other_bad_arguments_are_named():
    a, b, direction = torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="no native routine"):
        ghost_influence(a, b, direction, implementation="native")
    with pytest.raises(ValueError, match="must be floating"):
        ghost_influence(a.long(), b, direction)
    with pytest.raises(ValueError, match="must be int32 or int64"):
        embedding_influence(torch.zeros(4), b, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="0 activations"):
        layer_influences([], [], [])
    with pytest.raises(ValueError, match="1 activations, 2 output_grads"):
        layer_influences([a], [b, b], [direction])
    with pytest.raises(ValueError, match="must share tokens, dtype and device"):
        layer_influences([a, a.half()], [b, b.half()], [direction, direction])
    with pytest.raises(ValueError, match=r"partials must have shape \[T\] or \[L, T\]"):
        document_sums(torch.zeros(0, 4), torch.tensor([0, 4]))
