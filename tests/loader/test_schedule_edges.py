# SPDX-License-Identifier: Apache-2.0
"""Influence from losses: look-ahead on problems with known answers, averages, the regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.schedule import (
    EdgeAverage,
    Regression,
    advantage_of,
    lookahead,
    lookahead_error,
    published_influence,
    relative,
    solve_order,
    tolerance_of,
)

SEEDS = st.integers(0, 2**32 - 1)


def looked_ahead(losses, gradients, theta, gamma):
    """Influence of plain gradient steps on a function theta -> [N] losses."""
    return lookahead(losses(theta), [losses(theta - gamma * step) for step in gradients])


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 8), st.floats(0.01, 0.5))
def test_lookahead_on_unit_norm_regression_says_which_first_step_is_better(seed, num_units, gamma):
    """Losses (x_j.theta - y_j)^2 / 2: the pair's sum after both steps is lower in S's order."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-0.25, 0.25], (num_units, 16))  # unit norm, equal diagonals of the Hessian
    y = rng.normal(size=num_units)

    def losses(theta):
        return (x @ theta - y) ** 2 / 2

    def after(first, second):
        theta = np.zeros(16)
        for unit in (first, second):
            theta = theta - gamma * (x[unit] @ theta - y[unit]) * x[unit]
        return losses(theta)[[first, second]].sum()

    gradients = -y[:, None] * x
    advantage = advantage_of(looked_ahead(losses, gradients, np.zeros(16), gamma))
    printed = advantage_of(published_influence(gradients, x**2, gamma))
    for i in range(num_units):
        for j in range(num_units):
            gap = after(j, i) - after(i, j)
            if abs(gap) > 1e-12:
                assert np.sign(advantage[i, j]) == np.sign(gap)
                assert np.sign(printed[i, j]) == -np.sign(gap)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 8), st.floats(0.01, 2))
def test_lookahead_on_quadratics_is_the_expansion_with_the_right_curvature(seed, num_units, gamma):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(num_units, 5, 5))
    hessians = root @ root.transpose(0, 2, 1)
    linear, theta = rng.normal(size=(num_units, 5)), rng.normal(size=5)

    def losses(theta):
        return hessians @ theta @ theta / 2 + linear @ theta

    gradients = hessians @ theta + linear
    curvature = np.einsum("id,jde,ie->ij", gradients, hessians, gradients)  # g_i^T H_j g_i
    expected = -gamma * gradients @ gradients.T + gamma**2 / 2 * curvature
    actual = looked_ahead(losses, gradients, theta, gamma)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_printed_influence_is_right_for_a_unit_on_itself_alone():
    rng = np.random.default_rng(0)
    diagonals, targets = rng.random((4, 6)), rng.normal(size=(4, 6))

    def losses(theta):
        return (diagonals * (theta - targets) ** 2).sum(axis=1) / 2

    gradients = -diagonals * targets
    actual = looked_ahead(losses, gradients, np.zeros(6), gamma=0.5)
    printed = published_influence(gradients, diagonals, gamma=0.5)
    is_right = np.isclose(printed, actual, rtol=1e-9)
    assert np.array_equal(is_right, np.eye(4, dtype=bool))


def test_lookahead_error_is_that_of_paired_differences():
    before = np.array([[1.0, 5.0, 9.0], [2.0, 2.0, 2.0]])
    after = before - np.array([[[1.0], [0.0]], [[2.0], [3.0]]])
    after[0, 1] = [1.0, 2.0, 6.0]  # changes -1, 0, 4: variance 7
    error = lookahead_error(before, after)
    np.testing.assert_allclose(error, [[0, np.sqrt(7 / 3)], [0, 0]])
    influence = lookahead(before.mean(axis=1), after.mean(axis=2))
    np.testing.assert_allclose(influence, [[-1, 1], [-2, -3]])


