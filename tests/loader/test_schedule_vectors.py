# SPDX-License-Identifier: Apache-2.0
"""Known answers: the paper's worked examples, shipped skill graphs, and the prerequisite chain."""

import json
from pathlib import Path

import numpy as np
import pytest
from moot.loader.schedule import (
    advantage_of,
    forward_weight,
    lookahead,
    order_cost,
    published_influence,
    published_order,
    solve_order,
)

VECTORS = json.loads((Path(__file__).parent / "data" / "d3.json").read_text())


def test_paper_d1_from_losses_to_the_order():
    vector = VECTORS["paper_d1"]
    advantage = advantage_of(vector["loss_change"])
    np.testing.assert_allclose(advantage, vector["S"], rtol=0, atol=1e-15)
    for order, cost in vector["violation_cost"].items():
        actual = order_cost(advantage, [int(unit) for unit in order.split(",")])
        assert actual == pytest.approx(cost, abs=1e-12)
    assert solve_order(advantage).tolist() == vector["optimum"]


def test_paper_b1_row_sums_stop_short_of_the_optimum():
    vector = VECTORS["paper_b1"]
    advantage = np.array(vector["S"])
    assert advantage.sum(axis=1).tolist() == vector["row_sums"]
    rows = published_order(advantage, seed=0, num_swaps=0)
    assert rows.tolist() == vector["row_sum_order"]
    assert forward_weight(advantage, rows) == vector["row_sum_forward_weight"]
    assert order_cost(advantage, rows) == vector["row_sum_cost"]
    assert published_order(advantage, seed=0).tolist() == vector["optimum"]  # the swaps find it
    order = solve_order(advantage)
    assert order.tolist() == vector["optimum"]
    assert forward_weight(advantage, order) == vector["optimum_forward_weight"]
    assert order_cost(advantage, order) == vector["optimum_cost"]


def test_paper_b1_prints_two_forward_weights_that_are_not():
    advantage = np.array(VECTORS["paper_b1"]["S"])
    assert forward_weight(advantage, [1, 0, 2, 3, 4]) == 39  # printed: 35
    assert forward_weight(advantage, [1, 0, 3, 2, 4]) == 19  # printed: 37


@pytest.mark.parametrize("name", ["skill_it_spanish_qg", "aioli_arxiv_book_stackexchange"])
def test_shipped_skill_graphs_have_an_order_without_violations(name):
    vector = VECTORS[name]
    advantage = advantage_of(-np.array(vector["benefit"]))
    order = solve_order(advantage)
    assert order.tolist() == vector["order"]
    assert order_cost(advantage, order) == vector["cost"] == 0
    if "forward_weight" in vector:
        assert forward_weight(advantage, order) == pytest.approx(vector["forward_weight"])


class Chain:
    """Unit d trains a_d alone, on (a_{d-1} a_d - 1)^2 / 2 with a_{d-1} frozen and a_{-1} = 1."""

    ETA = 0.2

    def __init__(self, num_units, rng):
        self.a = 0.05 * np.exp(0.1 * rng.normal(size=num_units))
        self.depth = rng.permutation(num_units)  # label -> depth
        self.label = np.argsort(self.depth)

    def losses(self, a):
        """Losses by label."""
        return ((np.append(1.0, a[:-1]) * a - 1) ** 2 / 2)[self.depth]

    def gradients(self):
        """[N, N] by label and parameter."""
        before = np.append(1.0, self.a[:-1])
        return np.diag((before * self.a - 1) * before)[self.depth]

    def advantage(self):
        steps = [self.losses(self.a - self.ETA * step) for step in self.gradients()]
        return advantage_of(lookahead(self.losses(self.a), steps))

    def printed_advantage(self):
        curvature = np.diag(np.append(1.0, self.a[:-1]) ** 2)[self.depth]
        return advantage_of(published_influence(self.gradients(), curvature, 100 * self.ETA))

    def train(self, order):
        """Total loss after single steps on units in this order of labels."""
        a = self.a.copy()
        for d in self.depth[order]:
            before = a[d - 1] if d else 1.0
            a[d] -= self.ETA * (before * a[d] - 1) * before
        return self.losses(a).sum()


@pytest.mark.parametrize(("num_units", "steps"), [(4, 15), (6, 12), (8, 12)])
def test_prerequisite_chain_ends_as_low_as_the_true_order(num_units, steps):
    rng = np.random.default_rng(0)
    ends = {"truth_order": [], "random_interleave": [], "printed_algorithm_4": []}
    for trial in range(100):
        chain = Chain(num_units, rng)
        order = solve_order(chain.advantage())
        assert np.array_equal(order, chain.label)
        printed = published_order(chain.printed_advantage(), seed=trial)
        ends["truth_order"].append(chain.train(np.repeat(chain.label, steps)))
        ends["printed_algorithm_4"].append(chain.train(np.repeat(printed, steps)))
        mixed = rng.permutation(np.repeat(chain.label, steps))
        ends["random_interleave"].append(chain.train(mixed))
    mean = {name: np.mean(losses) for name, losses in ends.items()}
    assert 10 * mean["truth_order"] < mean["random_interleave"] < mean["printed_algorithm_4"]
    known = VECTORS["prerequisite_chain"]
    for name, losses in ends.items():
        expected = known[name][f"K{num_units}_n{steps}"]
        chance = 3 * np.std(losses) / 10  # the known means are of a hundred trials themselves
        assert mean[name] == pytest.approx(expected, abs=max(0.1 * expected, chance)), name
