# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a corpus of this machine's text, and three runs that select differently.

Every part is reused where it is there already, so that a run cut short goes on.
"""

from pathlib import Path

from rich.console import Console as Terminal

from ..loader import ConsoleConfig
from ..loader.label import FitConfig, fit
from .config import KINDS, DataConfig, RunConfig, TrainConfig
from .corpora import LocalConfig, build_local
from .display import Display
from .report import print_comparison, write_report
from .train import Trainer

CORPUS_BYTES = 60_000_000
STEPS = 250


def demo_config(out: Path, kind: str, seed: int, steps: int = STEPS) -> RunConfig:
    """Return one run of the demonstration; all kinds train on the same number of tokens."""
    return RunConfig(
        out=str(out / kind),
        seed=seed,
        data=DataConfig(corpus=str((out / "corpus").resolve()), kind=kind),
        train=TrainConfig(steps=steps),
        console=ConsoleConfig(refresh_steps=20, policy_lag=2, shrink=50.0, temperature=0.25),
    )


def run_demo(out: Path, seed: int = 0, steps: int = STEPS, size_bytes: int = CORPUS_BYTES) -> Path:
    """Build the corpus, fit the agents, train three times, compare.

    Args:
        out: Where everything goes; another seed than 0 goes beside it.
        seed: Varies corpus, order and model.
        steps: Optimizer steps of each run.
        size_bytes: Bytes of text in the corpus.

    Returns:
        The path of the report.
    """
    out = out if seed == 0 else out.with_name(f"{out.name}-{seed}")
    terminal = Terminal()
    corpus = str((out / "corpus").resolve())
    with Display(terminal, steps) as display:
        build_local(corpus, LocalConfig(seed=seed, size_bytes=size_bytes), display.progress)
        fit(corpus, FitConfig(seed=seed), display.progress)
        for kind in KINDS:
            Trainer(demo_config(out, kind, seed, steps), display.run(kind)).run()
        report = write_report(out)
    print_comparison(out, terminal)
    terminal.print(f"Report: [bold]{report}[/]")
    return report
