# SPDX-License-Identifier: Apache-2.0
"""The GPT sees its own document only, and its loss counts and differentiates exactly."""

import pytest
import torch
import torch.nn.functional as F
from moot.trainer.cross_entropy import loss_and_gradient
from moot.trainer.model import GPT, GPTConfig, document_mask, loss, token_losses


def make_model(dtype=torch.float64, **settings):
    torch.manual_seed(0)
    settings = {"vocab_size": 31, "dim": 16, "num_layers": 2, "num_heads": 2} | settings
    model = GPT(GPTConfig(max_seq_len=24, **settings)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_row(lengths, seed=0):
    """One row of segments: tokens, unshifted labels, positions."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(31, (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return tokens, tokens.masked_fill(positions == 0, -100), positions


def test_documents_of_a_row_do_not_see_each_other():
    model = make_model()
    tokens, _, positions = make_row([5, 1, 9])
    together = model(tokens, positions)
    for start, stop in ((0, 5), (5, 6), (6, 15)):
        alone = model(tokens[:, start:stop], positions[:, start:stop])
        torch.testing.assert_close(together[:, start:stop], alone, rtol=1e-12, atol=1e-12)


def test_a_token_does_not_see_later_ones():
    model = make_model()
    tokens, _, positions = make_row([12])
    changed = tokens.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 31
    before, after = model(tokens, positions), model(changed, positions)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_distance_to_earlier_tokens_matters():
    model = make_model(num_layers=1)  # deeper ones tell the order by the mask alone
    tokens, _, positions = make_row([6])
    swapped = tokens[:, [1, 0, 2, 3, 4, 5]]
    assert tokens[0, 0] != tokens[0, 1]
    assert not torch.allclose(model(tokens, positions)[:, -1], model(swapped, positions)[:, -1])


def test_rotary_positions_are_relative():
    model = make_model()
    tokens, _, positions = make_row([6])
    torch.testing.assert_close(
        model(tokens, positions)[:, 1:], model(tokens, positions + 5)[:, 1:], rtol=1e-5, atol=1e-5
    )


def test_mask_is_causal_inside_a_segment():
    mask = document_mask(torch.tensor([[0, 1, 0, 0, 1]]), torch.float32)
    visible = torch.tensor([
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ])
    assert mask.shape == (1, 1, 5, 5)
    assert torch.equal(mask[0, 0] == 0, visible.bool())
    assert torch.equal(mask[0, 0] == -torch.inf, ~visible.bool())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_follow_the_config(tied, bias):
    model = GPT(
        GPTConfig(vocab_size=31, dim=16, num_layers=2, num_heads=2, tie_embeddings=tied, bias=bias)
    )
    assert (model.head.weight is model.embedding.weight) == tied
    assert any("bias" in name for name, _ in model.named_parameters()) == bias
    hidden = model.config.feed_forward_dim
    block = 16 * 48 + 16 * 16 + 2 * 16 * hidden + hidden * 16 + 2 * 16
    biases = 2 * (48 + 16 + 2 * hidden + 16) + 31
    expected = 2 * block + 16 + 31 * 16 * (1 if tied else 2) + (biases if bias else 0)
    assert model.num_parameters() == expected


def test_every_parameter_gets_a_gradient():
    model = make_model(bias=True, tie_embeddings=False)
    tokens, labels, positions = make_row([7, 5])
    loss(model(tokens, positions), labels)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_is_the_sum_over_predicted_tokens():
    model = make_model()
    tokens, labels, positions = make_row([7, 1, 5])
    logits = model(tokens, positions)
    expected = [
        -F.log_softmax(logits[0, t], -1)[tokens[0, t + 1]]
        for t in range(12)
        if labels[0, t + 1] != -100
    ]
    each = token_losses(logits, labels)
    assert each.shape == labels.shape
    assert int((each != 0).sum()) == len(expected) == 10
    total, count = loss(logits, labels)
    assert int(count) == 10
    torch.testing.assert_close(total, torch.stack(expected).sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(each.sum(), total, rtol=1e-12, atol=0)


@pytest.mark.parametrize("piece", [7, 31 * 4, 1 << 20])
def test_loss_gradients_equal_autograd_in_pieces_of_any_size(monkeypatch, piece):
    monkeypatch.setattr("moot.trainer.cross_entropy.PIECE_ELEMENTS", {"cpu": piece})
    _, labels, _ = make_row([7, 1, 5])
    logits = torch.randn(1, 13, 31, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(0.3 * token_losses(logits, labels).sum(), logits)
    (got,) = torch.autograd.grad(0.3 * loss(logits.clone(), labels)[0], logits)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)
    out = torch.full_like(logits, torch.nan, requires_grad=False)
    kept = logits.detach().clone()
    each = loss_and_gradient(logits, labels, out)
    torch.testing.assert_close(0.3 * out, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(each, token_losses(logits, labels).detach(), rtol=1e-12, atol=1e-15)
    assert torch.equal(logits.detach(), kept)


def test_padding_and_first_tokens_carry_no_gradient():
    logits = torch.randn(1, 6, 31, requires_grad=True)
    labels = torch.tensor([[-100, 3, 4, -100, -100, -100]])
    (gradient,) = torch.autograd.grad(loss(logits.clone(), labels)[0], logits)
    assert torch.equal(gradient[0].abs().sum(-1) > 0, torch.tensor([1, 1, 0, 0, 0, 0]).bool())


def test_second_backward_through_the_consumed_logits_raises():
    model = make_model()
    tokens, labels, positions = make_row([7])
    total, _ = loss(model(tokens, positions), labels)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        total.backward()


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    model = make_model()
    tokens, labels, positions = (
        torch.cat(parts) for parts in zip(make_row([7, 5], 1), make_row([12], 2), strict=True)
    )
    total, count = loss(model(tokens, positions), labels)
    whole = torch.autograd.grad(total / count, list(model.parameters()))
    summed = [torch.zeros_like(p) for p in model.parameters()]
    for row in range(2):
        part, _ = loss(model(tokens[[row]], positions[[row]]), labels[[row]])
        for s, g in zip(summed, torch.autograd.grad(part, list(model.parameters())), strict=True):
            s += g
    for s, g in zip(summed, whole, strict=True):
        torch.testing.assert_close(s / count, g, rtol=1e-10, atol=1e-12)


def test_no_predicted_token_gives_zero_loss():
    logits = torch.randn(2, 1, 31, requires_grad=True)
    total, count = loss(logits.clone(), torch.full((2, 1), -100))
    assert float(total.detach()) == 0.0
    assert int(count) == 0


def test_learns_a_repeating_text():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=16, dim=32, num_layers=1, num_heads=2, max_seq_len=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6] * 2])
    positions = torch.arange(16)[None]
    labels = tokens.masked_fill(positions == 0, -100)
    losses = []
    for _ in range(60):
        total, count = loss(model(tokens, positions), labels)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach() / count))
    assert losses[0] > 2.5
    assert losses[-1] < 0.2


def test_same_seed_gives_the_same_model():
    first, second = make_model(torch.float32), make_model(torch.float32)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    saved = first.state_dict()
    assert not any("rotary" in name for name in saved)


def test_bad_shapes_say_what_to_do():
    with pytest.raises(ValueError, match=r"multiple of 2 \* num_heads"):
        GPTConfig(vocab_size=8, dim=18, num_heads=4)
    with pytest.raises(ValueError, match="vocab_size is 0"):
        GPTConfig(vocab_size=0)
    with pytest.raises(ValueError, match="max_seq_len = 24"):
        make_model()(torch.zeros(1, 25, dtype=torch.int64), torch.arange(25)[None])
