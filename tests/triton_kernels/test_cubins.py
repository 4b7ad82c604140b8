# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for four architectures, without spills; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes of shared memory a program may take, by compute capability."""


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_kernels_compile_without_spills(capability):
    script = Path(__file__).with_name("compile_kernels.py")
    run = subprocess.run(
        [sys.executable, str(script), str(capability)],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {row["case"].split("-")[0] for row in rows} == {"scores", "select"}
    for row in rows:
        assert row["stack"] == row["local"] == row["spills"] == 0, row
        assert row["registers"] <= 255, row
        assert row["shared"] <= SHARED_LIMIT[capability], row
        assert row["fused"] == 0, row
    table_reads = {row["case"]: row["loads_128"] for row in rows}
    assert table_reads["scores-u16-64"] > 0, "table rows are no longer read 16 bytes at a time"
