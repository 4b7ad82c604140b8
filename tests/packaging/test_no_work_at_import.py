# SPDX-License-Identifier: Apache-2.0
"""Importing a package does no work: it loads nothing heavy, starts no thread, prints nothing."""

import json
import subprocess
import sys

import pytest

HEAVY = ["triton", "pyarrow", "matplotlib", "tokenizers", "sklearn", "jinja2"]
HEAVY += ["typer", "rich", "streaming"]
PROBE = """
import json, sys, threading
import {module}
print(json.dumps({{
    "heavy": [name for name in {heavy!r} if name in sys.modules],
    "threads": [thread.name for thread in threading.enumerate()],
}}))
"""


@pytest.mark.parametrize("module", ["moot.triton_kernels", "moot.loader", "moot.trainer"])
def test_import_loads_nothing_heavy_and_starts_no_thread(module, tmp_path):
    code = PROBE.format(module=module, heavy=HEAVY)
    # Away from the repository root, whose folders would shadow the namespace.
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 1, f"importing {module} prints: {ran.stdout}"
    seen = json.loads(lines[0])
    assert seen["heavy"] == []
    assert seen["threads"] == ["MainThread"]
