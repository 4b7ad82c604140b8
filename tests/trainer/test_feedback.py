# SPDX-License-Identifier: Apache-2.0
"""Rewards against per-sample gradients from autograd, and the promise to leave no trace."""

import copy
import random

import numpy as np
import pytest
import torch
from moot.loader.errors import ConfigError
from moot.trainer.cross_entropy import token_losses
from moot.trainer.feedback import Feedback, FeedbackConfig
from moot.trainer.model import GPT, GPTConfig
from torch import nn
from torch.utils.checkpoint import checkpoint

VOCAB, SEQ_LEN = 40, 16


def make_model(*, tied=True, bias=True, steps=3, dtype=torch.float64):
    """A tiny GPT away from its initial point, and an AdamW that has taken some steps."""
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, max_seq_len=SEQ_LEN,
        tie_embeddings=tied, bias=bias,
    )  # fmt: skip
    model = GPT(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        tokens = torch.arange(3 * VOCAB).view(-1, 12) % VOCAB
        mean_loss(model, list(tokens.numpy())).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def pieces_of(document):
    return [document[i : i + SEQ_LEN] for i in range(0, len(document), SEQ_LEN)]


def summed_loss(model, document):
    """The loss of one document, each piece alone in its row: the plain definition."""
    total = 0.0
    for piece in pieces_of(torch.as_tensor(document)):
        labels = piece.clone()
        labels[0] = -100
        positions = torch.arange(len(piece))
        total = total + token_losses(model(piece[None], positions[None]), labels[None]).sum()
    return total


def num_predicted(document):
    return sum(len(piece) - 1 for piece in pieces_of(document))


def mean_loss(model, documents):
    return sum(summed_loss(model, d) for d in documents) / sum(num_predicted(d) for d in documents)


def second_moment_scale(optimizer, parameter):
    state = optimizer.state.get(parameter)
    if not state:
        return torch.ones_like(parameter)
    v_hat = state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))
    return 1 / (v_hat.sqrt() + 1e-8)


def autograd_rewards(model, optimizer, reference, probes):
    """<P g_ref, g_x> per predicted token, every gradient from autograd."""
    parameters = list(model.parameters())
    g_ref = torch.autograd.grad(mean_loss(model, reference), parameters)
    direction = [
        second_moment_scale(optimizer, p) * g for p, g in zip(parameters, g_ref, strict=True)
    ]
    rewards = []
    for probe in probes:
        if num_predicted(probe) < 1:
            rewards.append(0.0)
            continue
        g_x = torch.autograd.grad(summed_loss(model, probe), parameters)
        total = sum(float((a * b).sum()) for a, b in zip(direction, g_x, strict=True))
        rewards.append(total / num_predicted(probe))
    return np.array(rewards)


def make_documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length) for length in lengths]


def packed(documents):
    lengths = [len(d) for d in documents]
    return np.concatenate(documents), np.concatenate([[0], np.cumsum(lengths)])


def feedback_for(model, optimizer, reference, **settings):
    settings = {"seq_len": SEQ_LEN, "rows_per_pass": 2, "max_probe_tokens": None} | settings
    feedback = Feedback(model, optimizer, FeedbackConfig(**settings))
    feedback.set_reference(reference)
    return feedback


PROBES = make_documents([5, 16, 7, 2, 1, 0, 40, 17, 9, 33, 3], seed=1)
REFERENCE = make_documents([20, 9, 4], seed=2)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("steps", [0, 3], ids=["identity", "adam"])
def test_inner_rewards_equal_autograd_per_sample_gradients(tied, bias, steps):
    model, optimizer = make_model(tied=tied, bias=bias, steps=steps)
    feedback = feedback_for(model, optimizer, REFERENCE)
    expected = autograd_rewards(model, optimizer, REFERENCE, PROBES)
    got = feedback.rewards(1, *packed(PROBES))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert feedback.last["unstepped_parameters"] == (0 if steps else len([*model.parameters()]))


