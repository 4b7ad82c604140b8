# SPDX-License-Identifier: Apache-2.0
"""Does the console beat random selection for the same tokens, and is it the rewards that do it?

Run: python benchmarks/experiments/console_against_random.py WORK [--seeds 0 1 2] [--steps 250]
WORK holds the corpus of `moot corpus local` (made here if it is missing) and the runs; a run that
is there is not run again, so the script may be stopped and started. Per seed: random, the
console, and two controls: rewards shuffled among the probes, and theta fixed. Seeds vary the
order, the model and the probes; the corpus is one. `--out FILE.md` writes the table and, beside
it, every run's evaluations as JSON.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
from moot.loader.label import FitConfig, fit
from moot.trainer.corpora import LocalConfig, build_local
from moot.trainer.demo import demo_config
from moot.trainer.display import Display
from moot.trainer.train import Trainer
from rich.console import Console as Terminal

VARIANTS = ("random", "console", "shuffled rewards", "theta fixed")


def config_of(work, variant, seed, steps):
    """Return the run of a variant; the controls are the console with one thing changed."""
    kind = variant if variant in ("random", "threshold") else "console"
    config = demo_config(work, kind, seed, steps)
    if variant == "shuffled rewards":
        feedback = dataclasses.replace(config.feedback, shuffle_rewards=True)
        config = dataclasses.replace(config, feedback=feedback)
    if variant == "theta fixed":
        console = dataclasses.replace(config.console, freeze_theta=True)
        config = dataclasses.replace(config, console=console)
    return dataclasses.replace(
        config, out=str(work / "runs" / f"{variant}-{seed}".replace(" ", "-"))
    )


def evals_of(config):
    """Return tokens, reference and held-out loss of a run's evaluations."""
    text = (Path(config.out) / "evals.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def tokens_to_reach(evals, level, name):
    """Return where a loss first falls to `level`, linear between evaluations; None if never."""
    losses, tokens = evals[name], evals["tokens"]
    below = np.flatnonzero(losses <= level)
    if len(below) == 0:
        return None
    i = below[0]
    if i == 0:
        return float(tokens[0])
    share = (losses[i - 1] - level) / (losses[i - 1] - losses[i])
    return float(tokens[i - 1] + share * (tokens[i] - tokens[i - 1]))


def rows_of(work, seeds, steps, display):
    """Run what is missing and return one row a run."""
    rows = []
    for seed in seeds:
        for variant in VARIANTS:
            config = config_of(work, variant, seed, steps)
            summary = Trainer(config, display.run(f"{variant} {seed}")).run()
            rows.append({"variant": variant, "seed": seed, **summary, "evals": evals_of(config)})
    for row in rows:
        base = next(r for r in rows if r["variant"] == "random" and r["seed"] == row["seed"])
        for name in ("heldout_loss", "reference_loss"):
            reached = tokens_to_reach(row["evals"], base[name], name)
            row[f"{name}_tokens_x"] = None if reached is None else reached / base["tokens"]
    return rows


def table_of(rows):
    """Return a Markdown table of means and spreads over seeds."""
    lines = [
        "| selection | reference loss | held-out loss | tokens to random's held-out | "
        "tokens to random's reference | wall s | selection s | feedback s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        mine = [row for row in rows if row["variant"] == variant]
        cells = [variant]
        for key in ("reference_loss", "heldout_loss"):
            cells.append(spread([row[key] for row in mine], "{:.3f}"))
        for key in ("heldout_loss_tokens_x", "reference_loss_tokens_x"):
            values = [row[key] for row in mine]
            missed = sum(value is None for value in values)
            known = [value for value in values if value is not None]
            text = spread(known, "{:.2f}") + "x" if known else "-"
            cells.append(text + (f" ({missed} never)" if missed else ""))
        for key in ("wall_s", "selection_s", "feedback_s"):
            cells.append(f"{statistics.mean(row[key] for row in mine):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values, form):
    """Return the mean and, behind it, smallest and largest."""
    mean = form.format(statistics.mean(values))
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def main():
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    corpus = str((args.work / "corpus").resolve())
    with Display(Terminal(), args.steps) as display:
        build_local(corpus, LocalConfig(), display.progress)
        fit(corpus, FitConfig(), display.progress)
        rows = rows_of(args.work, args.seeds, args.steps, display)
    table = table_of(rows)
    print(table)
    if args.out:
        info = json.loads(
            (
                Path(config_of(args.work, "console", args.seeds[0], args.steps).out) / "run.json"
            ).read_text()
        )
        facts = {key: info[key] for key in ("versions", "machine", "parameters")}
        facts["settings"] = {key: info["config"][key] for key in ("model", "train", "console")}
        facts["settings"]["feedback"] = info["config"]["feedback"]
        for row in rows:
            row["evals"] = {key: values.tolist() for key, values in row["evals"].items()}
        whole = {"facts": facts, "runs": rows}
        args.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table + "\n")


if __name__ == "__main__":
    main()
