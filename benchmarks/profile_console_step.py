# SPDX-License-Identifier: Apache-2.0
"""Where does the time of a demo step go with the console on?

Run: python benchmarks/profile_console_step.py WORK [--steps 120] [--size 60000000] [--out FILE.md]
WORK holds the corpus of `moot corpus local`, made here if it is missing. Trains the demo's console
run from the start and adds up the time inside each part, without the parts inside it. At the last
refresh it also takes every probe's gradient from plain autograd (its time is left out) and gives
the rank correlation with the rewards that were credited.
"""

import argparse
import functools
import json
import platform
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from moot.loader import Loader
from moot.loader.label import FitConfig, fit
from moot.trainer.corpora import LocalConfig, build_local
from moot.trainer.demo import demo_config
from moot.trainer.feedback import Feedback, GhostCapture, capture, feedback
from moot.trainer.feedback.reference import document_gradient
from moot.trainer.feedback.scratch import Scratch
from moot.trainer.train import Trainer
from ops.facts import processor

PARTS = (
    (Trainer, "_train", "waiting for batches, and the rest of the loop"),
    (Trainer, "_step", "training step: forward, backward, AdamW"),
    (Trainer, "_evaluate", "evaluation"),
    (Trainer, "_checkpoint", "checkpoint"),
    (Trainer, "_log", "log"),
    (Loader, "probes", "refresh: reading the probes"),
    (Loader, "credit", "refresh: credit and policy"),
    (Feedback, "rewards", "refresh: packing, drawing"),
    (feedback, "reference_gradient", "refresh: gradients of reference and baseline"),
    (feedback, "precondition", "refresh: preconditioning, baseline taken out"),
    (feedback, "without_baseline", "refresh: preconditioning, baseline taken out"),
    (feedback, "check_document_mask", "refresh: checks"),
    (feedback, "check_shares", "refresh: checks"),
    (GhostCapture, "shares", "refresh: probes, forward and backward"),
    (capture, "_on_grad", "refresh: probes, shares of the layers"),
)


class Profile:
    """Seconds by part, each without the parts it calls."""

    def __init__(self):
        self.seconds = Counter()
        self._inside = []

    def watch(self, owner, name, part):
        """Count what a function takes from now on."""
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def timed(*args, **kwargs):
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self.seconds[part] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        setattr(owner, name, timed)


class Comparison:
    """Rewards of the last refresh against every probe's own gradient."""

    def __init__(self, last_refresh):
        self.last_refresh = last_refresh
        self.spearman = self.pearson = float("nan")
        self.num_probes = 0
        self._directions = None

    def watch(self):
        """Look at the directions and the rewards as they are made."""
        made, rewards = GhostCapture.__init__, Feedback.rewards

        def noting(capture, model, directions):
            self._directions = directions
            made(capture, model, directions)

        def comparing(measured, refresh, tokens, cu_seqlens):
            got = rewards(measured, refresh, tokens, cu_seqlens)
            if refresh == self.last_refresh:
                self.compare(measured, got, np.asarray(tokens), np.asarray(cu_seqlens))
            return got

        GhostCapture.__init__, Feedback.rewards = noting, comparing

    def compare(self, measured, got, tokens, cu_seqlens):
        """Take the gradient of one document after the other."""
        probes = measured._split(tokens, cu_seqlens)
        parameters, scratch = list(self._directions), Scratch()
        expected = []
        for probe in probes:
            if len(probe) < 2:
                expected.append(0.0)
                continue
            length = measured.config.seq_len
            found = document_gradient(measured._model, probe, length, parameters, scratch)
            pairs = zip(found, self._directions.values(), strict=True)
            total = sum(float((g.double() * d).sum()) for g, d in pairs)
            expected.append(total / measured._predicted([probe])[0])
        ranks = [np.argsort(np.argsort(values)) for values in (got, expected)]
        self.spearman = float(np.corrcoef(*ranks)[0, 1])
        self.pearson = float(np.corrcoef(got, expected)[0, 1])
        self.num_probes = len(probes)


def measure(work, steps, size_bytes):
    """Return one row: seconds by part, and how the rewards compare."""
    corpus = str((work / "corpus").resolve())
    build_local(corpus, LocalConfig(size_bytes=size_bytes))
    fit(corpus, FitConfig())
    config = demo_config(work, "console", 0, steps)
    shutil.rmtree(config.out, ignore_errors=True)
    profile, refreshes = Profile(), steps // config.console.refresh_steps
    comparison = Comparison(refreshes)
    comparison.watch()
    profile.watch(Comparison, "compare", "comparison")
    for owner, name, part in PARTS:
        profile.watch(owner, name, part)
    summary = Trainer(config).run()
    profile.seconds.pop("comparison", None)
    return {
        "steps": steps,
        "refreshes": refreshes,
        "refresh_steps": config.console.refresh_steps,
        "wait_ms_per_step": summary["wait_s"] / steps * 1e3,
        "ms_per_step": {part: s / steps * 1e3 for part, s in profile.seconds.most_common()},
        "spearman": comparison.spearman,
        "pearson": comparison.pearson,
        "probes": comparison.num_probes,
        "size_bytes": size_bytes,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
    }


def table_of(row):
    """Return the row as markdown."""
    total = sum(row["ms_per_step"].values())
    refresh = sum(ms for part, ms in row["ms_per_step"].items() if part.startswith("refresh"))
    lines = [
        "# Where the time of a demo step goes with the console on",
        "",
        f"`benchmarks/profile_console_step.py`, {row['steps']} steps from the start, a refresh of "
        f"{row['probes']} probes every {row['refresh_steps']}; {row['cpu']}, "
        f"{row['threads']} threads, torch {row['torch']}, Python {row['python']}, corpus of "
        f"{row['size_bytes']:,} B of text. One run. Each part without the parts inside it.",
        "",
        "| part | ms a step | share |",
        "|---|---|---|",
        *(f"| {part} | {ms:.2f} | {ms / total:.1%} |" for part, ms in row["ms_per_step"].items()),
        f"| all | {total:.2f} | |",
        f"| all of the refresh | {refresh:.2f} | {refresh / total:.1%} |",
        "",
        f"Of the loop's own part, {row['wait_ms_per_step']:.2f} ms a step are waiting for a batch.",
        "",
        "Rewards of the last refresh against every probe's gradient from plain autograd, along the "
        f"same direction ({row['probes']} probes, fp32): rank correlation {row['spearman']:.7f}, "
        f"correlation {row['pearson']:.9f}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--size", type=int, default=60_000_000, help="bytes of text in the corpus")
    parser.add_argument("--out", type=Path, help="where the table goes; JSON goes beside it")
    args = parser.parse_args()
    row = measure(args.work, args.steps, args.size)
    print(json.dumps(row))
    print(table_of(row))
    if args.out:
        args.out.write_text(table_of(row))
        args.out.with_suffix(".json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
