# SPDX-License-Identifier: Apache-2.0
"""D3's edges of models: products against autograd's Hessians, invariants 8 to 10 of the method."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader import ConfigError
from moot.loader.schedule import (
    advantage_of,
    commutator_advantage,
    lookahead,
    lookahead_error,
    published_order,
)
from moot.trainer.feedback.edges import (
    commutator,
    hutchinson_diagonal,
    look_ahead,
    published_chunk_order,
    sharpness,
)
from moot.trainer.feedback.neighbourhood import Neighbourhood
from moot.trainer.model import GPT, GPTConfig, loss
from torch import nn
from torch.func import functional_call

SEEDS = st.integers(0, 2**31 - 1)


class Net(nn.Module):
    """Twelve inputs to one number over a curved layer; fp64; losses are those of single points."""

    def __init__(self, seed, num_points=6):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(4, 3, dtype=torch.float64)
        self.last = nn.Linear(3, 1, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.x = torch.randn(num_points, 4, generator=generator, dtype=torch.float64)
        self.y = torch.randn(num_points, generator=generator, dtype=torch.float64)

    def forward(self, i):
        error = self.last(torch.tanh(self.first(self.x[i]))).squeeze(-1) - self.y[i]
        return error**2 / 2

    def losses(self):
        return [lambda i=i: self(i) for i in range(len(self.x))]

    def mean(self):
        return self(slice(None)).mean()

    def hessian(self, i=None):
        """[D, D] of one point's loss, or of the mean, from autograd."""
        names = [name for name, _ in self.named_parameters()]
        shapes = [p.shape for p in self.parameters()]

        def flat_loss(theta):
            parts = theta.split([shape.numel() for shape in shapes])
            values = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
            index = slice(None) if i is None else i
            return functional_call(self, dict(zip(names, values, strict=True)), (index,)).mean()

        return torch.autograd.functional.hessian(flat_loss, theta_of(self))


def theta_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def stepped(model, num=3):
    """Adam after a few steps, so that P is not 1."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for _ in range(num):
        model.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def preconditioner(model, optimizer):
    """P from the definition, [D]."""
    scales = []
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        corrected = state["exp_avg_sq"] / (1 - 0.95 ** float(state["step"]))
        scales.append((1 / (corrected.sqrt() + 1e-8)).flatten())
    return torch.cat(scales)


@settings(max_examples=20)
@given(SEEDS)
def test_product_and_gradient_are_those_of_autograd(seed):
    model = Net(seed)
    point = Neighbourhood(model)
    direction = torch.randn(19, dtype=torch.float64) * 10.0 ** (seed % 7 - 3)
    for i, one in enumerate(model.losses()):
        exact = model.hessian(i) @ direction
        gradient, product = point.product(one, direction)
        scale = model.hessian(i).norm() * direction.norm()
        torch.testing.assert_close(product, exact, rtol=0, atol=float(1e-7 * scale))
        torch.testing.assert_close(gradient, point.gradient(one), rtol=0, atol=1e-6)


def test_product_along_nothing_is_nothing():
    model = Net(0)
    point = Neighbourhood(model)
    gradient, product = point.product(model.mean, torch.zeros(19, dtype=torch.float64))
    assert torch.equal(gradient, point.gradient(model.mean))
    assert not product.any()


@settings(max_examples=20)
@given(SEEDS, st.booleans(), st.booleans())
def test_commutator_is_that_of_autograd_hessians(seed, has_adam, is_subset):
    """Also under Adam's P and over some of the parameters alone."""
    model = Net(seed)
    optimizer = stepped(model) if has_adam else None
    p = preconditioner(model, optimizer) if has_adam else torch.ones(19, dtype=torch.float64)
    chosen = list(model.last.parameters()) if is_subset else None
    at = slice(15, 19) if is_subset else slice(0, 19)
    point = Neighbourhood(model, optimizer, chosen)
    actual = commutator(point, model.losses(), model.mean, eta=0.1)
    whole = Neighbourhood(model)
    step = p[at] * torch.stack([whole.gradient(one)[at] for one in model.losses()])
    direction = p[at] * whole.gradient(model.mean)[at]
    u = torch.stack([model.hessian(i)[at, at] @ direction for i in range(6)])
    expected = 0.01 * (u @ step.T - step @ u.T).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.array_equal(actual, -actual.T)


