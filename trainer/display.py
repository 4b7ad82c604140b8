# SPDX-License-Identifier: Apache-2.0
"""What a person sees while something runs: the stage, how far it is, and the numbers that matter.

On a terminal one bar a stage; elsewhere a plain line every few seconds, so that a log tells as
much.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

_LINE_EVERY_S = 10.0


class Display:
    """Shows stages of work; use it in a `with` block.

    Args:
        terminal: Where to draw.
        steps: Training steps of a run, the length of its bar.
    """

    def __init__(self, terminal: Terminal, steps: int = 0) -> None:
        self._terminal = terminal
        self._steps = steps
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=terminal,
            disable=not terminal.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def progress(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        """Show how far a stage is."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, detail=detail)
        self._bars.update(self._tasks[stage], completed=done, total=total, detail=detail)
        self._say(stage, done, total, detail)

    def run(self, name: str) -> Callable[[dict[str, Any]], None]:
        """Return an observer that shows the training run `name`."""
        last: dict[str, Any] = {}

        def observe(row: dict[str, Any]) -> None:
            last.update(row)
            self.progress(f"train {name}", last["step"], self._steps, _numbers(last))

        return observe

    def _say(self, stage: str, done: int, total: int | None, detail: str) -> None:
        """Print a plain line where there is no terminal: the first, the last, and some between."""
        if self._terminal.is_terminal:
            return
        now = time.monotonic()
        if done != total and now - self._said.get(stage, -_LINE_EVERY_S) < _LINE_EVERY_S:
            return
        self._said[stage] = now
        size = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        self._terminal.print(f"{stage:<22} {size:>17}  {detail}", highlight=False, soft_wrap=True)


def _numbers(row: dict[str, Any]) -> str:
    parts = []
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}  {row['tokens_per_s'] / 1000:.1f}k tok/s")
    if row.get("heldout_loss") is not None:
        parts.append(f"held-out {row['heldout_loss']:.3f}")
    weights = [
        f"{key.split('/')[1]} {value:.2f}"
        for key, value in row.items()
        if key.startswith("agent/") and key.endswith("/weight")
    ]
    if weights:
        parts.append("theta " + " ".join(weights))
    return "  ".join(parts)
