# SPDX-License-Identifier: Apache-2.0
"""How much does a running loader slow the training step beside it?

Run: python benchmarks/bench_beside_training.py CORPUS/train [--steps 40] [--repeats 5] [--out FILE]
The demo's model takes its steps on batches of a loader, and on the same batches held in memory;
the two are interleaved, the first steps of each are left out, medians reported. Forward, backward
and the optimizer are timed with the call that hands over the batch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from moot.loader import Loader
from moot.trainer.model import GPT, GPTConfig, loss
from stream import environment

SETTINGS = {"batch_rows": 16, "seq_len": 256, "rank": 0, "world_size": 1}
WARM = 5


def train(batches: Iterator[dict[str, torch.Tensor]], steps: int) -> list[float]:
    """Take steps; returns the seconds of each."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=8192))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        batch = next(batches)
        total, count = loss(model(batch["input_ids"], batch["position_ids"]), batch["labels"])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM:]


def main() -> None:
    """Interleave the two and write medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with Loader(args.url, **SETTINGS) as loader:
        stream = iter(loader)
        held = [next(stream) for _ in range(args.steps)]
    times: dict[str, list[float]] = {"loader": [], "memory": []}
    for _ in range(args.repeats):
        with Loader(args.url, **SETTINGS) as loader:
            times["loader"] += train(iter(loader), args.steps)
        times["memory"] += train(iter(held), args.steps)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    slower = 100 * (medians["loader"] / medians["memory"] - 1)
    print(f"step {medians['loader'] * 1e3:.1f} ms beside the loader, {slower:+.1f} % of memory's")
    if args.out:
        machine = {**environment.machine(), "torch": torch.__version__}
        config = {**SETTINGS, "steps": args.steps, "repeats": args.repeats}
        found = {
            "commit": environment.commit(),
            "machine": machine,
            "config": config,
            "medians_s": medians,
        }
        found["slower_percent"] = slower
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