def test_rewards_do_not_depend_on_packing():
    model, optimizer = make_model()
    many = feedback_for(model, optimizer, REFERENCE, rows_per_pass=8).rewards(1, *packed(PROBES))
    alone = feedback_for(model, optimizer, REFERENCE, rows_per_pass=1)
    each = [float(alone.rewards(1, *packed([p]))[0]) for p in PROBES]
    np.testing.assert_allclose(many, each, rtol=1e-9)


def test_rewards_do_not_depend_on_the_order_of_probes():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, REFERENCE)
    order = np.random.default_rng(0).permutation(len(PROBES))
    straight = feedback.rewards(1, *packed(PROBES))
    shuffled = feedback.rewards(1, *packed([PROBES[i] for i in order]))
    np.testing.assert_allclose(shuffled, straight[order], rtol=1e-9)


def test_same_refresh_gives_the_same_bits():
    model, optimizer = make_model(dtype=torch.float32)
    feedback = feedback_for(model, optimizer, REFERENCE)
    first = feedback.rewards(1, *packed(PROBES))
    assert np.array_equal(first, feedback.rewards(1, *packed(PROBES)))
    assert np.array_equal(
        first, feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES))
    )


def test_long_probes_are_cut_to_max_probe_tokens():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, REFERENCE, max_probe_tokens=6)
    expected = autograd_rewards(model, optimizer, REFERENCE, [p[:6] for p in PROBES])
    np.testing.assert_allclose(feedback.rewards(1, *packed(PROBES)), expected, rtol=1e-9)


@pytest.mark.parametrize("reward", ["inner", "cosine"])
def test_only_reference_document_scores_positive(reward):
    model, optimizer = make_model()
    document = make_documents([SEQ_LEN], seed=5)
    feedback = feedback_for(model, optimizer, document, reward=reward)
    (score,) = feedback.rewards(1, *packed(document))
    assert score > 0
    if reward == "cosine":
        assert score == pytest.approx(1.0, abs=1e-12)


def test_mean_reward_of_the_reference_set_is_its_preconditioned_norm():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, REFERENCE)
    rewards = feedback.rewards(1, *packed(REFERENCE))
    weights = np.array([num_predicted(d) for d in REFERENCE])
    parameters = list(model.parameters())
    g_ref = torch.autograd.grad(mean_loss(model, REFERENCE), parameters)
    norm = sum(
        float((second_moment_scale(optimizer, p) * g * g).sum())
        for p, g in zip(parameters, g_ref, strict=True)
    )
    assert norm > 0
    assert np.average(rewards, weights=weights) == pytest.approx(norm, rel=1e-9)
    assert feedback.last["influence"] == pytest.approx(norm, rel=1e-9)
    assert feedback.last["reference_loss"] == pytest.approx(
        float(mean_loss(model, REFERENCE).detach()), rel=1e-12
    )


def test_a_preconditioned_step_on_a_probe_lowers_the_reference_loss_by_its_reward():
    model, optimizer = make_model()
    probes = make_documents([12, 9, 16], seed=7)
    rewards = feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(probes))
    parameters = list(model.parameters())
    lr = 1e-9

    def loss_after(signed_lr, gradients):
        stepped = copy.deepcopy(model)
        with torch.no_grad():
            for q, p, g in zip(stepped.parameters(), parameters, gradients, strict=True):
                q.sub_(signed_lr * second_moment_scale(optimizer, p) * g)
            return float(mean_loss(stepped, REFERENCE))

    for probe, reward in zip(probes, rewards, strict=True):
        g_x = torch.autograd.grad(summed_loss(model, probe) / num_predicted(probe), parameters)
        # A central difference: the second order cancels.
        lowered = (loss_after(-lr, g_x) - loss_after(lr, g_x)) / (2 * lr)
        assert lowered == pytest.approx(reward, rel=1e-3)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_cosine_rewards_equal_autograd(tied):
    model, optimizer = make_model(tied=tied)
    parameters = list(model.parameters())
    g_ref = flat(torch.autograd.grad(mean_loss(model, REFERENCE), parameters))
    expected = []
    for probe in PROBES:
        if num_predicted(probe) < 1:
            expected.append(0.0)
            continue
        g_x = flat(torch.autograd.grad(summed_loss(model, probe), parameters))
        expected.append(float(g_ref @ g_x / (g_ref.norm() * g_x.norm())))
    feedback = feedback_for(model, None, REFERENCE, reward="cosine")
    np.testing.assert_allclose(feedback.rewards(1, *packed(PROBES)), expected, rtol=1e-9)