@pytest.mark.parametrize("has_adam", [False, True])
def test_commutator_is_what_a_swap_changes_to_second_order(has_adam):
    """Loss after j then i less that after i then j, by really stepping; the rest is of eta^3."""
    wrong = []
    for eta in (1e-6, 1e-7) if has_adam else (1e-2, 1e-3):  # P reaches 5000 here
        model = Net(5)
        optimizer = stepped(model) if has_adam else None
        point = Neighbourhood(model, optimizer)
        edge = commutator(point, model.losses(), model.mean, eta)
        gaps = np.zeros((6, 6))
        for i in range(6):
            for j in range(6):
                ends = [after(model, point, order, eta) for order in ((i, j), (j, i))]
                gaps[i, j] = ends[1] - ends[0]
        wrong.append(np.abs(edge - gaps).max() / np.abs(gaps).max())
    assert wrong[0] < 0.5
    assert wrong[1] < wrong[0] / 5


def after(model, point, order, eta):
    """The mean loss after plain steps on some points in order; the model is put back."""
    start = [p.detach().clone() for p in model.parameters()]
    moves = torch.zeros_like(theta_of(model))
    for i in order:
        with point.moved(moves):
            step = point.precondition(point.gradient(model.losses()[i]))
        moves = moves - eta * step
    with point.moved(moves), torch.no_grad():
        result = float(model.mean())
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    return result


# Invariant 9.


class Regression(nn.Module):
    """Linear regression on inputs of unit norm, a point a batch; theta begins at nought."""

    def __init__(self, seed, num_points=8, num_inputs=16):
        super().__init__()
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(num_points, num_inputs))
        self.x = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
        self.y = torch.from_numpy(rng.normal(size=num_points))
        self.theta = nn.Parameter(torch.zeros(num_inputs, dtype=torch.float64))

    def losses(self):
        return [
            lambda i=i: (self.x[i] @ self.theta - self.y[i]) ** 2 / 2 for i in range(len(self.x))
        ]

    def mean(self):
        return ((self.x @ self.theta - self.y) ** 2 / 2).mean()


def test_unit_norm_regression_lookahead_says_for_every_pair_which_goes_first():
    """The sum of the pair's losses after both steps is lower in the order it prefers."""
    for seed in range(20):
        model = Regression(seed)
        point, losses, eta = Neighbourhood(model), model.losses(), 0.05
        edge = advantage_of(lookahead(*means(*look_ahead(point, losses, losses, eta))))
        for i in range(8):
            for j in range(i):
                ends = [pair_after(model, point, order, eta) for order in ((i, j), (j, i))]
                assert np.sign(edge[i, j]) == np.sign(ends[1] - ends[0])


def means(before, after):
    return before.mean(axis=1), after.mean(axis=2)


def pair_after(model, point, order, eta):
    moves = torch.zeros_like(theta_of(model))
    for i in order:
        with point.moved(moves):
            moves = moves - eta * point.gradient(model.losses()[i])
    with point.moved(moves), torch.no_grad():
        return sum(float(model.losses()[i]()) for i in order)


def test_unit_norm_regression_commutator_is_right_for_at_least_95_of_100_pairs():
    """Against the mean loss after really stepping in both orders, at eta 0.05."""
    right = []
    for seed in range(40):
        model = Regression(seed)
        point, eta = Neighbourhood(model), 0.05
        edge = commutator(point, model.losses(), model.mean, eta)
        for i in range(8):
            for j in range(i):
                ends = [after(model, point, order, eta) for order in ((i, j), (j, i))]
                right.append(np.sign(edge[i, j]) == np.sign(ends[1] - ends[0]))
    assert len(right) == 1120
    assert np.mean(right) >= 0.95


# Invariant 10.


