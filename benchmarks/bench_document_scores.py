# SPDX-License-Identifier: Apache-2.0
"""How fast are documents scored on one core: native routine against the plain-torch reference?

    python benchmarks/bench_document_scores.py [--documents 2000] [--repeats 7] [--out FILE.json]

Runs are interleaved, medians reported with their spread; equality of the bits is the gate. The
roofline is a plain copy of as many table bytes as the n-grams read.
"""

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path

import torch
from moot.triton_kernels import AgentTables, NgramModel, document_scores

DIM, BUCKETS, HEADS = 64, 1 << 16, 21


def make_inputs(num_documents: int) -> tuple:
    """Documents of 1 to 1,200 tokens, a 4 MB table, an agent of each kind."""
    generator = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(dtype)

    model = NgramModel(
        table=integers(-128, 128, BUCKETS, DIM, dtype=torch.int8),
        heads=integers(-(2**15), 2**15, HEADS, DIM, dtype=torch.int16),
        bias=integers(-(10**5), 10**5, HEADS, dtype=torch.int32),
        scale=torch.full((HEADS,), 1e-6),
        orders=(1, 2, 3),
    )
    agents = AgentTables(
        kind=torch.tensor([1, 0, 2], dtype=torch.int32),
        first_head=torch.tensor([0, 0, 8], dtype=torch.int32),
        num_states=torch.tensor([5, 7, 13], dtype=torch.int32),
        edges=torch.tensor([[-1.0, -0.3, 0.3, 1.0] + [math.inf] * 8] + [[math.inf] * 12] * 2),
        memory=torch.randn(3, 13, generator=generator),
        theta=torch.ones(3),
    )
    cu_seqlens = torch.cat([
        torch.zeros(1, dtype=torch.int64),
        integers(1, 1200, num_documents, dtype=torch.int64).cumsum(0),
    ])
    tokens = integers(0, 8192, int(cu_seqlens[-1]), dtype=torch.uint16)
    stored = integers(0, 5, num_documents, 3, dtype=torch.int32)
    return tokens, cu_seqlens, model, agents, stored


def seconds(work: object) -> float:
    """CPU time of one call of work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure, print one JSON line for each implementation, optionally write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    inputs = make_inputs(options.documents)
    tokens, cu_seqlens = inputs[0], inputs[1]
    results = [document_scores(*inputs, implementation=name) for name in ("native", "reference")]
    for name in ("values", "states", "votes", "total"):
        assert torch.equal(getattr(results[0], name), getattr(results[1], name)), name
    num_ngrams = int(sum((cu_seqlens.diff() - k).clamp(min=0).sum() for k in range(3)))
    source = torch.zeros(num_ngrams * DIM, dtype=torch.int8)
    target = torch.empty_like(source)
    work = {
        "native": lambda: document_scores(*inputs),
        "reference": lambda: document_scores(*inputs, implementation="reference"),
        "copy of the table bytes": lambda: target.copy_(source),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats):
        for name, call in work.items():
            times[name].append(seconds(call))
    rows = []
    for name, taken in times.items():
        middle = statistics.median(taken)
        rows.append({
            "subject": "document_scores", "implementation": name, "cpu_s": middle,
            "fastest_s": min(taken), "slowest_s": max(taken),
            "documents_per_s": options.documents / middle,
            "megatokens_per_s": len(tokens) / middle / 1e6,
            "table_gigabytes_per_s": num_ngrams * DIM / middle / 1e9,
            "documents": options.documents, "tokens": len(tokens), "dim": DIM,
            "buckets": BUCKETS, "heads": HEADS, "orders": [1, 2, 3], "threads": 1,
            "machine": platform.machine(), "processor": processor_name(),
            "torch": torch.__version__, "python": platform.python_version(),
        })  # fmt: skip
        print(json.dumps(rows[-1]))
    if options.out:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def processor_name() -> str:
    """The processor's model name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