def test_relative_divides_by_the_loss_that_changed():
    change = np.array([[-1.0, -8.0], [-2.0, -4.0]])
    assert relative(change, [2, 16]).tolist() == [[-0.5, -0.5], [-1.0, -0.25]]
    assert solve_order(advantage_of(change)).tolist() == [0, 1]
    assert solve_order(advantage_of(relative(change, [2, 16]))).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lookahead([1, 2, 3], np.zeros((2, 2))), r"before has shape \(3,\)"),
        (lambda: lookahead([1, np.nan], np.zeros((2, 2))), r"before\[1\] is nan"),
        (lambda: lookahead([1, 2], [[0, 0], [np.inf, 0]]), r"after\[1, 0\] is inf"),
        (lambda: lookahead([1, 2], np.zeros((2, 3))), r"after has shape \(2, 3\)"),
        (lambda: lookahead_error(np.zeros((2, 1)), np.zeros((2, 2, 1))), "at least two documents"),
        (lambda: lookahead_error(np.zeros((2, 3)), np.zeros((2, 3))), r"after \(2, 3\)"),
        (lambda: lookahead_error(np.full((1, 2), np.nan), np.zeros((1, 1, 2))), r"before\[0, 0\]"),
        (lambda: relative(np.zeros((2, 2)), [1, 0]), "must be > 0"),
        (lambda: published_influence(np.zeros((2, 3)), np.zeros((2, 2)), 1), r"gradients \(2, 3\)"),
        (lambda: published_influence([[np.nan]], [[0]], 1), r"gradients\[0, 0\] is nan"),
        (lambda: EdgeAverage(0), "rate is 0"),
        (lambda: Regression(0), "num_units 0"),
        (lambda: Regression(2, forget=0), "forget 0"),
        (lambda: Regression(2, ridge=0), "ridge 0"),
        (lambda: Regression(2).update([1], [1, 1]), r"shares \(1,\)"),
        (lambda: Regression(2).update([0.5, 0.6], [1, 1]), "add up to 1"),
        (lambda: Regression(2).update([1.5, -0.5], [1, 1]), ">= 0"),
        (lambda: Regression(2).update([0, 1], [1, np.nan]), r"drops\[1\] is nan"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_average_takes_the_first_whole_and_the_rest_in_part():
    average = EdgeAverage(rate=0.25)
    average.update([[0, 4], [0, 0]], [[0, 3], [0, 0]])
    average.update([[0, 8], [0, 0]], [[0, 12], [0, 0]])
    assert average.influence.tolist() == [[0, 5], [0, 0]]
    assert average.error[0, 1] == np.hypot(0.75 * 3, 0.25 * 12)
    for _ in range(200):
        average.update([[0, 8], [0, 0]], [[0, 12], [0, 0]])
    np.testing.assert_allclose(average.influence[0, 1], 8)
    np.testing.assert_allclose(average.error[0, 1], 12 * np.sqrt(0.25 / 1.75))


def test_average_does_not_keep_what_it_was_handed():
    influence, error = np.zeros((2, 2)), np.ones((2, 2))
    average = EdgeAverage()
    average.update(influence, error)
    influence[0, 1] = error[0, 1] = 9
    assert average.influence[0, 1] == 0
    assert average.error[0, 1] == 1


@pytest.mark.parametrize(
    ("influence", "error"),
    [(np.zeros((3, 3)), np.zeros((3, 3))), (np.zeros((2, 2)), -np.ones((2, 2)))],
)
def test_average_refuses_other_units_and_negative_errors_and_stays(influence, error):
    average = EdgeAverage()
    average.update(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="must be"):
        average.update(influence, error)
    assert average.influence.tolist() == [[1, 1], [1, 1]]


# The regression.


def rounds(seed, num_units, num_rounds, noise=0.0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(num_units, num_units))
    shares = rng.dirichlet(np.ones(num_units), num_rounds)
    return truth, shares, shares @ truth + noise * rng.normal(size=(num_rounds, num_units))


def learnt(shares, drops, **settings):
    regression = Regression(shares.shape[1], **settings)
    for share, drop in zip(shares, drops, strict=True):
        regression.update(share, drop)
    return regression


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 40))
def test_regression_that_forgets_nothing_is_ridge_regression(seed, num_units, num_rounds):
    _, shares, drops = rounds(seed, num_units, num_rounds, noise=1.0)
    regression = learnt(shares, drops, forget=1.0, ridge=0.1)
    normal = shares.T @ shares + 0.1 * np.eye(num_units)
    expected = -np.linalg.solve(normal, shares.T @ drops)
    np.testing.assert_allclose(regression.influence, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("forget", [1.0, 0.9])
def test_regression_finds_influence_that_is_there(forget):
    truth, shares, drops = rounds(0, 5, 200)
    regression = learnt(shares, drops, forget=forget, ridge=1e-6)
    np.testing.assert_allclose(regression.influence, -truth, atol=1e-3)


def test_regression_follows_influence_that_changes_the_faster_the_more_it_forgets():
    truth, shares, drops = rounds(0, 4, 300)
    drops[150:] *= -1
    wrong = [
        np.abs(learnt(shares, drops, forget=forget).influence - truth).max()
        for forget in (1.0, 0.9, 0.7)
    ]
    assert wrong[0] > 2 * wrong[1] > 4 * wrong[2]
    assert wrong[2] < 0.02


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(0.5, 1))
def test_steady_mix_does_not_wind_the_regression_up(seed, num_units, forget):
    """Plain forgetting divides what the mix does not test by `forget` each round, without end."""
    rng = np.random.default_rng(seed)
    regression = Regression(num_units, forget=forget, ridge=0.01)
    for _ in range(num_units + 1):
        regression.update(rng.dirichlet(np.ones(num_units)), rng.normal(size=num_units))
    steady = rng.dirichlet(np.ones(num_units))
    for num_rounds in (10, 1000):
        for _ in range(num_rounds):
            regression.update(steady, rng.normal(size=num_units))
        uncertainty = np.linalg.eigvalsh(np.linalg.inv(regression._information_NN))
        assert 0 < uncertainty[0] <= uncertainty[-1] < 1.001 * 100 / forget ** (num_units + 1)


