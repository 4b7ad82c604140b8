# SPDX-License-Identifier: Apache-2.0
"""Time of a piece of work: device events on CUDA, CPU time of this thread elsewhere.

Works are interleaved, trial by trial, so that a change of clock or a noisy neighbour meets all of
them. On CUDA a trial is several calls between two events, and the device is kept busy until the
host has queued them: what is measured is the device's time, unless the host needs longer than the
device; `host_bound` then says so. On the CPU torch has one thread, and time is this thread's own.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Work = Callable[[int], object]
"""Is called with a running number, by which it takes one of its rotated inputs."""
Inputs = TypeVar("Inputs", bound=tuple)

_TRIAL_S = 4e-3
_MOST_CALLS = 64
_SPIN_CYCLES = 200_000  # about 0.1 ms for each call, in which the host queues it
_ROTATED_BYTES = 192 << 20  # more than any L2, Blackwell's 126 MB included
_MOST_COPIES = 64


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over the trials.

    `host_bound` is True where queueing the calls took longer than running them.
    """

    median_s: float
    fastest_s: float
    slowest_s: float
    trials: int
    calls: int
    host_bound: bool = False


def rotated(inputs: Inputs, device: torch.device) -> list[Inputs]:
    """Copy inputs until all copies together leave the L2; on the CPU there is one, the inputs.

    What is no tensor is shared.
    """
    if device.type != "cuda":
        return [inputs]
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    size = max(sum(tensor.nbytes for tensor in tensors), 1)
    copies = min(-(-_ROTATED_BYTES // size), _MOST_COPIES)
    return [
        tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)
        for _ in range(max(copies, 2))
    ]


def captured(work: Work, calls: int = 1) -> Work:
    """Capture `calls` calls of work in a CUDA graph; a call of the result replays them all."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for number in range(2):
            work(number)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [work(number) for number in range(calls)]

    def replay(number: int) -> object:
        del number
        graph.replay()
        return kept

    return replay


def interleaved(
    works: Mapping[str, Work], device: torch.device, quick: bool = False, budget_s: float = 20.0
) -> dict[str, Timing]:
    """Time every work, one trial of each after the other.

    Args:
        works: By name; the first trial of each warms up and compiles, and does not count.
        device: Where they run.
        quick: A third of the trials.
        budget_s: Trials end after it; there are at least three.
    """
    trial = _trial_cuda if device.type == "cuda" else _trial_cpu
    calls = {name: _calls(work, trial) for name, work in works.items()}
    taken: dict[str, list[tuple[float, bool]]] = {name: [] for name in works}
    wanted = 10 if quick else 31
    stop = time.perf_counter() + (budget_s / 3 if quick else budget_s)
    for number in range(wanted):
        if number >= 3 and time.perf_counter() > stop:
            break
        for name, work in works.items():
            taken[name].append(trial(work, calls[name], number * calls[name]))
    return {name: _timing(taken[name], calls[name]) for name in works}


def _timing(taken: list[tuple[float, bool]], calls: int) -> Timing:
    seconds = [each for each, _ in taken]
    is_bound = sum(bound for _, bound in taken) * 2 > len(taken)
    return Timing(
        statistics.median(seconds), min(seconds), max(seconds), len(seconds), calls, is_bound
    )


def _calls(work: Work, trial: Callable[[Work, int, int], tuple[float, bool]]) -> int:
    """How many calls make a trial long enough to be timed; warms up."""
    for number in range(2):
        once = trial(work, 1, number)[0]
    return max(1, min(_MOST_CALLS, int(_TRIAL_S / max(once, 1e-7))))


def _trial_cpu(work: Work, calls: int, first: int) -> tuple[float, bool]:
    start = time.thread_time()
    for number in range(first, first + calls):
        work(number)
    return (time.thread_time() - start) / calls, False


def _trial_cuda(work: Work, calls: int, first: int) -> tuple[float, bool]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_SPIN_CYCLES * calls)
    start.record()
    for number in range(first, first + calls):
        work(number)
    stop.record()
    is_bound = stop.query()  # the device has nothing left to do: it waited for the host
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3 / calls, is_bound
