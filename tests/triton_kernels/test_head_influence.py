# SPDX-License-Identifier: Apache-2.0
"""head_influence against autograd's gradients of the head, and its promises bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels.ghost_influence import document_sums, ghost_influence
from moot.triton_kernels.head_influence import TOKEN_INFLUENCES, head_influence
from moot.triton_kernels.sequence_loss import sequence_loss
from torch.nn import functional

LENGTHS = [3, 0, 1, 9, 33]
TOKENS = sum(LENGTHS)
CU_SEQLENS = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
EXACT = {"rtol": 1e-12, "atol": 1e-12}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["reference", "triton"])
def chosen(request):
    return {"implementation": request.param}


def make_inputs(tokens=TOKENS, vocabulary=97, width=24, dtype=torch.float64):
    """Hidden states, head, direction, and targets: some predict nothing, some come last."""
    sizes = ((tokens, width), (vocabulary, width), (vocabulary, width))
    tensors = [torch.randn(size, dtype=torch.float64).to(dtype) for size in sizes]
    targets = torch.randint(vocabulary, (tokens,))
    targets[::5] = vocabulary - 1
    targets[3::7] = -100
    return *tensors, targets


def capped_logits(hidden, weight, softcap):
    logits = hidden @ weight.T
    return softcap * (logits / softcap).tanh() if softcap else logits


def cut(*columns, cu_seqlens=CU_SEQLENS):
    """The documents, each with its part of every column."""
    pairs = zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)
    return [tuple(column[i:j] for column in columns) for i, j in pairs]


@pytest.mark.parametrize("softcap", [None, 5.0, 0.7], ids=["plain", "cap", "tight_cap"])
def test_influence_equals_autograd_gradients_of_the_head(softcap, chosen):
    hidden, weight, direction, targets = make_inputs()
    weight.requires_grad_()
    expected, losses = [], []
    for h, y in cut(hidden, targets):
        logits = capped_logits(h, weight, softcap)
        losses.append(functional.cross_entropy(logits, y, reduction="sum"))
        (gradient,) = torch.autograd.grad(losses[-1], weight)
        expected.append((gradient * direction).sum())
    found = head_influence(
        hidden, weight.detach(), direction, targets, CU_SEQLENS, softcap=softcap, **chosen
    )
    torch.testing.assert_close(found.influence, torch.stack(expected), **EXACT)
    torch.testing.assert_close(found.loss, torch.stack(losses).detach(), **EXACT)
    assert found.influence[1] == 0.0


@pytest.mark.parametrize("softcap", [None, 5.0], ids=["plain", "cap"])
def test_influence_equals_the_derivative_along_the_direction(softcap, chosen):
    hidden, weight, direction, targets = make_inputs()

    def losses(weight):
        logits = capped_logits(hidden, weight, softcap)
        return functional.cross_entropy(logits, targets, reduction="none")

    _, along = torch.func.jvp(losses, (weight,), (direction,))
    found = head_influence(
        hidden, weight, direction, targets, CU_SEQLENS, softcap=softcap, **chosen
    )
    expected = torch.stack([each.sum() for (each,) in cut(along)])
    torch.testing.assert_close(found.influence, expected, **EXACT)


def test_influence_equals_ghost_influence_of_the_logits_gradient(chosen):
    hidden, weight, direction, targets = make_inputs()
    logits = (hidden @ weight.T).requires_grad_()
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    (grads,) = torch.autograd.grad(loss, logits)
    partials = ghost_influence(hidden, grads, direction, **chosen)
    found = head_influence(hidden, weight, direction, targets, CU_SEQLENS, **chosen)
    expected = document_sums(partials, CU_SEQLENS, **chosen)
    torch.testing.assert_close(found.influence, expected, **EXACT)


def test_a_direction_along_which_all_logits_shift_has_no_influence(chosen):
    """Softmax does not see a shift: E[u] - u_y = 0 for equal rows of G, padded columns aside."""
    hidden, weight, direction, targets = make_inputs(33, 97, 16, torch.float32)
    direction[:] = direction[0]
    found = head_influence(hidden, weight, direction, targets, torch.tensor([0, 33]), **chosen)
    assert found.influence.abs().max() <= 33 * 16 * torch.finfo(torch.float32).eps


def plain(hidden, weight, direction, targets, softcap):
    """Influence of each token in the dtype given, logits and slopes written out."""
    logits, slopes = capped_logits(hidden, weight, softcap), hidden @ direction.T
    if softcap:
        slopes = slopes * (1 - (logits / softcap).square())
    at_target = slopes.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return ((logits.softmax(-1) * slopes).sum(-1) - at_target).masked_fill(targets < 0, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.sampled_from([0, 1, 2, 31, 32, 33, 70]),
    vocabulary=st.sampled_from([1, 2, 31, 32, 33, 65, 129]),
    width=st.sampled_from([1, 3, 8, 16, 17, 40]),
    dtype=st.sampled_from(DTYPES),
    softcap=st.sampled_from([None, None, 4.0]),
    implementation=st.sampled_from(["reference", "triton", "triton"]),
)
def test_influences_are_as_close_to_fp64_as_the_plain_expression(
    seed, tokens, vocabulary, width, dtype, softcap, implementation
):
    """33, 65 and 129 are 1 modulo a tile; widths of 8 and 16 are read through descriptors."""
    torch.manual_seed(seed)
    inputs = make_inputs(tokens, vocabulary, width, dtype)
    hidden, weight, direction, targets = inputs
    cu_seqlens = torch.tensor([0, tokens // 3, tokens])
    got, _ = TOKEN_INFLUENCES(*inputs, cu_seqlens, softcap or 0.0, implementation)
    assert got.dtype == torch.float32 and got.shape == (tokens,)
    if tokens:
        double = [x.double() for x in inputs[:3]]
        exact = plain(*double, targets, softcap)
        naive = plain(*inputs, softcap).double()
        # A slope is a sum of products; how far its weight is off grows with the logit's size.
        size = [(double[0].square() @ x.square().T).sqrt().max() for x in double[1:]]
        limit = 4 * size[1] * max(1.0, float(size[0])) * torch.finfo(got.dtype).eps
        error = (got.double() - exact).abs().max()
        assert error <= 2 * (naive - exact).abs().max() + limit


def test_every_output_is_written(poisoned_empty, chosen):
    for dtype in (torch.float32, torch.float16):
        inputs = make_inputs(TOKENS, 193, 24, dtype)
        for softcap in (None, 3.0):
            found = head_influence(*inputs, CU_SEQLENS, softcap=softcap, **chosen)
            assert torch.isfinite(found.influence).all() and torch.isfinite(found.loss).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_documents_do_not_depend_on_their_neighbours(dtype, chosen):
    """Alone, in reverse order, or again: the same bits."""
    hidden, weight, direction, targets = make_inputs(TOKENS, 161, 24, dtype)

    def run(h, y, cu_seqlens):
        return torch.stack(head_influence(h, weight, direction, y, cu_seqlens, **chosen))

    together = run(hidden, targets, CU_SEQLENS)
    assert torch.equal(run(hidden, targets, CU_SEQLENS), together)
    documents = cut(hidden, targets)
    for place, (h, y) in enumerate(documents):
        assert torch.equal(run(h, y, torch.tensor([0, len(y)]))[:, 0], together[:, place])
    h, y = (torch.cat(column) for column in zip(*documents[::-1], strict=True))
    turned = run(h, y, torch.tensor([0, *LENGTHS[::-1]]).cumsum(0))
    assert torch.equal(turned.flip(1), together)


def test_the_loss_is_that_of_sequence_loss(chosen):
    hidden, weight, direction, targets = make_inputs(dtype=torch.float32)
    found = head_influence(hidden, weight, direction, targets, CU_SEQLENS, **chosen)
    expected = sequence_loss(hidden, weight, targets, CU_SEQLENS, **chosen)
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=1e-6)


def test_a_token_that_predicts_nothing_adds_nothing_whatever_it_holds(chosen):
    hidden, weight, direction, targets = make_inputs(9, 33, 8)
    targets[4] = -1
    hidden[4] = torch.nan
    found = head_influence(hidden, weight, direction, targets, torch.tensor([0, 4, 5, 9]), **chosen)
    assert found.influence[1] == 0.0 and found.loss[1] == 0.0
    assert torch.isfinite(torch.stack(found)).all()


def test_no_tokens_and_no_documents(chosen):
    inputs = make_inputs(0)
    assert head_influence(*inputs, torch.tensor([0]), **chosen).influence.shape == (0,)
    found = head_influence(*inputs, torch.tensor([0, 0]), **chosen)
    assert found.influence.tolist() == found.loss.tolist() == [0.0]


def test_an_unknown_target_is_no_score():
    hidden, weight, direction, targets = make_inputs(3, 33)
    targets[1] = 33
    with pytest.raises(ValueError, match=r"targets\[1\] is 33, the head has 33 rows"):
        head_influence(hidden, weight, direction, targets, torch.tensor([0, 3]))
    from moot.triton_kernels.head_influence.kernel import token_influences_fwd

    for found in token_influences_fwd(hidden, weight, direction, targets, 0.0):
        assert found.isnan().tolist() == [False, True, False]


def test_op_is_registered(chosen):
    inputs = make_inputs(dtype=torch.float32)
    for softcap in (0.0, 5.0):
        arguments = (*inputs, CU_SEQLENS, softcap, chosen["implementation"])
        torch.library.opcheck(TOKEN_INFLUENCES, arguments)


def test_compiled_graph_holds_the_op_whole():
    inputs = (*make_inputs(), CU_SEQLENS)
    compiled = torch.compile(head_influence, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.stack(compiled(*inputs)), torch.stack(head_influence(*inputs)))


def test_bad_arguments_are_named():
    hidden, weight, direction, targets = make_inputs()
    with pytest.raises(ValueError, match=r"direction must have shape \[97, 24\], the head's"):
        head_influence(hidden, weight, direction[:-1], targets, CU_SEQLENS)
    with pytest.raises(ValueError, match="direction is torch.int64"):
        head_influence(hidden, weight, direction.long(), targets, CU_SEQLENS)
    with pytest.raises(ValueError, match="cu_seqlens must rise"):
        head_influence(hidden, weight, direction, targets, CU_SEQLENS[:-1])
    with pytest.raises(ValueError, match="softcap is -1"):
        head_influence(hidden, weight, direction, targets, CU_SEQLENS, softcap=-1.0)
