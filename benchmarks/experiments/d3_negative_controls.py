# SPDX-License-Identifier: Apache-2.0
"""Where D3 should not help: units that share weights, and a stream in which order means nothing.

1. Units that share weights. Unit d pulls one weight vector w of 16 to its own w_d, a noisy copy of
a common one, through inputs of its own 6 directions: what one unit learns another unlearns. Final
loss: the sum over units. 12 steps a unit at learning rate 0.3, noise on every gradient. Compared:
blocks of one unit, in the order that look-ahead at the start gives and as labelled; a random
interleave; rounds of K steps of the schedule with look-ahead edges learnt online, ordered inside or
mixed.
2. The gate on a stationary stream: chunks whose drops differ by noise alone (normal, heavy tails, a
level that drifts), 4,000 pairs; the share of runs in which it ever opens, against alpha.
Run: python benchmarks/experiments/d3_negative_controls.py
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
from moot.loader.schedule import (
    Gate,
    GateConfig,
    Schedule,
    ScheduleConfig,
    advantage_of,
    solve_order,
)

ETA, NOISE, STEPS, DRAWS = 0.3, 0.05, 12, 8
DIM, OWN, APART = 16, 6, 0.7
DELTAS = (0.0, 0.2, 0.5, 1.0)
PAIRS = 4000
RESULTS = Path(__file__).parents[1] / "results"
NAME = "d3_negative_controls_xeon2_202612"


class Shared:
    """K units that pull one weight vector in directions that overlap."""

    def __init__(self, num_units: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.w = np.zeros(DIM)
        common = rng.normal(size=DIM)
        self._targets = common + APART * rng.normal(size=(num_units, DIM))
        bases = rng.normal(size=(num_units, DIM, OWN))
        self._bases = np.linalg.qr(bases)[0]

    def losses(self, w: np.ndarray) -> np.ndarray:
        """Return each unit's loss, [K]."""
        seen = np.einsum("kdo,kd->ko", self._bases, w - self._targets)
        return (seen**2).sum(axis=1) / 2

    def step(self, w: np.ndarray, unit: int) -> np.ndarray:
        """Return the weights after one noisy step on a unit."""
        base = self._bases[unit]
        gradient = base @ (base.T @ (w - self._targets[unit]))
        return w - ETA * (gradient + NOISE * self._rng.normal(size=DIM))

    def train(self, order: np.ndarray) -> float:
        """Train single steps in this order; return the total loss after them."""
        for unit in order:
            self.w = self.step(self.w, unit)
        return float(self.losses(self.w).sum())

    def lookahead(self) -> tuple[np.ndarray, np.ndarray]:
        """Return influence and its standard errors from a few noisy steps on every unit."""
        num_units = len(self._targets)
        before = self.losses(self.w)
        changes = np.stack([
            [self.losses(self.step(self.w, unit)) - before for _ in range(DRAWS)]
            for unit in range(num_units)
        ])
        return changes.mean(axis=1), changes.std(axis=1, ddof=1) / np.sqrt(DRAWS)


def blocks_by_lookahead(units: Shared, num_units: int) -> float:
    """Train blocks of one unit, in the order that look-ahead at the start gives."""
    influence, _ = units.lookahead()
    return units.train(np.repeat(solve_order(advantage_of(influence)), STEPS))


def paced(units: Shared, num_units: int, inside: str, delta: float) -> float:
    """Train with the schedule, edges learnt online."""
    config = ScheduleConfig(
        horizon_steps=STEPS * num_units,
        round_steps=num_units,
        lag_rounds=0,
        delta=delta,
        edges="lookahead",
        inside="ordered",
    )
    schedule = Schedule([STEPS] * num_units, config)
    loss = 0.0
    for round_id in range(STEPS):
        schedule.observe(round_id, units.losses(units.w), *units.lookahead())
        made = schedule.rounds[-1]
        order = np.repeat(made.order, made.counts[made.order])
        if inside == "mixed":
            order = np.random.default_rng(round_id).permutation(order)
        loss = units.train(order)
    return loss


def measure_units(num_units: int, seeds: int) -> list[dict]:
    """Return a row a way of training."""
    labelled = np.repeat(np.arange(num_units), STEPS)
    ways = {
        "random interleave": lambda units, rng: units.train(rng.permutation(labelled)),
        "blocks, as labelled": lambda units, rng: units.train(labelled),
        "blocks, look-ahead": lambda units, rng: blocks_by_lookahead(units, num_units),
    }
    for inside in ("mixed", "ordered"):
        for delta in DELTAS:
            ways[f"rounds {inside}, delta {delta:g}"] = (
                lambda units, rng, i=inside, d=delta: paced(units, num_units, i, d)
            )
    rows = []
    for name, way in ways.items():
        losses = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            losses.append(way(Shared(num_units, rng), rng))
        error = float(np.std(losses, ddof=1) / np.sqrt(seeds))
        rows.append({"K": num_units, "way": name, "loss": float(np.mean(losses)), "error": error})
    return rows


def opens(draw: Callable[[np.random.Generator], np.ndarray], seed: int) -> bool:
    """Return whether a gate ever opens on pairs of such drops."""
    rng, gate = np.random.default_rng(seed), Gate(GateConfig(seed=seed, trial_every=1))
    for _ in range(PAIRS):
        gate.begin(0.0)
        for drop in draw(rng).tolist():
            gate.observe(drop)
        if gate.is_open:
            return True
    return False


def measure_gate(runs: int) -> list[dict]:
    """Return how often the gate opens where ordering changes nothing."""
    draws = {
        "normal": lambda rng: rng.normal(size=2),
        "Student t, 2 degrees": lambda rng: rng.standard_t(2, size=2),
        "drifting level": lambda rng: rng.normal(size=2) + 5 * rng.normal(),
    }
    rows = []
    for name, draw in draws.items():
        share = sum(opens(draw, seed) for seed in range(runs)) / runs
        error = (share * (1 - share) / runs) ** 0.5
        rows.append({"drops": name, "opened": share, "error": error, "runs": runs})
    return rows


def table(units: list[dict], gates: list[dict]) -> str:
    """Return both as Markdown."""
    sizes = sorted({row["K"] for row in units})
    lines = ["| way | " + " | ".join(f"K = {k}" for k in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for name in dict.fromkeys(row["way"] for row in units):
        mine = [row for row in units if row["way"] == name]
        cells = [f"{row['loss']:.2f} ± {row['error']:.2f}" for row in mine]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"| drops | runs that opened within {PAIRS:,} trials | alpha |", "|---|---|---|"]
    for row in gates:
        lines.append(f"| {row['drops']} | {row['opened']:.3f} ± {row['error']:.3f} | 0.05 |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=400, help="of the gate")
    parser.add_argument("--out", type=Path, default=RESULTS / NAME)
    options = parser.parse_args()
    units = [row for k in (4, 6, 8) for row in measure_units(k, options.seeds)]
    gates = measure_gate(options.runs)
    text = table(units, gates)
    print(text)
    facts = {"python": platform.python_version(), "numpy": np.__version__, "seeds": options.seeds}
    whole = {"facts": facts, "units": units, "gate": gates}
    options.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    head = f"# Negative controls\n\n{__doc__.strip()}\n\n"
    head += f"Means ± standard errors; units: {options.seeds} seeds, gate: {options.runs} runs.\n\n"
    options.out.with_suffix(".md").write_text(head + text + "\n")


if __name__ == "__main__":
    main()
