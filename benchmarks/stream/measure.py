# SPDX-License-Identifier: Apache-2.0
"""One reader measured in one process: python -m stream.measure JSON prints one line of results.

The clock starts before the constructor and after the imports. CPU seconds are user and system of
this process and all its descendants; peak memory is the high-water mark of each of them, less that
of a process that has only imported torch. Nobody touches a batch beyond its shape and type.

A virtual machine may give free memory back to its host; to get it again costs ten times what it
costs to clear memory that is there, and how much of it a run meets is chance. So before the clock
starts a process of its own takes `settled_gb`, writes to every page and ends.
"""

import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import contents, ours, peers
from .reader import BATCH_ROWS, SEQ_LEN, Place

READERS = {
    "moot": (ours.moot, ("torch", "moot.loader", "pyarrow.parquet", "obstore", "zstandard")),
    "mosaic": (peers.mosaic, ("torch", "boto3")),
    "litdata": (peers.litdata, ("torch", "litdata", "boto3", "obstore")),
    "webdataset": (peers.webdataset, ("torch", "webdataset")),
    "huggingface": (peers.huggingface, ("datasets", "fsspec.implementations.http")),
    "memmap": (peers.memmap, ()),
}
_FOLLOWED = 20  # batches compared after a resume
_AROUND = 32  # batches around the end of an epoch


def main(ask):
    """Run what is asked and return its figures."""
    sys.path[:0] = ask.get("first_on_path", [])
    if ask["mode"] == "base":
        importlib.import_module("torch")
        return {"peak_kb": _peak_kb(os.getpid())}
    make, imports = READERS[ask["reader"]]
    for name in imports:
        importlib.import_module(name)
    if ask["reader"] == "mosaic":
        peers.import_streaming()
    place = Place(**{**ask["place"], "served": Path(ask["place"]["served"])})
    place = Place(**{**place.__dict__, "cache": Path(place.cache)})
    modes = {
        "pass": read_pass,
        "verify": verify,
        "states": save_states,
        "resume": resume,
        "boundary": boundary,
        "open": open_index,
    }
    settle_memory(ask["settled_gb"])
    return modes[ask["mode"]](lambda: make(place, **ask["options"]), ask)


