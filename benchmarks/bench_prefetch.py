# SPDX-License-Identifier: Apache-2.0
"""What do pooled memory and the shard caches cost and save?

Run: python benchmarks/bench_prefetch.py [--repeats 9] [--out results.json]
One zstd shard of 64 MiB of uint16 tokens in a local folder. Interleaved; medians and quartiles of
milliseconds, and CPU milliseconds, which a busy machine disturbs less: one pass over 64 MiB and one
decompression into fresh memory of small pages (what numpy gives), fresh huge pages, and memory of
the pool; the shard read from its folder, read and published to a disk cache, read from the disk
cache. Then `ShardCache.get` of 8 held shards.
"""

import argparse
import json
import mmap
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from moot.loader.prefetch import BufferPool, DiskCache, ShardCache
from moot.loader.shards import Ask, MDSWriter, find_shards, read_shard
from moot.loader.shards.compression import compress, decompress
from moot.loader.storage import open_store

SIZE = 64 << 20


def tokens_of(num):
    """Return tokens that compress about as text does: a skewed vocabulary."""
    return np.random.default_rng(0).zipf(1.3, num).clip(0, 50_000).astype(np.uint16)


def fresh(huge):
    """Map memory that nobody has touched."""
    block = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


def interleave(calls, repeats):
    """Run every call `repeats` times in turns; milliseconds by name, wall and CPU."""
    taken = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started, cpu = time.perf_counter(), time.process_time()
            call()
            taken[name].append((time.perf_counter() - started, time.process_time() - cpu))
    rows = []
    for name, pairs in taken.items():
        wall, cpu = ([1000 * pair[i] for pair in pairs[1:]] for i in (0, 1))
        low, middle, high = statistics.quantiles(wall, n=4)
        row = {"what": name, "ms": middle, "ms_quartiles": [low, high]}
        rows.append(row | {"cpu_ms": statistics.median(cpu)})
    return rows


def memory(pool):
    """Return the calls that fill, and decompress into, each kind of memory."""
    raw = tokens_of(SIZE // 2).view(np.uint8)
    data = np.frombuffer(compress(raw.tobytes(), "zstd"), np.uint8)
    kinds = {
        "small pages": lambda: fresh(False),
        "huge pages": lambda: fresh(True),
        "pool": lambda: pool.allocate(SIZE),
    }
    calls = {f"fill, {name}": lambda make=make: make().fill(1) for name, make in kinds.items()}
    for name, make in kinds.items():
        calls[f"decompress, {name}"] = lambda make=make: decompress("x", data, "zstd", make())
    return calls


def disk(folder, pool):
    """Return the calls that read a shard past, into, and from a disk cache."""
    store = open_store(f"{folder}/corpus")
    with MDSWriter(store, {"tokens": "ndarray:uint16:2048"}, compression="zstd") as writer:
        for row in tokens_of((SIZE - (1 << 20)) // 2).reshape(-1, 2048):
            writer.write({"tokens": row})
    (info,) = find_shards(store)
    ask, cache = Ask(allocate=pool.allocate), DiskCache(f"{folder}/cache")
    counter = iter(range(10**6))

    def published():
        cache.read(store, info, ask, index_digest="x")

    def miss():
        DiskCache(f"{folder}/{next(counter)}").read(store, info, ask)

    published()
    return {
        f"read, {info.stored_bytes >> 20} MiB stored": lambda: read_shard(store, info, ask),
        "read and publish": miss,
        "read from the disk cache": published,
    }


def hot_get(calls=100_000):
    """Return the microseconds of a `get` of 8 held shards."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        with MDSWriter(store, {"tokens": "ndarray:uint16:2048"}, size_limit=1 << 14) as writer:
            for row in tokens_of(2048 * 64).reshape(-1, 2048):
                writer.write({"tokens": row})
        shards = find_shards(store)
        cache = ShardCache(
            lambda i, allocate: read_shard(store, shards[i], Ask(allocate=allocate)),
            lambda i: shards[i].raw_bytes,
            budget_bytes=1 << 24,
        )
        wanted = list(range(8))
        cache.get(wanted)
        started = time.perf_counter()
        for _ in range(calls):
            cache.get(wanted)
        taken = time.perf_counter() - started
        cache.close()
        return {"what": "get of 8 held shards", "us": 1e6 * taken / calls}


def main():
    """Print one table and write one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pool = BufferPool(1 << 30)
    with tempfile.TemporaryDirectory() as folder:
        rows = interleave(memory(pool), args.repeats) + interleave(disk(folder, pool), args.repeats)
    rows.append(hot_get())
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = {"commit": git.stdout.strip(), "python": platform.python_version()}
    versions |= {"kernel": platform.release(), "cpus": os.cpu_count(), "repeats": args.repeats}
    for row in rows:
        if "us" in row:
            print(f"{row['what']:28} {row['us']:8.2f} us")
            continue
        low, high = row["ms_quartiles"]
        times = f"{row['ms']:8.1f} ms ({low:.1f} to {high:.1f})"
        print(f"{row['what']:28} {times:32} CPU {row['cpu_ms']:6.1f} ms")
    if args.out is not None:
        args.out.write_text("".join(json.dumps(row | versions) + "\n" for row in rows))


if __name__ == "__main__":
    main()