class Quadratics(nn.Module):
    """Losses theta^T H_j theta / 2 + b_j^T theta."""

    def __init__(self, seed, num_units):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(num_units, 5, 5, generator=generator, dtype=torch.float64)
        self.h = root @ root.mT
        self.b = torch.randn(num_units, 5, generator=generator, dtype=torch.float64)
        self.theta = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))

    def losses(self):
        return [
            lambda h=h, b=b: self.theta @ h @ self.theta / 2 + b @ self.theta
            for h, b in zip(self.h, self.b, strict=True)
        ]


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 6), st.floats(0.01, 1))
def test_quadratic_losses_make_lookahead_and_product_exact(seed, num_units, gamma):
    model = Quadratics(seed, num_units)
    point, losses = Neighbourhood(model), model.losses()
    influence = lookahead(*means(*look_ahead(point, losses, losses, gamma)))
    gradients = torch.stack([point.gradient(one) for one in losses])
    curvature = torch.zeros(num_units, num_units, dtype=torch.float64)
    for i in range(num_units):
        for j in range(num_units):
            product = point.product(losses[j], gradients[i])[1]
            scale = float(model.h[j].norm() * gradients[i].norm())
            torch.testing.assert_close(
                product, model.h[j] @ gradients[i], rtol=0, atol=1e-8 * scale
            )
            curvature[i, j] = gradients[i] @ model.h[j] @ gradients[i]
    expected = (-gamma * gradients @ gradients.T + gamma**2 / 2 * curvature).numpy()
    np.testing.assert_allclose(influence, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_lookahead_of_documents_has_its_error():
    model = Net(3)
    point = Neighbourhood(model, stepped(model))
    probes = [lambda: model(slice(0, 3)), lambda: model(slice(3, 6))]
    before, behind = look_ahead(point, probes, probes, 0.01)
    assert before.shape == (2, 3) and behind.shape == (2, 2, 3)
    step = point.precondition(point.gradient(probes[1]))
    with point.moved(-0.01 * step), torch.no_grad():
        assert np.array_equal(behind[1, 0], model(slice(0, 3)).numpy())
    assert (lookahead_error(before, behind) > 0).all()
    assert lookahead(*means(before, behind))[0, 0] < 0


# Invariant 8, and the paper's procedure.


@settings(max_examples=10)
@given(SEEDS)
def test_published_mode_sorts_by_curvature_whatever_the_seed(seed):
    model = Net(seed % 1000, num_points=7)
    order, curvatures = published_chunk_order(model, model.losses(), 0.01, seed)
    assert np.array_equal(order, np.argsort(-curvatures))
    again, _ = published_chunk_order(model, model.losses(), 0.01, seed)
    assert np.array_equal(order, again)


def test_published_diagonal_is_hutchinsons():
    """Its mean over many draws is the diagonal of autograd's Hessian."""
    model = Net(1)
    point, one = Neighbourhood(model), model.losses()[0]
    like = point.gradient(one)
    generator = torch.Generator().manual_seed(0)
    draws = [hutchinson_diagonal(point, one, like, generator) for _ in range(400)]
    mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 20
    exact = model.hessian(0).diagonal()
    assert ((mean - exact).abs() <= 4.5 * error + 1e-7).all()
    assert (error > 0).any()


def test_published_curvature_is_the_printed_one_where_the_hessian_is_diagonal():
    """Then five signs give the diagonal exactly, and lambda is g^T diag(h) g."""
    torch.manual_seed(0)
    theta = nn.Parameter(torch.randn(6, dtype=torch.float64))
    model = nn.ParameterList([theta])
    scales = torch.rand(5, 6, dtype=torch.float64)
    losses = [lambda s=s: (s * theta**2 / 2).sum() for s in scales]
    order, curvatures = published_chunk_order(model, losses, 1e-3, seed=3)
    expected = ((scales * theta.detach()) ** 2 * scales).sum(1).numpy()
    np.testing.assert_allclose(curvatures, expected, rtol=1e-6)
    assert np.array_equal(order, np.argsort(-expected))


# Sharpness.


@settings(max_examples=15)
@given(SEEDS, st.booleans())
def test_sharpness_is_the_largest_eigenvalue(seed, has_adam):
    model = Net(seed)
    optimizer = stepped(model) if has_adam else None
    root = preconditioner(model, optimizer).sqrt() if has_adam else torch.ones(19).double()
    values = torch.linalg.eigvalsh(root[:, None] * model.hessian() * root)
    largest = float(values.abs().max())
    point = Neighbourhood(model, optimizer)
    few, many = (sharpness(point, model.mean, num) for num in (4, 300))
    assert few <= many * (1 + 1e-6)
    assert 0.97 * largest < many < largest * (1 + 1e-6)
    assert sharpness(point, model.mean, 300, limit=few / 2) <= many


def test_sharpness_sees_an_eigenvector_the_gradient_does_not():
    theta = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    model = nn.ParameterList([theta])
    steep = lambda: (theta[0] ** 2 + 50 * theta[1] ** 2) / 2  # noqa: E731
    assert sharpness(Neighbourhood(model), steep, 30) == pytest.approx(50, rel=1e-6)


# A language model.


def small_gpt(dtype=torch.float32):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=40, dim=16, num_layers=2, num_heads=2, max_seq_len=16))
    tokens = torch.randint(0, 40, (6, 4, 16))
    positions = torch.arange(16).expand(4, 16)

    def of(i):
        summed, count = loss(model(tokens[i], positions), tokens[i])
        return summed / count

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for i in range(6):
        of(i).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.to(dtype), optimizer, [lambda i=i: of(i) for i in range(6)]


