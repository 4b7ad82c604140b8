"""The whole path through the Triton kernels, in the interpreter: the loader really calls them."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys, zlib
import numpy as np
import torch
from corpora import small_agents
from moot.loader import ConsoleConfig, Loader
from moot.loader.batches import FIELDS

how, device, corpus = sys.argv[1:]
settings = dict(batch_rows=4, seq_len=32, num_slots=2, lanes=4, num_probes=12)
console = ConsoleConfig(refresh_steps=4, policy_lag=2)
settings |= dict(fields=FIELDS, console=console, agents=small_agents())
settings |= dict(implementation=how, device=device)
batches, lines = [], []
with Loader(corpus, **settings) as loader:
    stream = iter(loader)
    for step in range(20):
        batches.append(next(stream))
        if device == "cuda" and step == 2:  # all is compiled: from here on nothing may wait
            torch.cuda.set_sync_debug_mode("error")
        pieces = loader.pieces(step)
        where = (pieces.sample_id, pieces.offset, pieces.length)
        lines.append((step, *(part.tolist() for part in where)))
        refresh = loader.refresh_due()
        if refresh is not None:
            probes = loader.probes(refresh)
            loader.credit(refresh, probes.ids, np.sin(probes.sample_id * 1.3))
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    for line, batch in zip(lines, batches, strict=True):
        batch = {name: batch[name].cpu() for name in sorted(batch)}
        print(*line)
        print(list(batch), [zlib.crc32(value.numpy().tobytes()) for value in batch.values()])
        print([(value.dtype, value.shape) for value in batch.values()])
    loaded = sorted(name for name in sys.modules if name.startswith("moot") and "kernel" in name)
    ops = ("document_scores", "select", "gather_documents")
    print("compiled kernels in use:", [f"moot.triton_kernels.{op}.kernel" in loaded for op in ops],
          file=sys.stderr)
"""


def run(corpus, how, device="cpu"):
    support = os.path.join(os.path.dirname(__file__), "..", "support")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": support}
    env["TRITON_INTERPRET"] = "1" if device == "cpu" else "0"
    command = [sys.executable, "-c", SCRIPT, how, device, corpus]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from corpora import random_lengths, write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"), random_lengths(200))


@pytest.fixture(scope="module")
def kept(corpus):
    return {how: run(corpus, how) for how in ("native", "reference", "triton")}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_keeps_the_ids_that_the_cpu_keeps_and_waits_for_nothing(corpus):
    on_device = run(corpus, "auto", "cuda")
    assert on_device.stdout == run(corpus, "native").stdout
    assert "in use: [True, True, True]" in on_device.stderr


def test_twenty_steps_through_the_kernels_keep_the_same_ids_and_make_the_same_batches(kept):
    assert kept["triton"].stdout.count("\n") == 60
    assert kept["triton"].stdout == kept["native"].stdout == kept["reference"].stdout


def test_the_kernels_ran(kept):
    assert "in use: [True, True, True]" in kept["triton"].stderr
    assert "in use: [False, False, False]" in kept["native"].stderr
