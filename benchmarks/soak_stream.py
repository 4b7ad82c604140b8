# SPDX-License-Identifier: Apache-2.0
"""Does the memory of a long stream stay flat, and below its budget plus a tenth?

Streams a corpus of variable-length documents that is many times the budget, packed, for some
minutes, and notes resident memory and the pools once a second. Flat means: the largest resident
memory of the last third of the run is not more than 2 % above that of the middle third. The budget
is that of the shards; what the process takes before the first batch, and the batches made ahead,
stand beside it.

    .venv/bin/python benchmarks/soak_stream.py --minutes 10 --out soak.json
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from moot.loader import Loader
from moot.loader.shards import MDSWriter
from moot.loader.storage import open_store
from stream import environment

ALLOWANCE = 1.1
FLAT = 1.02
MIB = 1 << 20


def write_corpus(folder: Path, num_bytes: int) -> None:
    """Write documents of about 500 tokens, zstd, shards of 4 MiB raw."""
    rng = np.random.default_rng(0)
    columns = {"tokens": "ndarray:uint16"}
    store = open_store(str(folder))
    with MDSWriter(store, columns, compression="zstd:1", size_limit=4 << 20) as writer:
        drawn = np.minimum(rng.zipf(1.3, 1 << 22), 49_999).astype(np.uint16)
        written = 0
        while written < num_bytes:
            length = int(np.clip(rng.lognormal(5.9, 0.8), 16, 20_000))
            start = int(rng.integers(drawn.size - length))
            tokens = drawn[start : start + length]
            writer.write({"tokens": tokens})
            written += tokens.nbytes


def resident_bytes() -> int:
    """The resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def soak(folder: str, minutes: float, budget_bytes: int) -> dict:
    """Stream for some minutes; return what was measured, second after second."""
    settings = {"batch_rows": 16, "seq_len": 2048, "packing": "first_fit", "window_shards": 4}
    with Loader(folder, **settings, prefetch_batches=1) as loader:
        next(iter(loader))  # the code that will run is in memory before it is measured
    base = resident_bytes()
    rows, num_batches = [], 0
    with Loader(folder, **settings, budget_bytes=budget_bytes) as loader:
        stream, began, noted = iter(loader), time.monotonic(), 0.0
        pool, batches = loader._source.cache.pool, loader._buffers
        while (now := time.monotonic() - began) < 60 * minutes:
            next(stream)
            num_batches += 1
            if now - noted < 1.0:
                continue
            noted, metrics = now, loader.metrics()
            rows.append({
                "at_s": round(now, 2),
                "resident_mib": round((resident_bytes() - base) / MIB, 1),
                "pool_used_mib": round(pool.used_bytes / MIB, 1),
                "pool_held_mib": round(pool.held_bytes / MIB, 1),
                "batches_held_mib": round(batches.held_bytes / MIB, 1),
                "fill": round(metrics["data/pool_fill"], 3),
                "epoch": round(metrics["data/epoch"], 2),
                "tokens_per_s": round(metrics["data/tokens_per_s"]),
            })
    return {
        "settings": {**settings, "budget_bytes": budget_bytes},
        "base_mib": round(base / MIB, 1),
        "batches": num_batches,
        "samples": rows,
    }


def judge(result: dict) -> dict:
    """Add the verdict: the peaks, and whether they are flat and within the allowance."""
    rows = result["samples"]
    third = max(len(rows) // 3, 1)
    middle = max(row["resident_mib"] for row in rows[third : 2 * third] or rows)
    last = max(row["resident_mib"] for row in rows[-third:])
    budget = result["settings"]["budget_bytes"] / MIB
    held = max(row["pool_held_mib"] for row in rows)
    # What is resident beyond the base: shards, batches made ahead, and the code that ran.
    batches = max(row["batches_held_mib"] for row in rows)
    peak = max(row["resident_mib"] for row in rows)
    verdict = {
        "peak_mib": peak,
        "peak_pool_held_mib": held,
        "peak_less_batches_of_budget": round((peak - batches) / budget, 3),
        "within_allowance": held <= budget * ALLOWANCE and peak - batches <= budget * ALLOWANCE,
        "growth": round(last / middle, 4),
        "flat": last <= middle * FLAT,
    }
    return {**result, "verdict": verdict}


def main() -> int:
    """Run the soak and print or store its JSON; 1 if memory was not flat or too much."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--budget-mib", type=int, default=128)
    parser.add_argument("--corpus-mib", type=int, default=512, help="raw bytes of the corpus")
    parser.add_argument("--out", type=Path, help="where the JSON goes; else the verdict is shown")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        write_corpus(Path(folder), chosen.corpus_mib * MIB)
        result = judge(soak(folder, chosen.minutes, chosen.budget_mib * MIB))
    result |= {"commit": environment.commit(), "machine": environment.machine()}
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["verdict"]))
    return 0 if result["verdict"]["flat"] and result["verdict"]["within_allowance"] else 1


if __name__ == "__main__":
    sys.exit(main())
