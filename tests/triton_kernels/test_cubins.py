# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for four architectures, without spills; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes of shared memory a program may take, by compute capability."""


def ops_with_kernels():
    """Names of the ops that have a Triton kernel, by their folders."""
    import moot.triton_kernels

    folder = Path(moot.triton_kernels.__file__).parent
    return {path.parent.name for path in folder.glob("*/kernel.py")}


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_kernels_compile_without_spills(capability):
    run = subprocess.run(
        [sys.executable, str(HERE / "compile_kernels.py"), str(capability)],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {row["case"].split("-")[0] for row in rows} == ops_with_kernels()
    for row in rows:
        assert row["stack"] == row["local"] == row["spills"] == 0, row
        assert row["registers"] <= 255, row
        assert row["shared"] <= SHARED_LIMIT[capability], row
        assert row["broken"] == [], row
