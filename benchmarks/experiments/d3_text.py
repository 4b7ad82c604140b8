# SPDX-License-Identifier: Apache-2.0
"""Does pacing gain anything on real text, over the console alone?

Run: python benchmarks/experiments/d3_text.py WORK [--seeds 0 1 2 3 4] [--steps 120]
WORK holds the corpus of `moot corpus local` (made here if it is missing) and the runs; a run that
is there is not run again. Two runs at a time, one thread each. Per seed: the console with inline
labels, the console with stored ones, and with stored ones paced: units are the labels' joint cells,
merged to 16, edges by look-ahead, measured once in two horizons. All train on equally many tokens;
probes are not counted as training. `--out FILE` writes FILE.json and FILE.md.
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
from moot.trainer.config import ScheduleSettings
from moot.trainer.corpora import LocalConfig, build_local
from moot.trainer.demo import demo_config
from moot.trainer.train import Trainer

ARMS = ("inline", "stored", "paced 0.2", "paced 1")
HORIZON, ROUND = 20, 5


def config_of(work, arm, seed, steps):
    """Return the run of an arm."""
    config = demo_config(work, "console", seed, steps)
    labels = "inline" if arm == "inline" else "stored"
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
            delta=float(arm.split()[1]),
            edges="lookahead",
            probes_per_unit=8,
            max_probe_tokens=32,
            refresh_rounds=2 * HORIZON // ROUND,
        )
    train = dataclasses.replace(config.train, threads=1, eval_steps=40)
    out = str(work / "runs" / f"{arm}-{seed}".replace(" ", "-"))
    parts = {"data": data, "console": console, "schedule": schedule, "train": train, "out": out}
    return dataclasses.replace(config, **parts)


def run(config):
    """Train one run, or read what is there; return its figures."""
    summary = Trainer(config).run()
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    kept = {key: last[key] for key in last if key.startswith("schedule/")}
    return {**summary, "schedule": kept}


def table_of(rows):
    """Return a Markdown table of means, ranges and paired differences."""
    lines = [
        "| arm | reference loss | held-out loss | held-out, less stored of the same seed | "
        "binding pairs | s | of which probes |",
        "|---|---|---|---|---|---|---|",
    ]
    base = {row["seed"]: row["heldout_loss"] for row in rows if row["arm"] == "stored"}
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        gaps = [row["heldout_loss"] - base[row["seed"]] for row in mine]
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
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--size", type=int, default=12_000_000, help="bytes of text")
    parser.add_argument("--out", type=Path, help="without suffix")
    args = parser.parse_args()
    corpus = str((args.work / "corpus").resolve())
    build_local(corpus, LocalConfig(size_bytes=args.size))
    fit(corpus, FitConfig())
    if not (Path(corpus) / "train/labels.parquet").exists():
        label_corpus(f"{corpus}/train", AgentSet.load(open_store(corpus)), num_threads=2)
    wanted = [(arm, seed) for seed in args.seeds for arm in ARMS]
    configs = [config_of(args.work, arm, seed, args.steps) for arm, seed in wanted]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, configs))
    rows = [
        {"arm": arm, "seed": seed, **result}
        for (arm, seed), result in zip(wanted, results, strict=True)
    ]
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
