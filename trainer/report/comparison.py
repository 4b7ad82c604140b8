# SPDX-License-Identifier: Apache-2.0
"""The headline table: what each run reached, with how many tokens, in what time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .runs import Run, find_runs

if TYPE_CHECKING:
    from rich.console import Console

LOSSES = ("heldout_loss", "reference_loss")
TIMES = ("selection_s", "feedback_s", "evaluation_s", "wait_s")


def tokens_to_reach(
    tokens: NDArray[np.float64], losses: NDArray[np.float64], target: float
) -> float:
    """Return the tokens at which a loss curve first falls to `target`, NaN if it never does.

    Args:
        tokens: [n] tokens at each evaluation, rising.
        losses: [n] loss at each evaluation; NaN where not evaluated.
        target: loss to reach.

    Linear between the two evaluations around the first crossing.
    """
    finite = np.isfinite(losses)
    tokens, losses = tokens[finite], losses[finite]
    reached = np.flatnonzero(losses <= target)
    if len(reached) == 0:
        return float("nan")
    last = int(reached[0])
    if last == 0:
        return float(tokens[0])
    above, below = losses[last - 1], losses[last]
    part = (above - target) / (above - below)
    return float(tokens[last - 1] + part * (tokens[last] - tokens[last - 1]))


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row a run; the first random run is the one the others are held against.

    Keys: run, kind, tokens, heldout_loss, reference_loss, tokens_to_heldout, share_to_heldout,
    tokens_to_reference, share_to_reference (tokens to reach the random run's final loss, and as a
    share of random's tokens; NaN = not reached or no random run), wall_s, tokens_per_s, and for
    selection, feedback, evaluation and wait both `_s` (seconds) and `_share` (of wall_s).
    """
    baseline = next((run for run in runs if run.kind == "random"), None)
    return [_row(run, baseline) for run in runs]


def comparison_rows(path: str | Path) -> list[dict[str, Any]]:
    """Compare the runs below a demo directory, or describe a single run; keys as in `compare`."""
    return compare(find_runs(path))


def print_comparison(path: str | Path, console: "Console | None" = None) -> None:
    """Print the comparison as a table in the terminal: one column a run."""
    import rich.console
    from rich import box
    from rich.table import Table

    rows = comparison_rows(path)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for row in rows:
        style = "bold cyan" if row["kind"] == "console" else None
        table.add_column(row["run"], justify="right", style=style, header_style="bold")
    for heading, *values in zip(HEADINGS, *map(cells, rows), strict=True):
        if heading != "run":
            table.add_row(heading, *values)
    (console or rich.console.Console()).print(table)


HEADINGS = (
    "run",
    "held-out loss",
    "reference loss",
    "tokens to random's held-out loss",
    "tokens to random's reference loss",
    "wall-clock",
    "selection",
    "feedback",
    "loader wait",
)


def cells(row: dict[str, Any]) -> list[str]:
    """Format a row of `compare` under HEADINGS."""
    return [
        row["run"],
        number(row["heldout_loss"], ".4f"),
        number(row["reference_loss"], ".4f"),
        _reach(row, "heldout"),
        _reach(row, "reference"),
        duration(row["wall_s"]),
        _share(row, "selection"),
        _share(row, "feedback"),
        _share(row, "wait"),
    ]


def number(value: float, form: str) -> str:
    """Format a number; a dash where there is none."""
    return format(value, form) if np.isfinite(value) else "-"


def duration(seconds: float) -> str:
    """Format seconds as 12.3 s or 2 min 05 s."""
    if not np.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def millions(tokens: float) -> str:
    """Format a number of tokens as 1.23 M."""
    return f"{tokens / 1e6:.2f} M" if np.isfinite(tokens) else "-"


def _row(run: Run, baseline: Run | None) -> dict[str, Any]:
    wall_s = _seconds(run, "wall_s")
    row: dict[str, Any] = {"run": run.name, "kind": run.kind, "tokens": _tokens(run)}
    for name in LOSSES:
        row[name] = run.final(name)
        reached = _reached(run, baseline, name)
        short = name.removesuffix("_loss")
        row[f"tokens_to_{short}"] = reached
        row[f"share_to_{short}"] = reached / _tokens(baseline) if baseline else float("nan")
    row["wall_s"] = wall_s
    row["tokens_per_s"] = row["tokens"] / wall_s if wall_s > 0 else float("nan")
    for name in TIMES:
        spent_s = _seconds(run, name)
        row[name] = spent_s
        row[name.removesuffix("_s") + "_share"] = spent_s / wall_s if wall_s > 0 else float("nan")
    return row


def _reached(run: Run, baseline: Run | None, name: str) -> float:
    if baseline is None:
        return float("nan")
    if run is baseline:
        return _tokens(run)
    losses = run.evals.get(name, np.empty(0))
    return tokens_to_reach(run.evals["tokens"][: len(losses)], losses, baseline.final(name))


def _tokens(run: Run) -> float:
    logged = [
        float(values[-1]) for values in (run.metrics["tokens"], run.evals["tokens"]) if len(values)
    ]
    return float(run.summary.get("tokens", max(logged, default=float("nan"))))


def _seconds(run: Run, name: str) -> float:
    logged = run.metrics["wall_s"]
    fallback = logged[-1] if name == "wall_s" and len(logged) else float("nan")
    return float(run.summary.get(name, fallback))


def _reach(row: dict[str, Any], name: str) -> str:
    tokens, share = row[f"tokens_to_{name}"], row[f"share_to_{name}"]
    if row["kind"] == "random":
        return f"{millions(tokens)} (1x)" if np.isfinite(tokens) else "-"
    return f"{millions(tokens)} ({share:.2f}x)" if np.isfinite(tokens) else "not reached"


def _share(row: dict[str, Any], name: str) -> str:
    seconds, share = row[f"{name}_s"], row[f"{name}_share"]
    if not np.isfinite(seconds):
        return "-"
    return f"{seconds:.1f} s ({share:.1%})" if np.isfinite(share) else f"{seconds:.1f} s"
