# SPDX-License-Identifier: Apache-2.0
"""Why these defaults of the console: how good is its selection after 1, 5 and 20 refreshes?

Run: python benchmarks/experiments/console_simulation.py [--seeds 24] [--out FILE.json]
A simulation, no training: three independent agents of 5, 7 and 13 states, whose states explain
given shares of the reward's variance; the rest is Student-t noise (3 degrees of freedom). 192
probes a refresh, a quarter kept of 4,000 candidates drawn anew. Efficiency is the mean worth of
what is kept over that of the best quarter of the same candidates. Prints Markdown: means over
seeds after 1 / 5 / 20 refreshes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from moot.loader.agents import AgentInfo, AgentSet
from moot.loader.console import Console, ConsoleConfig
from moot.loader.probes.stratify import stratify
from moot.triton_kernels.document_scores import NgramModel

AGENTS = {"quality": 5, "domain": 7, "topic": 13}
EXPLAINED = ((0.10, 0.03, 0.03), (0.30, 0.10, 0.05), (0.10, 0.0, 0.0))
VARIANTS = {
    "defaults": {},
    "theta frozen": {"freeze_theta": True},
    "eta 1, tau 0.5": {"eta": 1.0, "tau": 0.5},
    "theta_discount 1": {"theta_discount": 1.0},
    "shrink 4": {"shrink": 4.0},
    "shrink 20": {"shrink": 20.0},
    "shrink 50": {"shrink": 50.0},
    "temperature 0": {"temperature": 0.0},
    "temperature 0.25": {"temperature": 0.25},
}
REFRESHES, SHOWN = 20, (1, 5, 20)
PROBES, CANDIDATES, KEPT = 192, 4000, 1000


def make_agents(shares):
    """Return agents without a text model whose states are independent in the pool."""
    infos = tuple(
        AgentInfo(name, num, tuple(f"{name}{state}" for state in range(num)), "stored", name)
        for name, num in AGENTS.items()
    )
    grid = np.meshgrid(*[np.arange(num) for num in AGENTS.values()], indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, len(AGENTS)).astype(np.int32)
    share = np.prod([s[cells[:, a]] for a, s in enumerate(shares)], axis=0)
    model = NgramModel(
        table=torch.zeros(2, 16, dtype=torch.int8),
        heads=torch.zeros(1, 16, dtype=torch.int16),
        bias=torch.zeros(1, dtype=torch.int32),
        scale=torch.ones(1),
        orders=(1,),
    )
    return AgentSet(infos, model, cells, share / share.sum())


def draw(rng, shares, num):
    """Return the states of `num` documents of the pool, [num, agents] int32."""
    return np.stack([rng.choice(len(s), size=num, p=s) for s in shares], axis=1).astype(np.int32)


def worth(effects, states):
    """Return what documents are worth: the sum of their states' effects."""
    return sum(effect[states[:, agent]] for agent, effect in enumerate(effects))


def efficiency(rng, policy, shares, effects):
    """Return the worth of what the policy keeps over that of the best."""
    states = draw(rng, shares, CANDIDATES)
    votes = np.stack([policy.memory[a, states[:, a]] for a in range(len(shares))], axis=1)
    scores = ((votes - policy.shift) * policy.scale * policy.theta).sum(axis=1)
    scores = scores + policy.temperature * rng.gumbel(size=CANDIDATES)
    values = worth(effects, states)
    return values[np.argsort(-scores)[:KEPT]].mean() / np.sort(values)[-KEPT:].mean()


def simulate(seed, explained, settings):
    """Return efficiency [refreshes] and the last theta of one simulated run."""
    rng = np.random.default_rng(seed)
    shares = [rng.dirichlet(np.full(num, 3.0)) for num in AGENTS.values()]
    effects = []
    for share, variance in zip(shares, explained, strict=True):
        effect = rng.normal(size=len(share))
        effect -= share @ effect
        effects.append(effect * np.sqrt(variance / (share @ effect**2)))
    agents = make_agents(shares)
    console = Console(ConsoleConfig(refresh_steps=10, policy_lag=2, **settings), agents)
    noise = np.sqrt((1 - sum(explained)) / 3)  # Student's t of 3 degrees has variance 3
    reached = []
    for refresh in range(1, REFRESHES + 1):
        pool = draw(rng, shares, 6 * PROBES)
        seed_of_draw = int(rng.integers(1 << 60))
        chosen = stratify(pool, agents.cells(pool), PROBES, seed_of_draw, "default")
        states = pool[chosen.indices]
        rewards = worth(effects, states) + noise * rng.standard_t(3, size=PROBES)
        ids = np.arange(PROBES)
        policy = console.credit(refresh, ids, states, chosen.weights, rewards, None)
        reached.append(efficiency(rng, policy, shares, effects))
    return np.array(reached), policy.theta


def main():
    """Simulate every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    heads = [", ".join(f"{share:.2f}" for share in explained) for explained in EXPLAINED]
    print(f"| explained | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    rows = []
    for name, settings in VARIANTS.items():
        cells = []
        for explained in EXPLAINED:
            runs = [simulate(seed, explained, settings) for seed in range(args.seeds)]
            reached = np.array([run[0] for run in runs])
            theta = np.mean([run[1] for run in runs], axis=0)
            cells.append(" / ".join(f"{reached[:, r - 1].mean():.2f}" for r in SHOWN))
            row = {"variant": name, "settings": settings, "explained": explained}
            row |= {"efficiency": reached.tolist(), "theta": theta.tolist()}
            rows.append(row)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    thetas = [" ".join(f"{t:.2f}" for t in row["theta"]) for row in rows[: len(EXPLAINED)]]
    print(f"| theta after {REFRESHES}, defaults | {' | '.join(thetas)} |")
    if args.out:
        args.out.write_text(json.dumps({"seeds": args.seeds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