def test_frozen_parameters_take_no_part():
    model, optimizer = make_model(tied=False)
    frozen = [model.embedding.weight, *model.blocks[0].parameters(), model.norm.weight]
    frozen += [model.blocks[1].attention.qkv.weight, model.blocks[1].feed_forward.down.bias]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    g_ref = torch.autograd.grad(mean_loss(model, REFERENCE), trained)
    g_x = torch.autograd.grad(summed_loss(model, PROBES[0]), trained)
    expected = sum(
        float((second_moment_scale(optimizer, p) * a * b).sum())
        for p, a, b in zip(trained, g_ref, g_x, strict=True)
    )
    (got,) = feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES[:1]))
    assert got == pytest.approx(expected / num_predicted(PROBES[0]), rel=1e-9)
    assert all(not p.requires_grad for p in frozen)


class Noisy(nn.Module):
    """A model with dropout, a buffer it writes to, and LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 8)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, VOCAB)
        self.register_buffer("calls", torch.zeros(()))
        self.fails_after = None

    def forward(self, input_ids, position_ids):
        self.calls += 1
        torch.rand(3)
        if self.fails_after is not None and self.calls > self.fails_after:
            raise ArithmeticError("on purpose")
        return self.head(self.dropout(self.norm(self.embedding(input_ids))))


def bits(tensor):
    return None if tensor is None else (tensor.dtype, tensor.detach().numpy().tobytes())


def snapshot(model, optimizer):
    """Everything that a measurement must not change, as comparable values."""
    state = {
        (i, key): bits(value) if torch.is_tensor(value) else value
        for i, p in enumerate(model.parameters())
        for key, value in optimizer.state.get(p, {}).items()
    }
    return {
        "parameters": [bits(p) for p in model.parameters()],
        "identities": [id(p) for p in model.parameters()],
        "gradients": [(id(p.grad), bits(p.grad)) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "buffers": [(id(b), bits(b)) for b in model.buffers()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "optimizer": state,
        "states": len(optimizer.state),
        "groups": repr(optimizer.state_dict()["param_groups"]),
        "torch": bits(torch.get_rng_state()),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def trained_noisy():
    torch.manual_seed(1)
    model = Noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        tokens = torch.arange(30).view(2, 15)
        token_losses(model(tokens, tokens), tokens).sum().backward()
        optimizer.step()
    model.norm.eval()  # flags need not be alike
    model.head.bias.grad = None
    return model, optimizer


@pytest.mark.parametrize("reward", ["inner", "cosine"])
@pytest.mark.parametrize("make", [trained_noisy, make_model], ids=["noisy", "gpt"])
def test_rewards_leave_no_trace(make, reward):
    model, optimizer = make()
    feedback = feedback_for(model, optimizer, REFERENCE, reward=reward)
    before = snapshot(model, optimizer)
    with torch.no_grad():
        first = feedback.rewards(3, *packed(PROBES))
    assert snapshot(model, optimizer) == before
    assert np.array_equal(first, feedback.rewards(3, *packed(PROBES)))
    assert snapshot(model, optimizer) == before


@pytest.mark.parametrize("reward", ["inner", "cosine"])
@pytest.mark.parametrize("calls", [1, 4, 8], ids=["reference", "checks", "probes"])
def test_a_failing_refresh_leaves_no_trace(calls, reward):
    model, optimizer = trained_noisy()
    model.fails_after = float(model.calls) + calls
    feedback = feedback_for(model, optimizer, REFERENCE, reward=reward, rows_per_pass=1)
    before = snapshot(model, optimizer)
    with pytest.raises(ArithmeticError, match="on purpose"):
        feedback.rewards(3, *packed(PROBES))
    assert snapshot(model, optimizer) == before


def test_a_failure_in_the_backward_pass_leaves_no_trace():
    model, optimizer = make_model()

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError("on purpose")

    feedback = feedback_for(model, optimizer, REFERENCE)
    feedback.rewards(1, *packed(PROBES))
    plain = model.norm.forward
    model.norm.forward = lambda x: plain(Failing.apply(x))
    before = snapshot(model, optimizer)
    with pytest.raises(ArithmeticError, match="on purpose"):
        feedback.rewards(2, *packed(PROBES))
    assert snapshot(model, optimizer) == before


def test_gradients_being_accumulated_stay():
    model, optimizer = make_model()
    mean_loss(model, PROBES[:2]).backward()
    before = snapshot(model, optimizer)
    assert all(p.grad is not None for p in model.parameters())
    feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES))
    assert snapshot(model, optimizer) == before


def test_layer_without_a_ghost_form_is_refused_by_name():
    class Convolving(Noisy):
        def __init__(self):
            super().__init__()
            self.mixer = nn.Conv1d(8, 8, 1)

    model = Convolving()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(TypeError, match=r"Conv1d \(mixer\)"):
        Feedback(model, optimizer, FeedbackConfig())
    model.mixer.requires_grad_(False)
    Feedback(model, optimizer, FeedbackConfig())


def test_subclass_of_a_known_layer_is_refused():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = Noisy()
    model.head = Scaled(8, VOCAB)
    with pytest.raises(TypeError, match=r"Scaled \(head\)"):
        Feedback(model, torch.optim.AdamW(model.parameters()), FeedbackConfig())


def test_model_without_a_document_mask_is_refused():
    model, optimizer = make_model()
    plain = model.forward
    model.forward = lambda ids, positions: plain(
        ids, torch.arange(ids.shape[1]).expand_as(positions)
    )
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="documents of one row see each other"):
        feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES))
    assert snapshot(model, optimizer) == before


def test_weight_used_past_its_module_is_refused():
    model, optimizer = make_model(tied=True, bias=False)

    class Borrowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.norm = model.embedding, model.norm

        def forward(self, input_ids, position_ids):
            return self.norm(self.embedding(input_ids)) @ self.embedding.weight.T

    borrowing = Borrowing()
    with pytest.raises(RuntimeError, match="call every module that owns a trainable weight"):
        feedback_for(borrowing, optimizer, REFERENCE).rewards(1, *packed(PROBES))


@pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
def test_activation_checkpointing_is_right_or_refused(reentrant):
    model, optimizer = make_model()
    expected = autograd_rewards(model, optimizer, REFERENCE, PROBES)
    for block in model.blocks:
        plain = block.forward
        block.forward = lambda *inputs, plain=plain: checkpoint(
            plain, *inputs, use_reentrant=reentrant
        )
    feedback = feedback_for(model, optimizer, REFERENCE)
    before = snapshot(model, optimizer)
    if reentrant:
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            feedback.rewards(1, *packed(PROBES))
    else:
        np.testing.assert_allclose(
            feedback.rewards(1, *packed(PROBES)), expected, rtol=1e-9,
            atol=1e-9 * np.abs(expected).max(),
        )  # fmt: skip
    assert snapshot(model, optimizer) == before


def test_layer_called_twice_counts_twice():
    model, optimizer = make_model()
    model.blocks[1] = model.blocks[0]
    optimizer = torch.optim.AdamW(model.parameters())
    expected = autograd_rewards(model, optimizer, REFERENCE, PROBES)
    got = feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_reference_documents_are_drawn_by_refresh_and_seed():
    model, optimizer = make_model()
    reference = make_documents([10] * 12, seed=3)

    def losses(**settings):
        feedback = feedback_for(model, optimizer, reference, reference_docs=3, **settings)
        found = []
        for refresh in (1, 2, 1):
            feedback.rewards(refresh, *packed(PROBES[:1]))
            found.append(feedback.last["reference_loss"])
            assert feedback.last["reference_tokens"] == 27
        return found

    first, second, again = losses()
    assert first == again != second
    assert losses(seed=9)[0] != first


def test_reference_windows_are_as_long_as_asked():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, REFERENCE, max_reference_tokens=6)
    feedback.rewards(1, *packed(PROBES[:1]))
    assert feedback.last["reference_tokens"] == 5 + 5 + 3


def test_last_counts_tokens_and_seconds():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, REFERENCE)
    feedback.rewards(1, *packed(PROBES))
    assert feedback.last["probe_tokens"] == sum(max(num_predicted(p), 0) for p in PROBES)
    assert feedback.last["reference_tokens"] == sum(num_predicted(d) for d in REFERENCE)
    assert feedback.last["seconds"] > 0


def test_no_probes_give_no_rewards():
    model, optimizer = make_model()
    got = feedback_for(model, optimizer, REFERENCE).rewards(
        1, np.zeros(0, np.int64), np.zeros(1, np.int64)
    )
    assert got.shape == (0,)
    assert got.dtype == np.float64


def test_bad_settings_say_what_to_do():
    model, optimizer = make_model()
    for settings in ({"reward": "loss"}, {"rows_per_pass": 0}, {"reference_docs": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            FeedbackConfig(**settings)
    feedback = Feedback(model, optimizer, FeedbackConfig())
    with pytest.raises(ConfigError, match="set_reference"):
        feedback.rewards(1, *packed(PROBES))
    with pytest.raises(ConfigError, match="none of two tokens"):
        feedback.set_reference([np.zeros(1, np.int64)])
    feedback.set_reference(REFERENCE)
    with pytest.raises(ValueError, match="cu_seqlens"):
        feedback.rewards(1, np.zeros(4, np.int64), np.array([0, 3]))


def test_optimizer_must_be_adam_and_hold_every_parameter():
    model, optimizer = make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ConfigError, match="SGD"):
        feedback_for(model, sgd, REFERENCE).rewards(1, *packed(PROBES))
    partial = torch.optim.AdamW(model.blocks.parameters())
    with pytest.raises(ConfigError, match="in no group"):
        feedback_for(model, partial, REFERENCE).rewards(1, *packed(PROBES))
    assert len(partial.state) == 0


def test_amsgrad_uses_its_largest_second_moment():
    model, _ = make_model(steps=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, amsgrad=True)
    for documents in (PROBES[:2], PROBES[6:7], PROBES[7:8]):
        optimizer.zero_grad()
        mean_loss(model, documents).backward()
        optimizer.step()
    parameters = list(model.parameters())
    g_ref = torch.autograd.grad(mean_loss(model, REFERENCE), parameters)
    g_x = torch.autograd.grad(summed_loss(model, PROBES[0]), parameters)
    expected = 0.0
    for p, a, b in zip(parameters, g_ref, g_x, strict=True):
        v_hat = optimizer.state[p]["max_exp_avg_sq"] / (1 - 0.999**3)
        expected += float((a * b / (v_hat.sqrt() + 1e-8)).sum())
    (got,) = feedback_for(model, optimizer, REFERENCE).rewards(1, *packed(PROBES[:1]))
    assert got == pytest.approx(expected / num_predicted(PROBES[0]), rel=1e-9)


def damped_autograd_rewards(model, optimizer, reference, probes, damping):
    """The same as `autograd_rewards`, with a share of each tensor's mean second moment in P."""
    parameters = list(model.parameters())
    g_ref = torch.autograd.grad(mean_loss(model, reference), parameters)
    found = []
    for probe in probes:
        g_x = torch.autograd.grad(summed_loss(model, probe), parameters)
        total = 0.0
        for p, a, b in zip(parameters, g_ref, g_x, strict=True):
            scale = 1 / second_moment_scale(optimizer, p)
            v_hat = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**3)
            total += float((a * b / (scale + damping * v_hat.mean().sqrt())).sum())
        found.append(total / num_predicted(probe))
    return np.array(found)