def test_regression_knows_its_error():
    """Standardised errors have variance 1, and noise makes hardly any constraint."""
    scores, num_bound = [], 0
    for seed in range(60):
        truth, shares, drops = rounds(seed, 4, 60, noise=0.3)
        regression = learnt(shares, drops, forget=1.0, ridge=1e-4)
        scores.append((regression.influence + truth) / regression.error)
        noise = learnt(shares, drops - shares @ truth, forget=1.0, ridge=1e-4)
        advantage = advantage_of(noise.influence)
        num_bound += (np.abs(advantage) > tolerance_of(noise.error, 3)).sum()
    assert 0.8 < np.var(scores) < 1.25
    assert num_bound <= 0.01 * 60 * 12


def test_regression_is_on_the_safe_side_when_it_forgets():
    scores = []
    for seed in range(60):
        truth, shares, drops = rounds(seed, 4, 200, noise=0.3)
        regression = learnt(shares, drops)
        scores.append((regression.influence + truth) / regression.error)
    assert np.var(scores) < 1.1


def test_regression_of_few_rounds_constrains_nothing():
    _, shares, drops = rounds(0, 3, 3)
    regression = learnt(shares, drops)
    assert np.isinf(regression.error).all()
    advantage = advantage_of(regression.influence)
    assert solve_order(advantage, tolerance_of(regression.error)).tolist() == [0, 1, 2]
    regression.update([1, 0, 0], [1, 1, 1])
    assert np.isfinite(regression.error).all()


def test_regression_refuses_a_round_and_stays_as_it_was():
    _, shares, drops = rounds(0, 3, 8)
    regression = learnt(shares, drops)
    influence, error = regression.influence, regression.error
    with pytest.raises(ValueError, match="nan"):
        regression.update([1, 0, 0], [1, np.nan, 1])
    assert np.array_equal(regression.influence, influence)
    assert np.array_equal(regression.error, error)
