# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels give the bits of the native routines; needs a CUDA device."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys, torch
sys.path.insert(0, {folder!r})
import test_document_scores as scores, test_select as selecting
from moot.triton_kernels import document_scores, select

def same(native, compiled):
    moved = {{name: value.cpu() for name, value in vars(compiled).items()}}
    scores.assert_same_bits(native, type(native)(**moved))

for seed in range(20):
    generator = torch.Generator().manual_seed(seed)
    model = scores.make_model(generator, 1024, 16 * (1 + seed % 6), 21)
    agents = scores.make_agents(generator, 21)
    batch = scores.make_batch(generator, [0, 1, 2, 65, 1000, 3 * seed], scores.DTYPES[seed % 3])
    tokens, cu_seqlens, stored = batch
    on_gpu = document_scores(
        tokens.cuda(), cu_seqlens.cuda(), model.to("cuda"), agents.to("cuda"), stored.cuda()
    )
    same(document_scores(tokens, cu_seqlens, model, agents, stored), on_gpu)
    arguments = selecting.make_candidates(seed, 3, 200 + seed, coarse=seed % 2 == 0)
    rule = dict(seed=seed, temperature=seed % 3 / 2, max_count=90, budget_tokens=700)
    same(select(*arguments, **rule), select(*(value.cuda() for value in arguments), **rule))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_kernels_equal_native_bit_for_bit():
    script = SCRIPT.format(folder=os.path.dirname(__file__))
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