def test_damping_adds_a_share_of_the_mean_second_moment():
    model, optimizer = make_model(tied=False)
    expected = damped_autograd_rewards(model, optimizer, REFERENCE, PROBES[:4], 0.2)
    feedback = feedback_for(model, optimizer, REFERENCE, damping=0.2)
    np.testing.assert_allclose(feedback.rewards(1, *packed(PROBES[:4])), expected, rtol=1e-9)


def half_precision_twin(model, optimizer):
    """The same model in fp32 with its own optimiser, the second moments carried over."""
    twin = copy.deepcopy(model).float()
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    twin_optimizer.load_state_dict(optimizer.state_dict())
    return twin, twin_optimizer


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_rewards_in_bf16_follow_fp64(monkeypatch, tied):
    model, optimizer = make_model(tied=tied)
    probes = make_documents([16] * 24, seed=4)
    expected = damped_autograd_rewards(model, optimizer, REFERENCE, probes, 0.1)
    for module in ("capture", "checks", "reference"):
        monkeypatch.setattr(
            f"moot.trainer.feedback.{module}.autocast",
            lambda device: torch.autocast(torch.device(device).type, dtype=torch.bfloat16),
        )
    twin = half_precision_twin(model, optimizer)
    got = feedback_for(*twin, REFERENCE, damping=0.1).rewards(1, *packed(probes))
    assert np.corrcoef(got, expected)[0, 1] > 0.99