def test_edges_of_a_language_model_hold_in_single_precision():
    """Single precision against double, where differences are finer; P of the same optimizer."""
    edges = []
    for dtype in (torch.float64, torch.float32):
        model, optimizer, losses = small_gpt(dtype)
        point = Neighbourhood(model, optimizer, damping=0.1)
        edges.append(commutator(point, losses[:5], losses[5], 1e-2))
    exact, single = edges
    assert np.abs(single - exact).max() < 0.05 * np.abs(exact).max()


def test_a_model_comes_out_bit_for_bit_as_it_went_in():
    """Parameters, buffers, gradients, optimizer, flags and generators; also after a failure."""
    model, optimizer, losses = small_gpt()
    model.train()
    point = Neighbourhood(model, optimizer)

    def picture():
        moments = [s["exp_avg_sq"] for s in optimizer.state.values()]
        values = [*model.parameters(), *model.buffers(), *moments, torch.get_rng_state()]
        return [value.detach().clone() for value in values], model.training

    def failing():
        raise RuntimeError("broken loss")

    before, was_training = picture()
    commutator(point, losses[:3], losses[5], 1e-2)
    look_ahead(point, losses[:3], losses[:3], 1e-2)
    published_chunk_order(model, losses[:2], 1e-2, 0)
    sharpness(point, losses[0], 2)
    with pytest.raises(RuntimeError, match="broken"):
        look_ahead(point, losses[:1], [FailsSecond(losses[0])], 1e-2)
    with pytest.raises(RuntimeError, match="broken"):
        commutator(point, [failing], losses[0], 1e-2)
    now, is_training = picture()
    assert is_training and was_training
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class FailsSecond:
    """A loss that fails while the model stands elsewhere."""

    def __init__(self, one):
        self.one, self.calls = one, 0

    def __call__(self):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("broken loss")
        return self.one()


def test_equal_batches_make_no_edge():
    """S = 0 exactly: the order that came stays."""
    model, optimizer, losses = small_gpt()
    edge = commutator(Neighbourhood(model, optimizer), [losses[0]] * 4, losses[5], 1e-2)
    assert not edge.any()
    assert not commutator(Neighbourhood(model, optimizer), losses[:4], losses[5], 0.0).any()


def test_what_cannot_be_measured_is_refused():
    model = Net(0)
    with pytest.raises(ConfigError, match="Adam's second moment"):
        Neighbourhood(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="no group"):
        Neighbourhood(model, torch.optim.AdamW(model.last.parameters()))
    with pytest.raises(ConfigError, match="no parameter is trained"):
        Neighbourhood(model, None, [])
    with pytest.raises(ValueError, match="eta is -1"):
        commutator_advantage(np.zeros((2, 2)), -1)
    assert published_order(np.zeros((1, 1)), 0).tolist() == [0]
