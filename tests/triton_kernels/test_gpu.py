# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels against the CPU: every `check` of gpu/*.py; needs a CUDA device.

Each runs in a process of its own, because Triton's interpreter must be off, and because an address
out of range spoils CUDA for the rest of a process.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CHECKS = sorted((HERE / "gpu").glob("*.py"))
SCRIPT = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path(sys.argv[2])['check']()"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_compiled_kernels_equal_the_cpu(path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(HERE), str(path)],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_every_file_has_a_check(path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    assert callable(runpy.run_path(str(path))["check"])
