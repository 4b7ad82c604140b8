# SPDX-License-Identifier: Apache-2.0
"""Orders of units: the solver's invariants, the paper's solver, and input that is refused.

Advantages are integers, so that every sum is exact whatever the order of the additions.
"""

import itertools

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moot.loader.schedule import (
    advantage_of,
    forward_weight,
    order_cost,
    published_influence,
    published_order,
    solve_order,
    tolerance_of,
)
from moot.loader.schedule.solve import MAX_EXACT, _components, greedy_order, improve_order

SEEDS = st.integers(0, 2**32 - 1)


def antisymmetric(seed, num_units, density=1.0, largest=20):
    """A random S of whole numbers; an entry above the diagonal is zero with 1 - density."""
    rng = np.random.default_rng(seed)
    upper = rng.integers(-largest, largest + 1, (num_units, num_units))
    upper = np.triu(upper * (rng.random(upper.shape) < density), 1)
    return (upper - upper.T).astype(float)


def acyclic(seed, num_units, density=1.0):
    """A random S of a graph without cycles, and an order that violates nothing in it."""
    order = np.random.default_rng(seed).permutation(num_units)
    place = np.argsort(order)
    return np.sign(place - place[:, None]) * np.abs(antisymmetric(seed, num_units, density)), order


@st.composite
def advantages(draw, max_units=24):
    num_units = draw(st.integers(1, max_units))
    return antisymmetric(draw(SEEDS), num_units, draw(st.sampled_from([0.1, 0.3, 1.0])))


@settings(max_examples=60, deadline=None)
@given(advantages(), st.integers(0, 10), SEEDS)
def test_orders_are_permutations_and_come_again(advantage, tolerance, seed):
    for solve in (
        lambda: solve_order(advantage, tolerance),
        lambda: published_order(advantage, seed),
    ):
        order = solve()
        assert order.dtype == np.int64
        assert sorted(order) == list(range(len(advantage)))
        assert np.array_equal(order, solve())


@pytest.mark.parametrize("num_units", [1, 2, 11, 200])
def test_without_constraints_the_given_order_stays(num_units):
    given_order = list(range(num_units))
    nothing = np.zeros((num_units, num_units))
    assert solve_order(nothing).tolist() == given_order
    assert published_order(nothing, seed=3).tolist() == given_order
    noise = antisymmetric(1, num_units)
    assert solve_order(noise, 20).tolist() == given_order
    assert solve_order(noise, np.inf).tolist() == given_order


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60), st.sampled_from([0.05, 0.3, 1.0]))
def test_a_graph_without_cycles_is_never_violated(seed, num_units, density):
    advantage, truth = acyclic(seed, num_units, density)
    assert order_cost(advantage, truth) == 0
    assert order_cost(advantage, solve_order(advantage)) == 0


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60), st.floats(0, 2))
def test_components_and_their_order_are_those_of_a_graph_library(seed, num_units, degree):
    advantage = antisymmetric(seed, num_units, density=degree / num_units, largest=3)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(num_units))
    graph.add_edges_from(np.argwhere(advantage > 0).tolist())
    condensed = networkx.condensation(graph)
    members = {node: sorted(condensed.nodes[node]["members"]) for node in condensed}
    rows = advantage.sum(axis=1)
    expected = networkx.lexicographical_topological_sort(
        condensed, lambda node: (-rows[members[node]].sum(), members[node][0])
    )
    assert _components(advantage) == [members[node] for node in expected]


