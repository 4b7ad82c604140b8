# SPDX-License-Identifier: Apache-2.0
"""gradient_sketch against the gradients themselves, and its kernel against fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels import gradient_sketch, sketch_projection
from torch import nn

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [1, 3, 15, 16, 17, 31, 33, 48]


@pytest.fixture(params=["reference", "triton"])
def chosen(request):
    return {"implementation": request.param}


def make_inputs(seed, lengths, inputs, outputs, ranks=(4, 5), dtype=torch.float64, gap=0):
    """Activations, output gradients, projections and offsets; `gap` tokens belong to nobody."""
    generator = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([gap, *lengths]).cumsum(0)
    tokens = int(cu_seqlens[-1]) + gap

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    projections = [randn(inputs, ranks[0]) / 2, randn(outputs, ranks[1]) / 2]
    return randn(tokens, inputs), randn(tokens, outputs), *projections, cu_seqlens


def outer_products(a, b, p, q, cu_seqlens):
    """Q^T g P with the gradient g of each document written out."""
    pairs = zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)
    gradients = [torch.einsum("to,ti->oi", b[i:j], a[i:j]) for i, j in pairs]
    return torch.stack([q.T @ gradient @ p for gradient in gradients])


@pytest.mark.parametrize("ranks", [(4, 5), (1, 1), (33, 16)], ids=str)
def test_token_form_equals_outer_product_form(ranks, chosen):
    given = make_inputs(0, [3, 0, 1, 31, 32, 33, 100], 17, 33, ranks)
    found = gradient_sketch(*given, **chosen)
    assert found.dtype == torch.float64 and found.shape == (7, *ranks[::-1])
    torch.testing.assert_close(found, outer_products(*given), rtol=1e-12, atol=1e-12)


def test_sketch_is_of_autograd_s_per_sample_gradient(chosen):
    a, _, p, q, cu = make_inputs(1, [5, 40, 1], 9, 7)
    layer = nn.Linear(9, 7, bias=False).double()
    output = layer(a).detach().requires_grad_()
    (b,) = torch.autograd.grad(output.tanh().square().sum(), output)
    found = gradient_sketch(a, b, p, q, cu, **chosen)
    for i, sketch in enumerate(found):
        loss = layer(a[cu[i] : cu[i + 1]]).tanh().square().sum()
        (gradient,) = torch.autograd.grad(loss, layer.weight)
        torch.testing.assert_close(sketch, q.T @ gradient @ p, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.sampled_from([0, 1, 2, 31, 32, 33, 65]), max_size=4),
    shape=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    ranks=st.tuples(st.sampled_from([4, 16, 17]), st.sampled_from([5, 16, 33])),
    dtype=st.sampled_from(DTYPES),
    gap=st.sampled_from([0, 40]),
    implementation=st.sampled_from(["reference", "triton", "triton"]),
)
def test_sketch_is_as_close_to_fp64_as_the_plain_expression(
    seed, lengths, shape, ranks, dtype, gap, implementation
):
    # Errors are compared at their largest, so there must be enough of them: one long document.
    given = make_inputs(seed, [*lengths, 65], *shape, ranks, dtype, gap)
    found = gradient_sketch(*given, implementation=implementation)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.shape == (len(lengths) + 1, ranks[1], ranks[0])

    def plain(a, b, p, q, cu):
        pairs = zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)
        return torch.stack([torch.einsum("tq,tp->qp", b[i:j] @ q, a[i:j] @ p) for i, j in pairs])

    exact = plain(*(x.double() for x in given[:4]), given[4])
    naive = plain(*given).double() - exact
    # What a sum of that many terms comes to, whether or not these happen to cancel.
    scale = plain(*(x.double().square() for x in given[:4]), given[4]).sqrt().max()
    error = (found.double() - exact).abs().max()
    assert error <= 2 * naive.abs().max() + 4 * scale * torch.finfo(found.dtype).eps


def test_every_output_is_written(poisoned_empty, chosen):
    found = gradient_sketch(*make_inputs(2, [0, 1, 33, 0, 64], 17, 15), **chosen)
    assert torch.isfinite(found).all()
    assert (found[0] == 0).all() and (found[3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_sketch_does_not_depend_on_neighbours_or_order(dtype, chosen):
    lengths = [3, 0, 70, 1, 33, 32]
    a, b, p, q, cu = make_inputs(3, lengths, 17, 33, dtype=dtype)
    together = gradient_sketch(a, b, p, q, cu, **chosen)
    assert torch.equal(gradient_sketch(a, b, p, q, cu, **chosen), together)
    order = [4, 2, 0, 5, 3, 1]
    places = torch.cat([torch.arange(int(cu[i]), int(cu[i + 1])) for i in order])
    shuffled = torch.tensor([0, *(lengths[i] for i in order)]).cumsum(0)
    again = gradient_sketch(a[places], b[places], p, q, shuffled, **chosen)
    for i, place in enumerate(order):
        document = slice(int(cu[place]), int(cu[place + 1]))
        offsets = torch.tensor([0, lengths[place]])
        alone = gradient_sketch(a[document], b[document], p, q, offsets, **chosen)
        assert torch.equal(again[i], together[place])
        assert torch.equal(alone[0], together[place])


def test_many_short_documents_find_their_slots(chosen):
    """More documents than one step of the kernel's search reads, most of them empty."""
    lengths = [i % 9 // 7 for i in range(300)]
    given = make_inputs(4, lengths, 3, 2, gap=5)
    found = gradient_sketch(*given, **chosen)
    torch.testing.assert_close(found, outer_products(*given), rtol=1e-12, atol=1e-12)


def test_infinite_values_stay_with_their_document():
    a, b, p, q, cu = make_inputs(5, [3, 4], 3, 2, dtype=torch.float32)
    a[:3] = torch.inf
    found = gradient_sketch(a, b, p, q, cu, implementation="triton")
    assert not torch.isfinite(found[0]).any() and torch.isfinite(found[1]).all()


def test_no_tokens_and_no_documents(chosen):
    a, b, p, q, _ = make_inputs(6, [], 3, 2)
    assert gradient_sketch(a, b, p, q, torch.tensor([0]), **chosen).shape == (0, 5, 4)
    assert gradient_sketch(a, b, p, q, torch.tensor([0, 0]), **chosen).abs().sum() == 0


def test_projection_is_the_identity_on_average():
    """P P^T over many seeds: ones on the diagonal exactly, noise of 1/sqrt(64 * 200) beside it."""
    mean = torch.zeros(20, 20)
    for seed in range(200):
        projection = sketch_projection(20, seed=seed)
        assert projection.shape == (20, 64)
        assert (projection.abs() == 0.125).all()
        mean += projection @ projection.T
    mean /= 200
    assert torch.equal(mean.diagonal(), torch.ones(20))
    assert (mean - torch.eye(20)).abs().max() < 5 / (64 * 200) ** 0.5


def test_projection_follows_its_seed():
    one, other = sketch_projection(33, 16, seed=-5), sketch_projection(33, 16, seed=6)
    assert torch.equal(one, sketch_projection(33, 16, seed=-5))
    assert 0.3 < (one == other).float().mean() < 0.7
    assert torch.equal(one.bfloat16(), sketch_projection(33, 16, seed=-5, dtype=torch.bfloat16))
    # The signs are part of the format of stored sketches: this row may never change.
    first = (sketch_projection(1, 16, seed=0)[0] * 4).int().tolist()
    assert first == [1, 1, 1, 1, -1, -1, -1, 1, -1, -1, -1, 1, 1, 1, 1, 1]


def test_inner_products_of_sketches_are_unbiased():
    """Over 200 seeds the mean lies within four standard errors of <g_x, g_y>."""
    a, b, _, _, cu = make_inputs(7, [6, 9], 24, 20)
    gradients = outer_products(a, b, torch.eye(24).double(), torch.eye(20).double(), cu)
    exact = (gradients[0] * gradients[1]).sum()
    found = []
    for seed in range(200):
        p = sketch_projection(24, 16, seed=2 * seed, dtype=torch.float64)
        q = sketch_projection(20, 16, seed=2 * seed + 1, dtype=torch.float64)
        x, y = gradient_sketch(a, b, p, q, cu)
        found.append((x * y).sum())
    found = torch.stack(found)
    assert (found.mean() - exact).abs() < 4 * found.std() / 200**0.5


def test_inner_products_of_sketches_approximate_those_of_gradients(chosen):
    """At the default rank the errors are small beside the gradients' lengths, as they should be."""
    lengths = [20 + i for i in range(12)]
    a, b, _, _, cu = make_inputs(8, lengths, 48, 33)
    p = sketch_projection(48, seed=1, dtype=torch.float64)
    q = sketch_projection(33, seed=2, dtype=torch.float64)
    gradients = outer_products(a, b, torch.eye(48).double(), torch.eye(33).double(), cu).flatten(1)
    sketches = gradient_sketch(a, b, p, q, cu, **chosen).flatten(1)
    exact, found = gradients @ gradients.T, sketches @ sketches.T
    norms = exact.diagonal().sqrt()
    assert ((found - exact) / norms[:, None] / norms).abs().max() < 4 * (2 / 64) ** 0.5
    assert (found.diagonal() / exact.diagonal() - 1).abs().max() < 0.25


def test_op_is_registered(chosen):
    from moot.triton_kernels.gradient_sketch import _OP

    given = make_inputs(9, [3, 4], 3, 2)
    torch.library.opcheck(_OP, (*given, chosen["implementation"]))


def test_compiled_graph_holds_the_op_whole():
    given = make_inputs(10, [3, 4], 3, 2)
    compiled = torch.compile(gradient_sketch, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), gradient_sketch(*given))


