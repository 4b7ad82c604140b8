# SPDX-License-Identifier: Apache-2.0
"""How fast is the loader alone? First batch, samples/s, tokens/s and CPU seconds per GB of tokens.

Run: python benchmarks/bench_loader.py CORPUS/train [--steps 2000] [--repeats 5] [--out
results.json] Three loaders are interleaved, medians reported: streaming everything, streaming
with a console that never moves (the cost of scoring and selecting), and reading the same shards
with nothing but the shard reader (the limit that decoding sets). Local files: the page cache is
warm.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from moot.loader import AgentSet, ConsoleConfig, Loader, open_corpus
from moot.loader.storage import open_store


def measure(make, steps):
    """Read `steps` batches; returns the figures of one repeat."""
    started, cpu = time.perf_counter(), time.process_time()
    with make() as loader:
        stream = iter(loader)
        next(stream)
        first = time.perf_counter() - started
        loader.metrics()
        started, cpu = time.perf_counter(), time.process_time()
        tokens = sum(next(stream)["input_ids"].numel() for _ in range(steps))
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
        metrics = loader.metrics()
    offered = tokens / (metrics["select/kept(%)"] / 100)
    return {
        "first_batch_s": first,
        "tokens_per_s": tokens / elapsed,
        "candidate_tokens_per_s": offered / elapsed,
        "pieces_per_s": metrics["data/samples"] / elapsed,
        "cpu_s_per_gb": cpu / (offered * 2 / 1e9),
    }


def measure_limit(url):
    """Fetch, verify and decode every shard once, in one thread."""
    corpus = open_corpus(url)
    started, cpu = time.perf_counter(), time.process_time()
    tokens = 0
    for shard_id in range(len(corpus.shards)):
        tokens += int(corpus.read(shard_id).lengths("tokens").sum())
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    corpus.close()
    return {"tokens_per_s": tokens / elapsed, "cpu_s_per_gb": cpu / (tokens * 2 / 1e9)}


def main():
    """Interleave the variants and write medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = {"batch_rows": 16, "seq_len": 256, "rank": 0, "world_size": 1}
    agents = AgentSet.load(open_store(str(Path(args.url).parent)))
    rng = np.random.default_rng(0)
    memory = {a.name: tuple(rng.normal(size=a.num_states).tolist()) for a in agents.agents}
    console = ConsoleConfig(mode="fixed", memory=memory)
    variants = {
        "stream": lambda: measure(lambda: Loader(args.url, **settings), args.steps),
        "select": lambda: measure(
            lambda: Loader(args.url, console=console, agents=agents, **settings), args.steps
        ),
        "decode only": lambda: measure_limit(args.url),
    }
    rows = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, run in variants.items():
            rows[name].append(run())
    medians = {
        name: {key: statistics.median(row[key] for row in many) for key in many[0]}
        for name, many in rows.items()
    }
    for name, row in medians.items():
        print(f"{name:<12}", "  ".join(f"{key} {value:,.3f}" for key, value in row.items()))
    if args.out:
        facts = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        config = {**settings, "steps": args.steps, "repeats": args.repeats}
        args.out.write_text(
            json.dumps(
                {"machine": facts, "config": config, "medians": medians, "rows": rows}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
