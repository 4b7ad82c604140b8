# SPDX-License-Identifier: Apache-2.0
"""Does pacing gain anything on real text, over the console alone?

Run: python benchmarks/experiments/d3_text.py WORK [--seeds 0 1 2 3 4] [--steps 120]
WORK holds the corpus of `moot corpus local` (made here if it is missing) and the runs; a run that
is there is not run again. Two runs at a time, one thread each. Per seed: the console with inline
labels, the console with stored ones, and with stored ones paced: units are the labels' joint cells,
merged to 16, edges by look-ahead, measured once in two horizons. "ordered" also orders the batches
of chunks of five steps behind the gate, which is tried at every pair; the random stream, on which
the gate must stay closed, stands beside itself ordered. All train on equally many tokens; probes
are not counted as training. `--out FILE` writes FILE.json and FILE.md; what FILE.json has is kept.
"""

import argparse
import dataclasses
import json
import multiprocessing
import platform
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from moot.loader import AgentSet, ConsoleConfig
from moot.loader.label import FitConfig, fit, label_corpus
from moot.loader.storage import open_store
from moot.trainer.config import OrderSettings, ScheduleSettings
from moot.trainer.corpora import LocalConfig, build_local
from moot.trainer.demo import demo_config
from moot.trainer.train import Trainer

ARMS = (
    *("inline", "stored", "paced 0.2", "paced 1", "paced 0.2, ordered"),
    *("random", "random, ordered"),
)
HORIZON, ROUND = 20, 5


def config_of(work, arm, seed, steps):
    """Return the run of an arm."""
    kind = "random" if arm.startswith("random") else "console"
    config = demo_config(work, kind, seed, steps)
    labels = "stored" if arm.startswith(("stored", "paced")) else "inline"
    data = dataclasses.replace(config.data, labels=labels, max_units=16)
    console = ConsoleConfig(
        refresh_steps=HORIZON, policy_lag=ROUND, shrink=50.0, temperature=0.25
    )
    schedule = None
    if arm.startswith("paced"):
        schedule = ScheduleSettings(
            horizon_steps=HORIZON,
            round_steps=ROUND,
            lag_rounds=1,
            delta=float(arm.split()[1].strip(",")),
            edges="lookahead",
            probes_per_unit=8,
            max_probe_tokens=32,
            refresh_rounds=2 * HORIZON // ROUND,
        )
    train = dataclasses.replace(config.train, threads=1, eval_steps=40)
    order = config.order
    if arm.endswith("ordered"):
        order = OrderSettings(mode="commutator", chunk_steps=ROUND, trial_every=1)
    out = str(work / "runs" / f"{arm}-{seed}".replace(", ", "-").replace(" ", "-"))
    parts = {"data": data, "console": console, "schedule": schedule, "train": train, "out": out}
    parts["order"] = order
    return dataclasses.replace(config, **parts)


def run(config):
    """Train one run, or read what is there; return its figures."""
    summary = Trainer(config).run()
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    kept = {key: last[key] for key in last if key.startswith("schedule/")}
    kept |= {key: last[key] for key in last if key.startswith("order/")}
    return {**summary, "schedule": kept}


def table_of(rows):
    """Return a Markdown table of means, ranges and paired differences."""
    lines = [
        "| arm | reference loss | held-out loss | held-out, less that of stored labels (random: of "
        "random), same seed | binding pairs | s | of which probes | gates open | trials | cost of "
        "ordering |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    losses = {(row["arm"], row["seed"]): row["heldout_loss"] for row in rows}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        base = "random" if arm.startswith("random") else "stored"
        gaps = [row["heldout_loss"] - losses[base, row["seed"]] for row in mine]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        edges = [row["schedule"].get("schedule/edges", 0.0) for row in mine]
        cells = [arm]
        for name in ("reference_loss", "heldout_loss"):
            values = [row[name] for row in mine]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        cells.append(f"{statistics.mean(gaps):+.4f} +- {error:.4f}")
        cells.append(f"{statistics.mean(edges):.0f}")
        for name in ("wall_s", "probes_s"):
            cells.append(f"{statistics.mean(row[name] for row in mine):.0f}")
        for name in ("schedule/gate_open", "schedule/gate_trials", "order/cost(%)"):
            values = [row["schedule"].get(name) for row in mine]
            known = [value for value in values if value is not None]
            cells.append(f"{statistics.mean(known):.1f}" if known else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--size", type=int, default=12_000_000, help="bytes of text")
    parser.add_argument("--out", type=Path, help="without suffix")
    args = parser.parse_args()
    corpus = str((args.work / "corpus").resolve())
    build_local(corpus, LocalConfig(size_bytes=args.size))
    fit(corpus, FitConfig())
    if not (Path(corpus) / "train/labels.parquet").exists():
        label_corpus(f"{corpus}/train", AgentSet.load(open_store(corpus)), num_threads=2)
    wanted = [(arm, seed) for seed in args.seeds for arm in args.arms]
    configs = [config_of(args.work, arm, seed, args.steps) for arm, seed in wanted]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, configs))
    rows = [
        {"arm": arm, "seed": seed, **result}
        for (arm, seed), result in zip(wanted, results, strict=True)
    ]
    if args.out and args.out.with_suffix(".json").exists():
        there = json.loads(args.out.with_suffix(".json").read_text())["runs"]
        rows = [row for row in there if (row["arm"], row["seed"]) not in wanted] + rows
    table = table_of(rows)
    print(table)
    if args.out:
        facts = {
            "command": f"d3_text.py WORK --steps {args.steps} --size {args.size}",
            "seeds": args.seeds,
            "python": platform.python_version(),
            "machine": json.loads((Path(configs[0].out) / "run.json").read_text())["machine"],
        }
        whole = {"facts": facts, "runs": rows}
        args.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table + "\n")


if __name__ == "__main__":
    main()
