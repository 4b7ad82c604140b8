# SPDX-License-Identifier: Apache-2.0
"""How long do the order solvers take, and what do their orders cost?

    python benchmarks/bench_order_solvers.py [--units 60 200] [--seeds 9] [--out FILE.json]

Random dense advantages, with and without cycles. Solvers are interleaved; medians of CPU time
with their range, and the mean cost as a share of the largest possible. "networkx_components" is
the graph part of solve_order by a graph library, for comparison; it orders nothing inside a cycle.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import networkx
import numpy as np
from moot.loader.schedule import order_cost, published_order, solve_order
from stream.environment import commit, machine


def make_advantage(num_units: int, kind: str, seed: int) -> np.ndarray:
    """A dense random S; "acyclic" has an order that violates nothing."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(num_units, num_units)), 1)
    if kind == "acyclic":
        names = rng.permutation(num_units)
        upper = np.abs(upper)[np.ix_(names, names)]
    return upper - upper.T


def networkx_components(advantage: np.ndarray) -> list[int]:
    """Components in topological order, by networkx."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(advantage)))
    graph.add_edges_from(np.argwhere(advantage > 0).tolist())
    condensed = networkx.condensation(graph)
    order = networkx.lexicographical_topological_sort(condensed)
    return [unit for node in order for unit in condensed.nodes[node]["members"]]


def measure(num_units: int, kind: str, num_seeds: int) -> list[dict]:
    """One row a solver."""
    solvers = {
        "solve_order": solve_order,
        "published_order": lambda advantage: published_order(advantage, seed=0),
        "networkx_components": networkx_components,
    }
    times = {name: [] for name in solvers}
    costs = {name: [] for name in solvers}
    for seed in range(num_seeds):
        advantage = make_advantage(num_units, kind, seed)
        for name, solve in solvers.items():
            start = time.process_time()
            order = solve(advantage)
            times[name].append(1e3 * (time.process_time() - start))
            worst = np.maximum(advantage, 0).sum()
            costs[name].append(order_cost(advantage, order) / worst)
    return [
        {
            "solver": name,
            "units": num_units,
            "graph": kind,
            "median_ms": round(statistics.median(times[name]), 2),
            "range_ms": [round(min(times[name]), 2), round(max(times[name]), 2)],
            "cost_share": round(statistics.mean(costs[name]), 4),
        }
        for name in solvers
    ]


def main() -> None:
    """Measure and print one JSON line a row, optionally write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    assert solve_order([[0, -1], [1, 0]]).tolist() == [
        1,
        0,
    ]  # imports and first calls go unmeasured
    facts = {"commit": commit(), **machine()}
    facts |= {"numpy": np.__version__, "networkx": networkx.__version__}
    rows = [
        row | facts
        for num_units in options.units
        for kind in ("acyclic", "cyclic")
        for row in measure(num_units, kind, options.seeds)
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    print(lines)
    if options.out:
        options.out.write_text(lines + "\n")


if __name__ == "__main__":
    main()
