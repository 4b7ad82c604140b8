"""The whole path through the Triton kernels, in the interpreter: the loader really calls them."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np
from corpora import small_agents
from moot.loader import ConsoleConfig, Loader

how, corpus = sys.argv[1:]
settings = dict(batch_rows=4, seq_len=32, num_slots=2, lanes=4, num_probes=12)
console = ConsoleConfig(refresh_steps=4, policy_lag=2)
settings |= dict(console=console, agents=small_agents(), implementation=how)
with Loader(corpus, **settings) as loader:
    stream = iter(loader)
    for step in range(20):
        next(stream)
        pieces = loader.pieces(step)
        print(step, pieces.sample_id.tolist(), pieces.offset.tolist(), pieces.length.tolist())
        refresh = loader.refresh_due()
        if refresh is not None:
            probes = loader.probes(refresh)
            loader.credit(refresh, probes.ids, np.sin(probes.sample_id * 1.3))
    loaded = sorted(name for name in sys.modules if name.startswith("moot") and "kernel" in name)
    print("compiled kernels in use:", any(name.endswith("select.kernel") for name in loaded),
          file=sys.stderr)
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    from corpora import random_lengths, write_corpus

    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), random_lengths(200))
    support = os.path.join(os.path.dirname(__file__), "..", "support")
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": support}
    runs = {}
    for how in ("native", "reference", "triton"):
        command = [sys.executable, "-c", SCRIPT, how, corpus]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        runs[how] = done
    return runs


def test_twenty_steps_through_the_kernels_keep_the_same_ids(kept):
    assert kept["triton"].stdout.count("\n") == 20
    assert kept["triton"].stdout == kept["native"].stdout == kept["reference"].stdout


def test_the_kernels_ran(kept):
    assert "in use: True" in kept["triton"].stderr
    assert "in use: False" in kept["native"].stderr
