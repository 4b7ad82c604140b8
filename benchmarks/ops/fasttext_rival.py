# SPDX-License-Identifier: Apache-2.0
"""fastText's predict on lines of text: CPU seconds of one thread.

It runs in a process of its own, under this Python where `fasttext` can be imported, else in
build/bench-fasttext, which is made once from PyPI; without a network it is reported as missing.
What is called is the C++ method beneath `predict(list of lines)`, which is the faster of the two.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .facts import ROOT, is_installed

VENV = ROOT / "build" / "bench-fasttext"
PACKAGES = ("fasttext-wheel==0.9.2", "numpy<2.4")

SCRIPT = """
import json, sys, time
import fasttext
ask = json.loads(sys.argv[1])
lines = [line.rstrip("\\n") for line in open(ask["lines"], encoding="utf-8")]
model = fasttext.train_supervised(
    ask["training"], dim=ask["dim"], wordNgrams=ask["ngrams"], bucket=ask["buckets"], minn=0,
    maxn=0, epoch=1, thread=1, verbose=0, minCount=1,
)
lines = [line + "\\n" for line in lines]
taken = []
for _ in range(ask["trials"] + 1):
    start = time.process_time()
    model.f.multilinePredict(lines, 1, 0.0, "strict")
    taken.append(time.process_time() - start)
words = sum(len(line.split()) for line in lines)
print(json.dumps({"seconds": taken[1:], "words": words, "vocabulary": len(model.words)}))
"""


def python() -> str | None:
    """Return a Python that has fastText, or None where it cannot be had."""
    if is_installed("fasttext"):
        return sys.executable
    path = VENV / "bin" / "python"
    if not (VENV / "made").exists():
        pip = [path, "-m", "pip", "--disable-pip-version-check", "-q", "install", *PACKAGES]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
            subprocess.run(pip, check=True, capture_output=True, timeout=300)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        (VENV / "made").touch()
    return str(path)


def predict(
    lines: list[str], labels: list[int], *, ngrams: int, dim: int, buckets: int, trials: int
) -> dict[str, Any] | None:
    """Train one epoch on the lines with their labels, then predict every line.

    Returns:
        `seconds` [trials] for all lines, `words`, `vocabulary`; None where there is no fastText.
    """
    found = python()
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, training = Path(folder, "lines"), Path(folder, "training")
        plain.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        marked = (f"__label__{label} {line}\n" for label, line in zip(labels, lines, strict=True))
        training.write_text("".join(marked), encoding="utf-8")
        ask = {"lines": str(plain), "training": str(training), "ngrams": ngrams, "dim": dim,
               "buckets": buckets, "trials": trials}  # fmt: skip
        command = [found, "-c", SCRIPT, json.dumps(ask)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
