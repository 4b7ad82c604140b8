# SPDX-License-Identifier: Apache-2.0
"""The files of a run: run.json, metrics.jsonl, evals.jsonl, summary.json.

With a schedule there is rounds.jsonl too, with an order of batches chunks.jsonl. Lines are written
as they come. A run that resumes at step s drops the lines of later steps, so that each step stands
once.
"""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


class RunFiles:
    """Writes the files of one run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write_run(self, info: dict[str, Any]) -> None:
        """Write run.json: what the run is, and where it runs."""
        versions = {name: version(name) for name in ("moot", "torch", "numpy", "pyarrow")}
        facts = {
            "versions": versions | {"python": platform.python_version()},
            "machine": {
                "cpu": _cpu_name(),
                "cores": len(os.sched_getaffinity(0)),
                "system": f"{platform.system()} {platform.machine()}",
            },
            "command": " ".join(["moot", *sys.argv[1:]]),
        }
        self._write("run.json", info | facts)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json; its presence says that the run is finished."""
        self._write("summary.json", summary)

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the run, None where there is none."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.is_file() else None

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Append one line to a .jsonl file."""
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def last(self, name: str) -> dict[str, Any] | None:
        """Return the last line of a .jsonl file."""
        rows = self._rows(name)
        return rows[-1] if rows else None

    def rewind(self, step: int) -> None:
        """Drop all lines of steps after `step`."""
        for name in ("metrics.jsonl", "evals.jsonl", "rounds.jsonl", "chunks.jsonl"):
            kept = [json.dumps(row) for row in self._rows(name) if row["step"] <= step]
            if not kept and name in ("rounds.jsonl", "chunks.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
                continue
            part = self.folder / f"{name}.part"
            part.write_text("".join(f"{line}\n" for line in kept))
            part.replace(self.folder / name)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        lines = path.read_text().split("\n") if path.is_file() else []
        return [json.loads(line) for line in lines[:-1]]  # what follows the last \n is torn

    def _write(self, name: str, value: dict[str, Any]) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(value, indent=1) + "\n")
        part.replace(self.folder / name)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
