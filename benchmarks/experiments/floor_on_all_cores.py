# SPDX-License-Identifier: Apache-2.0
"""What does the floor of bench_stream cost while every core is busy with it?

Run: python benchmarks/experiments/floor_on_all_cores.py, after `bench_stream.py --part cold`, whose
corpus it reads. The floor is measured on one core while the others are idle, a loader keeps all of
them busy: they share caches, memory and, where a virtual core is half of a real one, the core
itself. Prints a Markdown table, medians of five.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stream import environment
from stream.server import serve

SERVED = environment.BUILD / "bench" / "served"
REPEATS = 5
PARTS = ("receive", "hash", "decompress", "gather", "sum")


def run(ask: dict[str, str], num: int) -> list[dict[str, float]]:
    """Run the floor in `num` processes at a time."""
    command = [sys.executable, "-m", "stream.floor", json.dumps(ask)]
    cwd = Path(__file__).parents[1]
    children = [
        subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True) for _ in range(num)
    ]
    said = [child.communicate()[0] for child in children]
    return [json.loads(text.rpartition("RESULT ")[2]) for text in said]


def main() -> None:
    """Print the table."""
    cores = len(os.sched_getaffinity(0))
    print("| processes at a time | " + " | ".join(PARTS) + " |")
    print("|---" * (len(PARTS) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder, serve(SERVED, Path(folder) / "nginx") as server:
        ask = {
            "folder": str(SERVED / "bench" / "tokens" / "mds"),
            "endpoint": server.urls["plain"],
            "authority": str(server.authority),
            "corpus": "tokens",
        }
        found: dict[int, list[dict[str, float]]] = {1: [], cores: []}
        for _ in range(REPEATS):
            for num, results in found.items():
                results += run(ask, num)
    for num, results in found.items():
        figures = [statistics.median(row[f"{part}_s_per_gb"] for row in results) for part in PARTS]
        print(f"| {num} | " + " | ".join(f"{value:.3f}" for value in figures) + " |")


if __name__ == "__main__":
    main()