@pytest.mark.gpu
def test_rewards_on_cuda_follow_fp64():
    model, optimizer = make_model()
    probes = make_documents([16] * 24, seed=4)
    expected = damped_autograd_rewards(model, optimizer, REFERENCE, probes, 0.1)
    twin, _ = half_precision_twin(model, optimizer)
    twin.cuda()
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    twin_optimizer.load_state_dict(optimizer.state_dict())
    generator = torch.cuda.get_rng_state()
    got = feedback_for(twin, twin_optimizer, REFERENCE, damping=0.1).rewards(1, *packed(probes))
    assert np.corrcoef(got, expected)[0, 1] > 0.99
    assert torch.equal(generator, torch.cuda.get_rng_state())


def baseline_direction(model, optimizer, reference, probes):
    """P (g_ref - c g), g the mean gradient of the probes, every gradient from autograd."""
    parameters = list(model.parameters())
    scales = [second_moment_scale(optimizer, p) for p in parameters]
    g_ref = torch.autograd.grad(mean_loss(model, reference), parameters)
    usable = [probe for probe in probes if num_predicted(probe) > 0]
    g = torch.autograd.grad(mean_loss(model, usable), parameters)
    products = [
        sum(float((a * s * b).sum()) for a, s, b in zip(first, scales, g, strict=True))
        for first in (g_ref, g)
    ]
    shared = products[0] / products[1]
    return [s * (a - shared * b) for s, a, b in zip(scales, g_ref, g, strict=True)]


