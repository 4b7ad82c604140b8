# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed at random points and resumed: the same samples, and nothing left behind.

A child process streams two streams of documents, packed, through the disk cache, with a change of
the mixture ahead, and notes state and samples of every batch. It is killed with SIGKILL, started
again from its last note, killed again; what all its lives read together is compared with a run that
nobody disturbed.
"""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from corpora import random_lengths, write_corpus
from moot.loader import Loader
from moot.loader.corpus import Stream

PACKINGS = ["contiguous", "first_fit", "best_fit", "pad"]
KILLS = 5  # of each packing
STEPS = 150
CHANGE = 90  # behind what may be planned when the run begins

# One process imports everything; each life is a fork of it, made before it has any thread.
NURSERY = """
import json, os, signal, sys, time
from moot.loader import Loader
from moot.loader.corpus import Stream


def live(folder, packing, log, steps, change, stop):
    settings = {"batch_rows": 4, "seq_len": 64, "num_slots": 2, "seed": 11, "window_shards": 4}
    streams = [Stream(f"{folder}/a", proportion=3), Stream(f"{folder}/b", proportion=1)]
    lines = open(log).read().split("\\n")[:-1] if os.path.exists(log) else []
    with open(log, "w") as out:  # a line that was cut off is written again
        out.writelines(line + "\\n" for line in lines)
    out = open(log, "a", buffering=1)
    with Loader(streams, **settings, packing=packing, cache_dir=f"{folder}/cache") as loader:
        if lines:
            loader.load_state_dict(json.loads(lines[-1])["state"])
        else:
            loader.set_mixture([1, 4], step=change)
        stream = iter(loader)
        for step in range(len(lines), steps):
            next(stream)
            pieces = loader.pieces(step)
            read = [part.tolist() for part in (pieces.sample_id, pieces.offset, pieces.length)]
            out.write(json.dumps({"read": read, "state": loader.state_dict()}) + "\\n")
            if step >= stop:
                time.sleep(0.002)  # now the kill may come any time


for line in sys.stdin:
    life = json.loads(line)
    delay_s = life.pop("delay_s")
    child = os.fork()
    if not child:
        live(**life)
        os._exit(0)
    if life["stop"] < life["steps"]:
        while not os.path.exists(life["log"]):
            time.sleep(0.001)
        while open(life["log"]).read().count("\\n") < life["stop"]:
            time.sleep(0.001)
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    write_corpus(root / "a", random_lengths(200), size_limit=1 << 12)
    write_corpus(root / "b", random_lengths(120, 1), size_limit=1 << 12)
    return root


def open_loader(folder, packing, **changes):
    settings = {"batch_rows": 4, "seq_len": 64, "num_slots": 2, "seed": 11, "window_shards": 4}
    streams = [Stream(f"{folder}/a", proportion=3), Stream(f"{folder}/b", proportion=1)]
    return Loader(streams, **settings, packing=packing, **changes)


def take(loader, stream, step):
    next(stream)
    pieces = loader.pieces(step)
    return [part.tolist() for part in (pieces.sample_id, pieces.offset, pieces.length)]


def undisturbed(folder, packing):
    """What is read without a kill, and each step's state."""
    with open_loader(folder, packing) as loader:
        loader.set_mixture([1, 4], step=CHANGE)
        stream = iter(loader)
        seen = [(take(loader, stream, step), loader.state_dict()) for step in range(STEPS)]
    return [read for read, _ in seen], [state for _, state in seen]


@pytest.fixture(scope="module")
def nursery():
    """Lives one life after the other; returns how each ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def live(**life):
        process.stdin.write(json.dumps(life) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield live
    process.stdin.close()
    process.stdout.close()
    process.wait(30)


@pytest.mark.parametrize("packing", PACKINGS)
def test_killed_runs_resume_with_the_same_samples(folder, tmp_path, nursery, packing):
    rng = random.Random(packing)
    whole, states = undisturbed(folder, packing)
    log = tmp_path / "log"
    life = {"folder": str(folder), "packing": packing, "log": str(log)}
    life |= {"steps": STEPS, "change": CHANGE}
    shared_memory = set(os.listdir("/dev/shm"))
    for stop in sorted(rng.sample(range(STEPS - 20), KILLS)):
        assert nursery(**life, stop=stop, delay_s=rng.uniform(0, 0.01)) == signal.SIGKILL
    assert nursery(**life, stop=STEPS, delay_s=0) == 0
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    assert [note["read"] for note in notes] == whole
    assert [note["state"] for note in notes] == states
    assert set(os.listdir("/dev/shm")) <= shared_memory
    assert any(file.suffix == ".shard" for file in (folder / "cache").rglob("*"))
    with open_loader(folder, packing, cache_dir=str(folder / "cache")):
        pass  # who opens the cache next removes what a killed one was writing
    assert not [f for f in (folder / "cache").rglob("*") if f.suffix == ".part"]
    assert not list((folder / "cache").rglob("quarantine/*"))


def test_the_change_of_the_mixture_is_in_every_state(folder):
    with open_loader(folder, "contiguous") as loader:
        num_first = loader._source.corpus.first_sample[loader._source.corpus.first_shard[1]]
    whole, _ = undisturbed(folder, "contiguous")

    def share(part):
        lengths = [sum(n for i, n in zip(r[0], r[2], strict=True) if i >= num_first) for r in part]
        return sum(lengths) / (len(part) * 256)

    assert share(whole[:CHANGE]) < 0.5 < share(whole[CHANGE + 10 :])


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_state_of_every_step_goes_on_twice_in_a_row(folder, packing):
    whole, states = undisturbed(folder, packing)
    steps = [*range(0, 12), CHANGE - 2, CHANGE - 1, CHANGE, CHANGE + 1]
    with open_loader(folder, packing) as loader:
        for step in steps:
            for _ in range(2):
                loader.load_state_dict(json.loads(json.dumps(states[step])))
                assert loader.state_dict() == states[step]
                stream = iter(loader)
                assert take(loader, stream, step + 1) == whole[step + 1]
                assert loader.state_dict() == states[step + 1]


def open_files():
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.islink(link)}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_close_leaves_no_thread_no_file_and_no_shared_memory(folder, tmp_path):
    with open_loader(folder, "first_fit", cache_dir=str(tmp_path)) as loader:
        next(iter(loader))  # what is opened once a process is open now
    gc.collect()
    threads, files, shared = set(threading.enumerate()), open_files(), set(os.listdir("/dev/shm"))
    for packing in PACKINGS:
        loader = open_loader(folder, packing, cache_dir=str(tmp_path))
        stream = iter(loader)
        for step in range(5):
            take(loader, stream, step)
        loader.close()
        assert set(threading.enumerate()) <= threads
    assert open_files() <= files
    assert set(os.listdir("/dev/shm")) <= shared
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix == ".part"]
