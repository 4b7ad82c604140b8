# SPDX-License-Identifier: Apache-2.0
"""Run directories as the trainer writes them, read into arrays.

A run holds run.json (kind, config, seed, command, versions, machine, corpus, domains, agents),
metrics.jsonl (one object a logged step), evals.jsonl (one an evaluation), summary.json and ledger/;
with a schedule rounds.jsonl, with an order of batches chunks.jsonl.
A line that a resumed run wrote again replaces the lines of its step and of later steps; a last line
torn by a kill is passed over.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...loader.errors import ConfigError, StateError
from ...loader.ledger import LedgerView, read_ledger
from ...loader.storage import open_store

KIND_ORDER = ("random", "threshold", "console")


@dataclass(frozen=True)
class AgentNames:
    """An agent's name and the names of its states."""

    name: str
    states: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The states' names without the agent's name before them."""
        return tuple(state.removeprefix(f"{self.name} ") for state in self.states)

    @property
    def slug(self) -> str:
        """The agent's name as a part of file names and ids."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name)


@dataclass(frozen=True)
class Run:
    """One run directory. The ledger is read when it is first asked for."""

    path: Path
    info: Mapping[str, Any]
    metrics: Mapping[str, NDArray[np.float64]]
    evals: Mapping[str, NDArray[np.float64]]
    summary: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]] = ()
    chunks: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def kind(self) -> str:
        """random, threshold, console, or what the trainer called it."""
        return str(self.info.get("kind", self.name))

    @property
    def corpus(self) -> str | None:
        """URL of the corpus, with train/ below it."""
        return self.info.get("corpus")

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, by number."""
        return tuple(self.info.get("domains") or ())

    @property
    def units(self) -> tuple[str, ...]:
        """What each unit of a schedule holds, in words."""
        return tuple(self.info.get("units") or ())

    @cached_property
    def agents(self) -> tuple[AgentNames, ...]:
        """The agents in the order of theta and of the votes."""
        found = self.info.get("agents") or ()
        return tuple(AgentNames(agent["name"], tuple(agent["states"])) for agent in found)

    @cached_property
    def ledger(self) -> LedgerView | None:
        """What the ledger holds, None where none was written."""
        if not any((self.path / "ledger").glob("steps-*.parquet")):
            return None
        store = open_store(str((self.path / "ledger").resolve()))
        try:
            return read_ledger(store)
        finally:
            store.close()

    def tokens_at(self, steps: NDArray[Any]) -> NDArray[np.float64]:
        """Map training steps (from 0) to tokens trained on, linearly between logged steps."""
        done = np.asarray(steps, np.float64) + 1
        known, tokens = self.metrics["step"], self.metrics["tokens"]
        return np.interp(done, np.append(0, known), np.append(0, tokens))

    def final(self, name: str) -> float:
        """Last evaluation of `reference_loss` or `heldout_loss`; NaN if there was none."""
        values = self.evals.get(name, np.empty(0))
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else float("nan")


def load_run(path: str | Path) -> Run:
    """Read one run directory.

    Raises:
        ConfigError: when it is not one.
        StateError: when a file in it cannot be read as JSON.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ConfigError(
            f"{path} is not a run: it has no run.json; give a folder that train wrote"
        )
    metrics = _columns(_lines(path / "metrics.jsonl"), ("step", "tokens", "loss", "wall_s"))
    evals = _columns(_lines(path / "evals.jsonl"), ("step", "tokens", "wall_s"))
    summary = path / "summary.json"
    return Run(
        path=path.resolve(),
        info=_object(path / "run.json"),
        metrics=metrics,
        evals=evals,
        summary=_object(summary) if summary.is_file() else {},
        rounds=_lines(path / "rounds.jsonl"),
        chunks=_lines(path / "chunks.jsonl"),
    )


def find_runs(path: str | Path) -> list[Run]:
    """Read the run at `path`, or the runs in the folders below it: random first, console last.

    Raises:
        ConfigError: when there is none.
    """
    path = Path(path)
    if (path / "run.json").is_file():
        return [load_run(path)]
    runs = [load_run(found.parent) for found in sorted(path.glob("*/run.json"))]
    if not runs:
        raise ConfigError(
            f"no run in {path}: neither run.json nor */run.json is there; give a folder that "
            "`moot train` or `make demo` wrote"
        )
    return sorted(runs, key=lambda run: (_rank(run.kind), run.name))


def _rank(kind: str) -> int:
    return KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER)


def _object(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(f"{path} is not JSON ({error}); train again or restore it") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise StateError(f"{path}, line {number + 1}: not JSON ({error})") from error
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def _columns(
    rows: Sequence[Mapping[str, Any]], required: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    names = dict.fromkeys(required)
    for row in rows:
        names |= dict.fromkeys(name for name, value in row.items() if _is_number(value))
    return {name: np.array([_number(row.get(name)) for row in rows], np.float64) for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else float("nan")