@settings(max_examples=60, deadline=None)
@given(advantages(), SEEDS)
def test_cost_and_forward_weight_are_one_number_seen_twice(advantage, seed):
    order = np.random.default_rng(seed).permutation(len(advantage))
    pairs = list(itertools.combinations(order, 2))
    cost = sum(max(0.0, advantage[later, earlier]) for earlier, later in pairs)
    weight = sum(advantage[earlier, later] for earlier, later in pairs)
    assert order_cost(advantage, order) == cost
    assert forward_weight(advantage, order) == weight
    assert cost == (np.triu(np.abs(advantage)).sum() - weight) / 2


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 7), st.sampled_from([0.3, 1.0]))
def test_small_components_equal_brute_force(seed, num_units, density):
    advantage = antisymmetric(seed, num_units, density)
    least = min(order_cost(advantage, p) for p in itertools.permutations(range(num_units)))
    assert order_cost(advantage, solve_order(advantage)) == least


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(8, MAX_EXACT))
def test_ten_units_equal_an_independent_dynamic_programme(seed, num_units):
    advantage = antisymmetric(seed, num_units)
    best = {0: 0.0}
    for subset in range(1, 1 << num_units):
        inside = [unit for unit in range(num_units) if subset >> unit & 1]
        best[subset] = max(
            best[subset ^ (1 << last)] + sum(advantage[unit, last] for unit in inside)
            for last in inside
        )
    assert forward_weight(advantage, solve_order(advantage)) == best[(1 << num_units) - 1]


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 30))
def test_local_search_never_raises_the_cost_and_ends_where_nothing_helps(seed, num_units):
    advantage = antisymmetric(seed, num_units)
    start = np.random.default_rng(seed).permutation(num_units)
    order = improve_order(advantage, start)
    cost = order_cost(advantage, order)
    assert cost <= order_cost(advantage, start)
    for first, second in itertools.permutations(range(num_units), 2):
        swapped = order.copy()
        swapped[[first, second]] = swapped[[second, first]]
        inserted = np.insert(np.delete(order, first), second, order[first])
        assert order_cost(advantage, swapped) >= cost
        assert order_cost(advantage, inserted) >= cost


def test_local_search_improves_on_greedy_and_on_the_published_solver():
    cost = {"greedy": 0.0, "published": 0.0, "solver": 0.0}
    for seed in range(20):
        advantage = antisymmetric(seed, 25)
        cost["greedy"] += order_cost(advantage, greedy_order(advantage))
        cost["published"] += order_cost(advantage, published_order(advantage, seed))
        cost["solver"] += order_cost(advantage, solve_order(advantage))
    assert cost["solver"] < min(cost["greedy"], cost["published"])


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_complete_graph_without_cycles_has_one_order_whatever_the_names(seed, num_units):
    advantage, truth = acyclic(seed, num_units)
    advantage += np.sign(np.argsort(truth) - np.argsort(truth)[:, None])  # none is zero
    assert np.array_equal(solve_order(advantage), truth)
    names = np.random.default_rng(seed).permutation(num_units)
    relabelled = advantage[np.ix_(names, names)]
    assert np.array_equal(names[solve_order(relabelled)], truth)
    assert np.array_equal(solve_order(-advantage), truth[::-1])


@settings(max_examples=40, deadline=None)
@given(advantages(), SEEDS, st.integers(-30, 30))
def test_scaling_advantage_and_errors_together_changes_nothing(advantage, seed, exponent):
    error = np.random.default_rng(seed).random(advantage.shape) * 4
    scale = 2.0**exponent  # exact
    order = solve_order(advantage, tolerance_of(error))
    assert np.array_equal(solve_order(advantage * scale, tolerance_of(error * scale)), order)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 24))
def test_tolerance_lets_noise_constrain_nothing(seed, num_units):
    truth, order = acyclic(seed, num_units, density=0.5)
    truth *= 10  # entries are 0 or at least 10
    noisy = truth + np.clip(antisymmetric(seed + 1, num_units), -3, 3)
    assert order_cost(truth, solve_order(noisy, 3)) == 0


def test_tolerance_from_standard_errors_adds_the_variances_of_both_directions():
    tolerance = tolerance_of([[9, 3], [4, 9]], num_errors=2)
    assert tolerance[0, 1] == tolerance[1, 0] == 10
    advantage = advantage_of([[0, -11], [0, 0]])
    assert advantage.tolist() == [[0, 11], [-11, 0]]
    assert solve_order(-advantage, tolerance).tolist() == [1, 0]
    assert solve_order(-advantage, 11).tolist() == [0, 1]  # 11 is not above 11
    assert np.isinf(tolerance_of(np.full((2, 2), np.inf))).all()


# The paper's solver and edge: what they do, and where they fail.