def test_rewards_without_the_baseline_equal_autograd():
    model, optimizer = make_model()
    direction = baseline_direction(model, optimizer, REFERENCE, PROBES)
    expected = np.zeros(len(PROBES))
    for i, probe in enumerate(PROBES):
        if num_predicted(probe) > 0:
            g_x = torch.autograd.grad(summed_loss(model, probe), list(model.parameters()))
            total = sum(float((a * b).sum()) for a, b in zip(direction, g_x, strict=True))
            expected[i] = total / num_predicted(probe)
    feedback = feedback_for(
        model, optimizer, REFERENCE, reference_docs=None, baseline_docs=len(PROBES)
    )
    rewards = feedback.rewards(1, *packed(PROBES))
    assert np.abs(rewards - expected).max() <= 1e-9 * np.abs(expected).max()
    counts = np.array([num_predicted(probe) for probe in PROBES])
    plain = feedback_for(model, optimizer, REFERENCE, reference_docs=None)
    scale = np.abs(plain.rewards(1, *packed(PROBES)) * counts).sum()
    assert abs((rewards * counts).sum()) <= 1e-9 * scale, "the baseline itself is worth nothing"


def test_the_only_reference_document_is_worth_something_beside_the_baseline():
    model, optimizer = make_model()
    feedback = feedback_for(model, optimizer, [PROBES[1]], baseline_docs=4)
    assert feedback.rewards(1, *packed(PROBES))[1] > 0