GOOD = make_inputs(11, [3, 4], 3, 2)
REFUSALS = {
    "vector": ({0: torch.zeros(7)}, r"activations must have shape \[T, I\]"),
    "tokens": ({1: torch.zeros(6, 2)}, r"output_grads must have shape \[7, O\]"),
    "input projection": ({2: torch.zeros(2, 4)}, r"input_projection must have shape \[3, rank\]"),
    "output projection": ({3: torch.zeros(2, 0)}, r"output_projection must have shape \[2, rank\]"),
    "offsets": ({4: torch.zeros(0, dtype=torch.int64)}, r"cu_seqlens must have shape \[N \+ 1\]"),
    "int32 offsets": ({4: torch.zeros(2, dtype=torch.int32)}, "it must be int64"),
    "integers": ({0: torch.zeros(7, 3, dtype=torch.int64)}, "must be floating"),
    "descending": ({4: torch.tensor([0, 5, 4])}, "must not descend"),
    "past the end": ({4: torch.tensor([0, 5, 8])}, r"within \[0, 7\]"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_arguments_are_refused(name, chosen):
    changes, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        gradient_sketch(*(changes.get(i, tensor) for i, tensor in enumerate(GOOD)), **chosen)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="no native routine"):
        gradient_sketch(*GOOD, implementation="native")
    wide = make_inputs(12, [3], 3, 2, ranks=(65, 4))
    assert gradient_sketch(*wide).shape == (1, 4, 65)
    with pytest.raises(ValueError, match="the kernel serves 64"):
        gradient_sketch(*wide, implementation="triton")
    with pytest.raises(ValueError, match="at least 1"):
        sketch_projection(0, seed=0)
    with pytest.raises(ValueError, match="64-bit"):
        sketch_projection(3, seed=1 << 63)
