# SPDX-License-Identifier: Apache-2.0
"""The committed stubs are what nanobind generates from the installed modules (`make stubs`)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "stub"),
    [
        ("moot.loader._core", "loader/_core.pyi"),
        ("moot.triton_kernels._native", "triton_kernels/_native.pyi"),
    ],
)
def test_committed_stub_is_the_generated_one(module, stub, tmp_path):
    out = tmp_path / "generated.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", module, "-o", str(out)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert (ROOT / stub).read_text() == out.read_text(), "run `make stubs` and commit the result"
