# SPDX-License-Identifier: Apache-2.0
"""What does every compiled kernel take of a multiprocessor, and what is its op's floor?

    python benchmarks/resources.py [--out docs/ops/resources.md]

Compiles all cases of tests/triton_kernels/cubins for each architecture; needs no GPU.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "triton_kernels" / "compile_kernels.py"
CAPABILITIES = (80, 90, 100, 120)
COPY_BYTES_PER_S, FLOP_PER_S = 4.3e12, 790e12  # seen on an H200: copy, bf16 matrix product
HEAD = """# Resources of the compiled kernels

Written by `benchmarks/resources.py`; compiled with Triton {triton}, without a GPU. Each cell:
registers a thread / KiB of shared memory a program / warps. No kernel spills or has a stack, which
`tests/triton_kernels/test_cubins.py` sees to. "-": not launched there. Tensor core: the instruction
stands in the cubin.

| kernel | {columns} | tensor core |
|---|{rule}|---|
"""
FLOORS = """
## Floors on an H200: not measured

Predicted, not measured: what the arithmetic or the bytes of an op cost at 790 TFLOP/s of bf16 or
4.3 TB/s of copying, which were seen on an H200. The aim is the share of that ceiling that the
kernel is written for; the predicted time is the floor divided by it.

| op | shape | work | floor | aim | predicted |
|---|---|---:|---:|---:|---:|
"""
T, H, V = 16_384, 4_096, 128_256
WORK = (
    ("document_scores", "64 M tokens, uint16 (rows come from L2: not in it)", "B", 2 * 64e6, 0.70),
    ("ngram_log_ratio", "64 M tokens, uint16 (steps come from L2: not in it)", "B", 2 * 64e6, 0.70),
    ("sequence_loss", f"{T:,} tokens, H {H:,}, V {V:,}", "FLOP", 2 * T * H * V, 600 / 790),
    ("ghost_influence", f"{T:,} tokens, {H:,} x {H:,}", "FLOP", 2 * T * H * H, 600 / 790),
    ("gradient_sketch", f"{T:,} tokens, {H:,} and {H:,}, bf16", "B", 2 * T * 2 * H, 0.75),
    (
        "head_influence",
        f"{T:,} tokens, H {H:,}, V {V:,}",
        "FLOP",
        4 * T * H * V,
        2 / 2.2 * 600 / 790,
    ),
    ("novelty", "65,536 vectors, 1,024 wide, 16,384 centroids", "FLOP", 2 * 2**40, 500 / 790),
    ("gather_documents", "64 M tokens, uint16, read and written", "B", 4 * 64e6, 0.70),
)
"""Op, shape, unit, amount, aimed share of the ceiling; `select` is bound by launching: 20 us."""


def floors() -> str:
    """Return the table of predicted times."""
    text = FLOORS
    for op, shape, unit, amount, aim in WORK:
        floor_s = amount / (FLOP_PER_S if unit == "FLOP" else COPY_BYTES_PER_S)
        work = f"{amount / 1e12:.3g} TFLOP" if unit == "FLOP" else f"{amount / 1e9:.3g} GB"
        text += f"| {op} | {shape} | {work} | {floor_s * 1e6:,.0f} us | {aim:.0%} "
        text += f"| {floor_s / aim * 1e6:,.0f} us |\n"
    return text + "| select | 8,192 candidates | | launching | | 20 us in a CUDA graph |\n"


def rows_of(capability: int) -> list[dict]:
    """Compile for one capability."""
    command = [sys.executable, str(SCRIPT), str(capability)]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Compile, write the table."""
    import triton

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "ops" / "resources.md")
    out = parser.parse_args().out
    rows = [row for capability in CAPABILITIES for row in rows_of(capability)]
    cells = {
        (row["case"], row["capability"]): f"{row['registers']} / {row['shared'] / 1024:.1f} / "
        f"{row['warps']}"
        for row in rows
    }
    cored = {row["case"] for row in rows if row["tensor_core"]}
    columns = " | ".join(f"sm_{capability}" for capability in CAPABILITIES)
    rule = "|".join("---" for _ in CAPABILITIES)
    text = HEAD.format(triton=triton.__version__, columns=columns, rule=rule)
    for case in dict.fromkeys(row["case"] for row in rows):
        parts = [cells.get((case, capability), "-") for capability in CAPABILITIES]
        text += f"| {case} | {' | '.join(parts)} | {'yes' if case in cored else ''} |\n"
    out.write_text(text + floors())
    print(f"{out}: {len(rows)} cubins of {len({row['case'] for row in rows})} kernels")


if __name__ == "__main__":
    main()
