# SPDX-License-Identifier: Apache-2.0
"""Does pacing with edges learnt online beat the console's mix where units build on each other?

A chain of K units: unit d trains a_d alone, on (a_{d-1} a_d - 1)^2 / 2 with a_{d-1} frozen, at
learning rate 0.2, 12 steps a unit, noise of 0.05 on every gradient; labels hide the depths.
Compared: the true order, a random interleave, its reverse, and rounds of K steps, ordered inside,
with delta 0 (the console's mix) and above. Their edges are the true graph, or learnt online: by
look-ahead from 8 noisy steps a unit at the start of each round, averaged, with standard errors from
those steps; or by regression on the probe losses alone. Losses are totals at the end. The probes'
8 K steps a round are not counted as training.
Run: python benchmarks/experiments/d3_prerequisites.py
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from moot.loader.schedule.config import ScheduleConfig
from moot.loader.schedule.pacing import Belief, pace
from moot.loader.schedule.schedule import Schedule
from moot.loader.schedule.solve import solve_order

ETA, NOISE, STEPS, DRAWS = 0.2, 0.05, 12, 8
DELTAS = (0.0, 0.2, 0.5, 1.0)
FLOOR = 0.1  # the default of a schedule
LEAST_LOSS = 1e-3  # drops are divided by the loss; below it noise alone is left
RESULTS = Path(__file__).parents[1] / "results"
NAME = "d3_prerequisites_xeon2_202612"


class Chain:
    """K units whose labels hide their depth."""

    def __init__(self, num_units: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.a = 0.05 * np.exp(0.1 * rng.normal(size=num_units))
        self.depth = rng.permutation(num_units)
        self.label = np.argsort(self.depth)

    def losses(self, a: np.ndarray) -> np.ndarray:
        """Return the losses by label."""
        return ((np.append(1.0, a[:-1]) * a - 1) ** 2 / 2)[self.depth]

    def step(self, a: np.ndarray, unit: int) -> None:
        """Train one step on a unit."""
        d = self.depth[unit]
        before = a[d - 1] if d else 1.0
        a[d] -= ETA * ((before * a[d] - 1) * before + NOISE * self._rng.normal())

    def train(self, order: np.ndarray) -> float:
        """Train single steps in this order of labels; return the total loss after them."""
        for unit in order:
            self.step(self.a, unit)
        return float(self.losses(self.a).sum())

    def lookahead(self) -> tuple[np.ndarray, np.ndarray]:
        """Return influence and its standard errors from a few noisy steps on every unit."""
        num_units = len(self.a)
        changes = np.empty((num_units, num_units, DRAWS))
        for unit in range(num_units):
            for draw in range(DRAWS):
                a = self.a.copy()
                self.step(a, unit)
                changes[unit, :, draw] = self.losses(a) - self.losses(self.a)
        return changes.mean(axis=2), changes.std(axis=2, ddof=1) / np.sqrt(DRAWS)


def paced(chain: Chain, edges: str, delta: float) -> float:
    """Train with the schedule, edges learnt online; return the total loss."""
    num_units = len(chain.a)
    config = ScheduleConfig(
        horizon_steps=STEPS * num_units,
        round_steps=num_units,
        lag_rounds=0,
        delta=delta,
        edges="lookahead" if edges == "lookahead" else "regression",
        inside="ordered",
    )
    schedule = Schedule([STEPS] * num_units, config)
    loss = 0.0
    for round_id in range(STEPS):
        losses = np.maximum(chain.losses(chain.a), LEAST_LOSS)
        measured = chain.lookahead() if edges == "lookahead" else ()
        schedule.observe(round_id, losses, *measured)
        made = schedule.rounds[-1]
        loss = chain.train(np.repeat(made.order, made.counts[made.order]))
    return loss


def paced_by_truth(chain: Chain, delta: float) -> float:
    """Train with rounds paced by the chain's own graph."""
    num_units = len(chain.a)
    advantage = np.zeros((num_units, num_units))
    advantage[chain.label[:-1], chain.label[1:]] = 1
    advantage -= advantage.T
    belief = Belief(advantage, solve_order(advantage), delta, num_units - 1)
    remaining, loss = np.full(num_units, STEPS), 0.0
    while remaining.any():
        made = pace(remaining, num_units, belief, FLOOR)
        remaining = remaining - made.counts
        loss = chain.train(np.repeat(made.order, made.counts[made.order]))
    return loss


def measure(num_units: int, seeds: int) -> list[dict]:
    """Return a row a way of training."""
    ways = {
        "true order": lambda chain, rng: chain.train(np.repeat(chain.label, STEPS)),
        "random interleave": lambda chain, rng: chain.train(
            rng.permutation(np.repeat(chain.label, STEPS))
        ),
        "reverse order": lambda chain, rng: chain.train(np.repeat(chain.label[::-1], STEPS)),
    }
    for delta in DELTAS:
        ways[f"true graph, delta {delta:g}"] = lambda chain, rng, d=delta: paced_by_truth(chain, d)
        for edges in ("lookahead", "regression"):
            ways[f"{edges}, delta {delta:g}"] = lambda chain, rng, e=edges, d=delta: paced(
                chain, e, d
            )
    rows = []
    for name, way in ways.items():
        losses = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            losses.append(way(Chain(num_units, rng), rng))
        error = np.std(losses, ddof=1) / np.sqrt(seeds)
        row = {"K": num_units, "way": name, "loss": np.mean(losses), "error": error}
        rows.append(row | {"median": np.median(losses), "seeds": seeds})
        print(f"K {num_units}  {name:28s} {row['loss']:.4f} +- {error:.4f}", flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown, a column a K."""
    sizes = sorted({row["K"] for row in rows})
    lines = [
        "| way | " + " | ".join(f"K = {k}" for k in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in dict.fromkeys(row["way"] for row in rows):
        cells = [
            f"{row['loss']:.4f} ± {row['error']:.4f}"
            for k in sizes
            for row in rows
            if row["K"] == k and row["way"] == name
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS / NAME)
    options = parser.parse_args()
    rows = [row for num_units in (4, 6, 8) for row in measure(num_units, options.seeds)]
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    body = {"settings": {"eta": ETA, "noise": NOISE, "steps": STEPS, "draws": DRAWS}} | versions
    options.out.with_suffix(".json").write_text(json.dumps(body | {"rows": rows}, indent=1) + "\n")
    text = f"# Prerequisite chain\n\n{__doc__.strip()}\n\n"
    text += (
        f"Mean ± standard error over {options.seeds} seeds, each with its own chain; 12 steps a "
    )
    text += f"unit, rounds of K steps, floor 0.1.\n\n{table(rows)}\n"
    options.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
