# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of ops share: timing, ceilings, facts about the machine, rows of JSON.

A file `benchmarks/bench_<op>.py` asks one question and has

    from ops import interleaved, main, not_installed, rotated, row

    OP = "select"

    def measure(device: torch.device, quick: bool) -> list[dict]:
        inputs = make_inputs(device, quick)
        check(inputs)                          # the gate: raise where results are not right
        some = rotated(inputs, device)         # copies that together leave the L2
        works = {
            "triton": lambda i: select(*some[i % len(some)]),
            "torch": lambda i: by_torch(*some[i % len(some)]),
        }
        rows = [
            row(OP, name, timing, device, candidates=8192, gigabytes_per_s=GB / timing.median_s)
            for name, timing in interleaved(works, device, quick).items()
        ]
        return rows + not_installed(OP, device, ["liger_kernel"])

    if __name__ == "__main__":
        main(measure)

`bench_gpu.py` runs all of them, each in a process of its own, and measures the ceilings in the same
run; a `measure` has 45 s on an H200, and with quick a third of it. A figure named `tflops` or
`gigabytes_per_s` is set against the ceiling of its kind in the table. An op that raises is recorded
as failed, with what it said, and the others go on.
"""

from .ceilings import ceilings
from .command import main
from .facts import facts, processor
from .rows import not_installed, row, table, write
from .timing import Timing, captured, interleaved, rotated

__all__ = [
    "Timing",
    "captured",
    "ceilings",
    "facts",
    "interleaved",
    "main",
    "not_installed",
    "processor",
    "rotated",
    "row",
    "table",
    "write",
]