def test_published_solver_leaves_violations_where_none_are_needed():
    violated = 0
    for seed in range(100):
        advantage, _ = acyclic(seed, 12)
        violated += order_cost(advantage, published_order(advantage, seed)) > 0
        assert order_cost(advantage, solve_order(advantage)) == 0
    assert violated > 30


@settings(max_examples=40, deadline=None)
@given(advantages(), SEEDS)
def test_published_swaps_never_raise_the_cost(advantage, seed):
    rows = published_order(advantage, seed, num_swaps=0)
    assert np.array_equal(rows, np.argsort(-advantage.sum(axis=1), kind="stable"))
    cost = order_cost(advantage, published_order(advantage, seed))
    assert cost <= order_cost(advantage, rows)


def test_published_accepts_a_swap_exactly_if_it_lowers_the_cost():
    for seed in range(200):
        advantage = antisymmetric(seed, 8)
        order = published_order(advantage, seed, num_swaps=0)
        first, second = np.sort(np.random.default_rng(seed).choice(8, 2, replace=False))
        swapped = order.copy()
        swapped[[first, second]] = swapped[[second, first]]
        better = min(order, swapped, key=lambda order: order_cost(advantage, order))
        assert np.array_equal(published_order(advantage, seed, num_swaps=1), better)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 30), SEEDS)
def test_printed_edge_sorts_by_curvature_for_every_seed_and_solver(seed, num_units, swap_seed):
    rng = np.random.default_rng(seed)
    gradients = rng.integers(-5, 6, (num_units, 8))
    diagonals = rng.integers(-5, 6, (num_units, 8))
    curvature = (gradients**2 * diagonals).sum(axis=1)
    advantage = advantage_of(published_influence(gradients, diagonals, gamma=0.5))
    assert np.array_equal(advantage, (curvature[:, None] - curvature) / 8)  # gradients cancel
    by_curvature = np.argsort(-curvature, kind="stable")
    assert np.array_equal(published_order(advantage, swap_seed), by_curvature)
    assert np.array_equal(solve_order(advantage), by_curvature)


# Input.


def test_one_unit_is_in_order():
    assert solve_order([[0.0]]).tolist() == [0]
    assert published_order([[0.0]], seed=0).tolist() == [0]
    assert order_cost([[0.0]], [0]) == forward_weight([[0.0]], [0]) == 0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"advantage has shape \(2, 3\)"),
        (np.zeros(4), r"advantage has shape \(4,\)"),
        (np.zeros((0, 0)), r"advantage has shape \(0, 0\)"),
        ([[0, np.nan], [0, 0]], r"advantage\[0, 1\] is nan"),
        ([[0, np.inf], [-np.inf, 0]], r"advantage\[0, 1\] is inf"),
        ([[0, 1], [1, 0]], r"advantage\[0, 1\] is 1.0 and \[1, 0\] is 1.0"),
        ([[1, 0], [0, 0]], r"advantage\[0, 0\] is 1.0"),
    ],
)
def test_bad_advantage_is_refused_once_by_every_function(matrix, message):
    for call in (
        lambda: solve_order(matrix),
        lambda: published_order(matrix, seed=0),
        lambda: order_cost(matrix, [0, 1]),
        lambda: forward_weight(matrix, [0, 1]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("influence", [[[0, np.nan], [0, 0]], [[0, 1]], 3.0])
def test_bad_influence_is_refused(influence):
    with pytest.raises(ValueError, match="influence"):
        advantage_of(influence)


@pytest.mark.parametrize(
    "tolerance",
    [-1, np.nan, [0, 0], np.zeros((3, 3)), [[0, 1], [2, 0]], [[0, np.nan], [np.nan, 0]]],
)
def test_bad_tolerance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        solve_order(np.zeros((2, 2)), tolerance)


@pytest.mark.parametrize("error", [[[0, -1], [0, 0]], [[0, np.nan], [0, 0]], [[0, 1]]])
def test_bad_standard_error_is_refused(error):
    with pytest.raises(ValueError, match="error"):
        tolerance_of(error)


@pytest.mark.parametrize("order", [[0], [0, 0], [1, 2], [[0, 1]]])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(ValueError, match="must hold each of 0..1 once"):
        order_cost(np.zeros((2, 2)), order)
