# SPDX-License-Identifier: Apache-2.0
"""sequence_loss against torch's cross-entropy, and what its kernels promise bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.triton_kernels.sequence_loss import TOKEN_LOSSES, sequence_loss, token_losses
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
    """Hidden states, a head, and targets of which some predict nothing and some come last."""
    hidden = torch.randn(tokens, width, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocabulary, (tokens,))
    targets[::5] = vocabulary - 1
    targets[3::7] = -100
    return hidden, weight, targets


def plain(hidden, weight, targets, softcap=None):
    """The losses as torch writes them."""
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    return functional.cross_entropy(logits, targets, ignore_index=-100, reduction="none")


def cut(values, cu_seqlens=CU_SEQLENS):
    return [values[i:j] for i, j in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)]


@pytest.mark.parametrize("softcap", [None, 5.0, 0.3], ids=["plain", "cap", "tight_cap"])
def test_sums_equal_torch_cross_entropy(softcap, chosen):
    inputs = make_inputs()
    expected = torch.stack([each.sum() for each in cut(plain(*inputs, softcap))])
    found = sequence_loss(*inputs, CU_SEQLENS, softcap=softcap, **chosen)
    torch.testing.assert_close(found, expected, **EXACT)
    assert found[1] == 0.0


def test_reference_loss_is_subtracted_by_token_or_by_document(chosen):
    inputs = make_inputs()
    by_token, by_document = torch.rand(TOKENS).double(), torch.rand(len(LENGTHS)).double()
    sums = sequence_loss(*inputs, CU_SEQLENS, **chosen)
    counted = by_token.masked_fill(inputs[2] < 0, 0.0)
    expected = sums - torch.stack([each.sum() for each in cut(counted)])
    found = sequence_loss(*inputs, CU_SEQLENS, by_token, **chosen)
    torch.testing.assert_close(found, expected, **EXACT)
    found = sequence_loss(*inputs, CU_SEQLENS, by_document, **chosen)
    torch.testing.assert_close(found, sums - by_document, **EXACT)


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
def test_losses_are_as_close_to_fp64_as_the_plain_expression(
    seed, tokens, vocabulary, width, dtype, softcap, implementation
):
    """33, 65 and 129 are 1 modulo a tile; widths of 8 and 16 are read through descriptors."""
    torch.manual_seed(seed)
    hidden, weight, targets = make_inputs(tokens, vocabulary, width, dtype)
    cu_seqlens = torch.tensor([0, tokens // 3, tokens])
    got = token_losses(
        hidden, weight, targets, cu_seqlens, softcap=softcap, implementation=implementation
    )
    assert got.dtype == torch.float32 and got.shape == (tokens,)
    if tokens:
        exact = plain(hidden.double(), weight.double(), targets, softcap)
        naive = plain(hidden, weight, targets, softcap).double()
        # A logit is a sum of products; a loss is a difference of such sums.
        scale = (hidden.double().square() @ weight.double().square().T).sqrt().max()
        limit = 4 * max(float(scale), float(exact.max())) * torch.finfo(got.dtype).eps
        error = (got.double() - exact).abs().max()
        assert error <= 2 * (naive - exact).abs().max() + limit


@pytest.mark.parametrize("vocabulary", [1, 33, 64, 97])
def test_equal_logits_cost_the_logarithm_of_the_vocabulary(vocabulary, chosen):
    """A padded column that leaked into the sum would show here, and no logit hides it."""
    hidden, weight, targets = make_inputs(5, vocabulary, 8, torch.float32)
    for factor in (0.0, -1.0):  # all logits 0, all logits far below 0
        same = torch.full_like(weight, 40.0 * factor)
        got = token_losses(
            hidden.abs(), same, targets.abs() % vocabulary, torch.tensor([0, 5]), **chosen
        )
        expected = torch.full((5,), float(vocabulary)).log()
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-4 if factor else 1e-6)


def test_large_logits_neither_overflow_nor_vanish(chosen):
    hidden, weight, targets = make_inputs(33, 97, 16, torch.float32)
    expected = plain(hidden.double() * 400, weight.double(), targets)
    found = token_losses(hidden * 400, weight, targets, torch.tensor([0, 33]), **chosen)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=4e3 * 2.0**-21)
    capped = token_losses(
        hidden * 1e30, weight, targets, torch.tensor([0, 33]), softcap=30.0, **chosen
    )
    assert torch.isfinite(capped).all()


def test_every_output_is_written(poisoned_empty, chosen):
    for dtype in (torch.float32, torch.float16):
        inputs = make_inputs(TOKENS, 193, 24, dtype)
        assert torch.isfinite(token_losses(*inputs, CU_SEQLENS, **chosen)).all()
        assert torch.isfinite(sequence_loss(*inputs, CU_SEQLENS, softcap=3.0, **chosen)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_documents_do_not_depend_on_their_neighbours(dtype, chosen):
    """Alone, in reverse order, or again: the same bits."""
    hidden, weight, targets = make_inputs(TOKENS, 161, 24, dtype)
    reference = torch.rand(TOKENS)
    together = sequence_loss(hidden, weight, targets, CU_SEQLENS, reference, **chosen)
    again = sequence_loss(hidden, weight, targets, CU_SEQLENS, reference, **chosen)
    assert torch.equal(together, again)
    pieces = list(zip(*(cut(x) for x in (hidden, targets, reference)), strict=True))
    for place, (h, y, r) in enumerate(pieces):
        alone = sequence_loss(h, weight, y, torch.tensor([0, len(y)]), r, **chosen)
        assert torch.equal(alone[0], together[place])
    h, y, r = (torch.cat(column) for column in zip(*pieces[::-1], strict=True))
    lengths = torch.tensor([0, *LENGTHS[::-1]])
    turned = sequence_loss(h, weight, y, lengths.cumsum(0), r, **chosen)
    assert torch.equal(turned.flip(0), together)


def test_descriptors_and_pointers_give_the_same_bits():
    """A matrix that starts two bytes off is read through pointers."""
    hidden, weight, targets = make_inputs(33, 97, 16, torch.float16)
    shifted = torch.empty(weight.numel() + 1, dtype=weight.dtype)[1:].view_as(weight)
    shifted.copy_(weight)
    from moot.triton_kernels.vocabulary_kernel import is_tiled

    assert is_tiled(0, hidden, weight) and not is_tiled(0, hidden, shifted)
    ends, kernel = torch.tensor([0, 33]), {"implementation": "triton"}
    assert torch.equal(
        token_losses(hidden, shifted, targets, ends, **kernel),
        token_losses(hidden, weight, targets, ends, **kernel),
    )


def test_a_token_that_predicts_nothing_costs_nothing_whatever_it_holds(chosen):
    hidden, weight, targets = make_inputs(9, 33, 8)
    targets[4] = -1
    hidden[4] = torch.nan
    found = token_losses(hidden, weight, targets, torch.tensor([0, 9]), **chosen)
    assert found[4] == 0.0 and torch.isfinite(found).all()


def test_no_tokens_and_no_documents(chosen):
    inputs = make_inputs(0)
    assert sequence_loss(*inputs, torch.tensor([0]), **chosen).shape == (0,)
    assert sequence_loss(*inputs, torch.tensor([0, 0]), **chosen).tolist() == [0.0]


def test_int32_targets_and_strided_inputs(chosen):
    hidden, weight, targets = make_inputs()
    expected = sequence_loss(hidden, weight, targets, CU_SEQLENS, **chosen)
    found = sequence_loss(hidden.T.contiguous().T, weight, targets.int(), CU_SEQLENS, **chosen)
    torch.testing.assert_close(found, expected, **EXACT)


def test_an_unknown_target_is_no_loss():
    hidden, weight, targets = make_inputs(3, 33)
    targets[1] = 33
    with pytest.raises(ValueError, match=r"targets\[1\] is 33, the head has 33 rows"):
        sequence_loss(hidden, weight, targets, torch.tensor([0, 3]))
    from moot.triton_kernels.sequence_loss.kernel import token_losses_fwd

    found = token_losses_fwd(hidden, weight, targets, None, 0.0)
    assert found.isnan().tolist() == [False, True, False]


def test_op_is_registered(chosen):
    hidden, weight, targets = make_inputs(dtype=torch.float32)
    for reference, softcap in ((None, 0.0), (torch.rand(TOKENS), 5.0)):
        arguments = (hidden, weight, targets, CU_SEQLENS, reference, softcap)
        torch.library.opcheck(TOKEN_LOSSES, (*arguments, chosen["implementation"]))


def test_compiled_graph_holds_the_op_whole():
    inputs = (*make_inputs(), CU_SEQLENS)
    compiled = torch.compile(sequence_loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), sequence_loss(*inputs))


def test_bad_arguments_are_named():
    hidden, weight, targets = make_inputs()
    good = {"hidden": hidden, "head_weight": weight, "targets": targets, "cu_seqlens": CU_SEQLENS}
    cases = [
        ({"hidden": hidden[0]}, r"hidden must have shape \[T, H\]"),
        ({"head_weight": weight[:, :5]}, r"head_weight must have shape \[V, 24\]"),
        ({"head_weight": weight[:0]}, "V > 0"),
        ({"head_weight": weight.long()}, "head_weight is torch.int64"),
        ({"targets": targets[:5]}, r"targets must have shape \[46\]"),
        ({"targets": targets.double()}, "int32 or int64"),
        ({"cu_seqlens": CU_SEQLENS.int()}, "be int64"),
        ({"cu_seqlens": CU_SEQLENS[:-1]}, "cu_seqlens must rise from 0 to the 46 tokens"),
        ({"cu_seqlens": torch.tensor([0, 9, 3, 46])}, "cu_seqlens must rise"),
        ({"reference_losses": torch.rand(7)}, r"reference_losses must have shape \[46\] or \[5\]"),
        ({"reference_losses": targets}, "reference_losses is torch.int64"),
        ({"softcap": 0.0}, "softcap is 0.0"),
        ({"softcap": float("nan")}, "softcap is nan"),
        ({"implementation": "native"}, "no native routine"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            sequence_loss(**(good | wrong))
    with pytest.raises(ValueError, match=r"reference_losses must have shape \[46\]"):
        token_losses(*good.values(), torch.rand(5))