def settle_memory(num_gb):
    """Make `num_gb` of free memory the machine's own, where it has that much to spare."""
    import psutil

    size = num_gb << 30
    if psutil.virtual_memory().available < 2 * size:
        return
    code = (
        f"from mmap import *; m = mmap(-1, {size}, MAP_PRIVATE | MAP_ANONYMOUS);"
        f"m.madvise(MADV_HUGEPAGE); m[::4096] = bytes({size >> 12})"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def read_pass(make, ask):
    """Read for `limit_s` seconds or `batches`, whichever ends first, but `least` at least."""
    cpu, started = _tree_cpu_s(), time.perf_counter()
    reader = make()
    ends = []
    for batch in _endless(reader):
        ends.append(time.perf_counter())
        if len(ends) == 1:
            _check(batch)
        is_late = ends[-1] - started > ask["limit_s"] and len(ends) >= ask["least"]
        if is_late or len(ends) == ask["batches"]:
            break
    cpu = _tree_cpu_s() - cpu
    waits = np.diff(ends) if len(ends) > 1 else np.zeros(1)
    skipped = len(ends) // 10
    steady_s = ends[-1] - ends[skipped]
    figures = {
        "batches": len(ends),
        "seconds": ends[-1] - started,
        "samples_per_s": len(ends) * BATCH_ROWS / (ends[-1] - started),
        "steady_samples_per_s": (len(ends) - 1 - skipped) * BATCH_ROWS / steady_s
        if steady_s
        else 0.0,
        "first_batch_s": ends[0] - started,
        "cpu_s": cpu,
        "cpu_s_per_raw_gb": cpu / (len(ends) * BATCH_ROWS * SEQ_LEN * 2e-9),
        "p99_wait_ms": 1e3 * float(np.quantile(waits, 0.99)),
        "median_wait_ms": 1e3 * float(np.median(waits)),
        "longest_wait_ms": 1e3 * float(waits.max()),
        "peak_mb": _tree_peak_mb(ask["base_kb"]),
    }
    reader.close()
    if ask["place"]["is_packed"]:
        tokens = np.diff(
            np.load(Path(ask["place"]["served"], ask["place"]["corpus"], "starts.npy"))
        )
        documents = len(ends) * BATCH_ROWS * SEQ_LEN / tokens.mean()
        figures["documents_per_s"] = documents / figures["seconds"]
        figures["documents_per_cpu_s"] = documents / cpu
    return figures


def verify(make, ask):
    """Read one whole pass and compare what came with what the corpus holds."""
    reader = make()
    seen = contents.Seen(ask["place"])
    epoch, goes_on = reader.epoch(), reader.is_endless and ask["place"]["is_packed"]
    if reader.is_endless:  # strands of documents end at slightly different batches
        epoch = itertools.islice(epoch, ask["batches"] * 51 // 50 if goes_on else ask["batches"])
    for batch in epoch:
        seen.add(_stored(batch))
    reader.close()
    return seen.verdict(goes_on=goes_on)


def save_states(make, ask):
    """Read on, and keep the state at some places with the samples that come after each."""
    reader = make()
    stream = iter(_endless(reader))
    kept, delivered = {}, []
    for stop in ask["stops"]:
        while len(delivered) < stop:
            delivered.append(contents.fingerprints(_stored(next(stream))))
        state = reader.state()
        while len(delivered) < stop + _FOLLOWED:
            delivered.append(contents.fingerprints(_stored(next(stream))))
        kept[stop] = state
    reader.close()
    np.save(Path(ask["states"]) / "delivered.npy", np.stack(delivered))
    (Path(ask["states"]) / "states.json").write_text(json.dumps(kept))
    return {"states": len(kept)}


def resume(make, ask):
    """Continue from a state: seconds to the first batch, and what the next batches hold."""
    started = time.perf_counter()
    reader = make()
    stream = iter(_endless(reader))
    batches = [next(stream)]
    first_batch_s = time.perf_counter() - started
    batches += itertools.islice(stream, _FOLLOWED - 1)
    got = np.stack([contents.fingerprints(_stored(batch)) for batch in batches])
    reader.close()
    delivered = np.load(Path(ask["states"]) / "delivered.npy")
    expected = delivered[ask["stop"] : ask["stop"] + _FOLLOWED]
    return {
        "first_batch_s": first_batch_s,
        "is_same_sequence": bool(np.array_equal(got, expected)),
        "is_same_set": bool(np.array_equal(np.sort(got, None), np.sort(expected, None))),
        "replayed_samples": int(np.isin(got, delivered[: ask["stop"]]).sum()),
        "compared_samples": int(got.size),
    }


def boundary(make, ask):
    """Read past the end of an epoch: the longest wait there against the median wait."""
    reader = make()
    ends = []
    for batch in _endless(reader):
        ends.append(time.perf_counter())
        del batch
        if len(ends) == ask["batches"] * 3 // 2:
            break
    reader.close()
    waits = np.diff(ends)
    near = waits[ask["batches"] - _AROUND : ask["batches"] + _AROUND]
    median_s = statistics.median(waits)
    return {
        "gap_ms": 1e3 * float(near.max()),
        "median_wait_ms": 1e3 * median_s,
        "gap_in_waits": float(near.max()) / median_s,
    }


def open_index(make, ask):
    """Open a corpus of very many shards: seconds and memory to the reader, and to a batch."""
    if ask["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (ask["memory_bytes"],) * 2)
    started = time.perf_counter()
    reader = make()
    figures = {
        "constructor_s": time.perf_counter() - started,
        "constructor_peak_mb": _tree_peak_mb(ask["base_kb"]),
    }
    next(iter(reader.epoch()))
    figures["first_batch_s"] = time.perf_counter() - started
    figures["peak_mb"] = _tree_peak_mb(ask["base_kb"])
    reader.close()
    return figures


def _endless(reader):
    while True:
        num = 0
        for batch in reader.epoch():
            num += 1
            yield batch
        if not num:
            raise RuntimeError("an epoch without a batch")


def _stored(batch):
    """Return a batch as uint16 [64, 2048]."""
    return np.asarray(batch).astype(np.uint16, copy=False)


def _check(batch):
    if tuple(batch.shape) != (BATCH_ROWS, SEQ_LEN) or "int" not in str(batch.dtype):
        raise RuntimeError(f"a batch is {tuple(batch.shape)} {batch.dtype}")


def _tree():
    import psutil

    main = psutil.Process()
    return [main, *main.children(recursive=True)]


def _tree_cpu_s():
    """Seconds of this process, of its descendants, and of those of them that have ended."""
    import psutil

    total = 0.0
    for process in _tree():
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def _tree_peak_mb(base_kb):
    peaks = [_peak_kb(process.pid) for process in _tree()]
    return sum(max(0, peak - base_kb) for peak in peaks) / 1e3


def _peak_kb(pid):
    """The high-water mark of one process's resident memory, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    figures = main(json.loads(sys.argv[1]))
    print("RESULT " + json.dumps(figures), flush=True)
