# SPDX-License-Identifier: Apache-2.0
"""How fast is every op on this GPU, against its rivals and against what the device can do?

    python benchmarks/bench_gpu.py [--quick] [--only select,novelty] [--cpu] [--out FOLDER]

Ceilings first, then `measure` of every benchmarks/bench_<op>.py, each in a process of its own: an
op that fails or hangs is recorded as failed, and the others run. All of it ends within nine
minutes; what there was no time for is recorded too. Writes benchmarks/results/ops_<device>_<yyyymm>
.json. With --cpu the CPU side of every op runs instead, with one thread, and a table is written
beside the JSON. Needs torch and the installed package; no network. Exit status: 0 if every op ran,
1 if one failed, 2 if there is no CUDA device.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPS = (
    "document_scores", "ngram_log_ratio", "sequence_loss", "ghost_influence", "gradient_sketch",
    "head_influence", "novelty", "select", "gather_documents", "inline",
)  # fmt: skip
LIMIT_S = 525.0  # of the nine minutes; the rest is for writing and for the last process to end
OP_LIMIT_S = 75.0  # compiling included
CPU_OP_LIMIT_S = 300.0


def main() -> int:
    """Run everything, write the results, return the exit status."""
    options = _options()
    import torch

    if options.one:
        return _run_one(options.one, torch.device(options.device), options.quick)
    if not options.cpu and not torch.cuda.is_available():
        print("bench_gpu: no CUDA device here; --cpu measures the CPU side of every op")
        return 2
    device = torch.device("cpu" if options.cpu else "cuda")
    from ops import facts, table, write

    content: dict[str, Any] = {"facts": facts(device), "quick": options.quick, "rows": []}
    started = time.monotonic()
    measured = _child("ceilings", device.type, options.quick, OP_LIMIT_S)
    content["ceilings"] = {} if "failed" in measured[0] else measured[0]
    content["rows"] += [row for row in measured if "failed" in row]
    for op in options.only.split(",") if options.only else OPS:
        left = LIMIT_S - (time.monotonic() - started)
        limit = CPU_OP_LIMIT_S if options.cpu else min(OP_LIMIT_S, left)
        content["rows"] += _child(op, device.type, options.quick, limit)
        content["wall_s"] = round(time.monotonic() - started, 1)
        month = time.strftime("%Y%m")  # written after each op: a kill leaves what was measured
        path = write(options.out, device, month, content, with_table=options.cpu)
    print(table(content["rows"], content["ceilings"]))
    print(f"bench_gpu: {content['wall_s']} s, {path}")
    return int(any("failed" in row for row in content["rows"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller shapes, fewer trials")
    parser.add_argument("--only", default="", help="ops, with commas between them")
    parser.add_argument("--cpu", action="store_true", help="the CPU side, with one thread")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="a folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(op: str, device: str, quick: bool, limit_s: float) -> list[dict[str, Any]]:
    """Measure one op in a process of its own; a failure is a row."""
    if limit_s < 5:
        return [{"op": op, "failed": "no time left: the whole run has nine minutes"}]
    command = [sys.executable, __file__, "--one", op, "--device", device]
    print(f"bench_gpu: {op}", flush=True)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            status = subprocess.run(
                command + ["--quick"] * quick, stdout=out, stderr=err, timeout=limit_s,
                env={**os.environ, "TRITON_INTERPRET": "0"}, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return [{"op": op, "failed": f"not done within {limit_s:.0f} s"}]
        for stream in (out, err):
            stream.seek(0)
        said = [line[4:] for line in out.read().splitlines() if line.startswith("ROW ")]
        rows = [json.loads(line) for line in said]
        if status == 0 and rows:
            return rows
        why = err.read().strip()[-1500:] or f"exit status {status}, no row"
        return [*rows, {"op": op, "failed": why}]


def _run_one(op: str, device: Any, quick: bool) -> int:
    """Print a line for each row of one op."""
    import torch

    torch.set_num_threads(1)
    if op == "ceilings":
        from ops import ceilings

        rows = [dict(ceilings(device, quick))]
    else:
        rows = runpy.run_path(str(HERE / f"bench_{op}.py"))["measure"](device, quick)
    for row in rows:
        print("ROW " + json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
