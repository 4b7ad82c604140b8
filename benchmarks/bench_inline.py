# SPDX-License-Identifier: Apache-2.0
"""What does inline selection cost: kept tokens a second, and a training step beside it?

    python benchmarks/bench_inline.py [--device cpu] [--quick] [--out FILE]

The loader offers 4 or 16 times what it keeps, scores, selects and packs on the device. First it is
read as fast as it goes. Then a small transformer trains, alternately in runs of steps on batches
from the loader and on the same batches held in memory: the ratio of the medians is the slowdown.
Wall time, because the loader has threads. The gate: the pieces of the first batches are those that
the reference keeps.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from moot.loader import ConsoleConfig, Loader
from ops import Timing, main, row
from ops.demo import FOLDER, demo

OP = "inline"
SEQ_LEN, VOCABULARY = 512, 8192
KEEPS = (1 / 4, 1 / 16)
Batch = dict[str, torch.Tensor]


def open_loader(device: torch.device, keep: float, rows: int, how: str = "auto") -> Loader:
    """Open the demo corpus with a console whose policy never changes."""
    agents = demo().agents
    memory = {
        name: torch.linspace(-1, 1, num).tolist()
        for name, num in zip(agents.names, agents.num_states, strict=True)
    }
    return Loader(
        str(FOLDER / "train"),
        batch_rows=rows,
        seq_len=SEQ_LEN,
        device=str(device),
        keep=keep,
        console=ConsoleConfig(mode="fixed", memory=memory),
        implementation=how,
    )


def check(device: torch.device, keep: float, rows: int) -> None:
    """Raise unless the first batches hold what the reference on the CPU keeps."""
    with (
        open_loader(device, keep, rows) as ours,
        open_loader(torch.device("cpu"), keep, rows, "reference") as wanted,
    ):
        left, right = next(iter(ours)), next(iter(wanted))
    wrong = [name for name, value in left.items() if not torch.equal(value.cpu(), right[name])]
    if wrong:
        raise AssertionError(f"{wrong} of the first batch differ from the reference")


class Model(torch.nn.Module):
    """A small transformer, enough of one to keep the device busy."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, width)
        layer = torch.nn.TransformerEncoderLayer(
            width, max(width // 64, 1), 4 * width, dropout=0.0, batch_first=True
        )
        self.layers = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, VOCABULARY)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss of the next token."""
        hidden = self.layers(self.embedding(batch["input_ids"]))
        logits = self.head(hidden[:, :-1]).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten())


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read(stream: Iterator[Batch], device: torch.device, num: int) -> float:
    """Seconds a batch of reading alone."""
    wait(device)
    start = time.perf_counter()
    for _ in range(num):
        next(stream)
    wait(device)
    return (time.perf_counter() - start) / num


def train(model: Model, optimizer: torch.optim.Optimizer, batches: Any, num: int) -> float:
    """Seconds a step over `num` batches of an iterator."""
    device = next(model.parameters()).device
    wait(device)
    start = time.perf_counter()
    for _ in range(num):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model.loss(next(batches))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait(device)
    return (time.perf_counter() - start) / num


def timing(taken: list[float], calls: int) -> Timing:
    """Median and spread of runs."""
    return Timing(statistics.median(taken), min(taken), max(taken), len(taken), calls)


def measure(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Rows of reading and of training, for each fraction that is kept."""
    on_gpu = device.type == "cuda"
    rows = 32 if on_gpu else 8
    rounds, num = (4, 3) if quick else (9, 10 if on_gpu else 3)
    model = Model(1024 if on_gpu else 64, 8 if on_gpu else 1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=on_gpu)
    found = []
    for keep in KEEPS:
        check(device, keep, rows)
        with open_loader(device, keep, rows) as loader:
            found += _measure_one(loader, (model, optimizer), device, keep, (rounds, num))
    return found


def _measure_one(
    loader: Loader, training: tuple, device: torch.device, keep: float, runs: tuple[int, int]
) -> list[dict[str, Any]]:
    rounds, num = runs
    stream = iter(loader)
    read(stream, device, 2 * num)  # compiles, opens
    reading = [read(stream, device, num) for _ in range(rounds)]
    held = [{name: value.clone() for name, value in next(stream).items()} for _ in range(num)]
    taken: dict[str, list[float]] = {"from memory": [], "from the loader": []}
    train(*training, iter(held), num)
    for _ in range(rounds):
        taken["from memory"].append(train(*training, iter(held), num))
        taken["from the loader"].append(train(*training, stream, num))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    tokens = held[0]["input_ids"].numel()
    facts = {"keep": keep, "batch_tokens": tokens}
    name = f"keep 1/{round(1 / keep)}"
    slowdown = medians["from the loader"] / medians["from memory"] - 1
    return [
        row(OP, f"{name}, read", timing(reading, num), device, **facts,
            tokens_per_s=tokens / statistics.median(reading)),
        *(
            row(OP, f"{name}, train {which}", timing(seconds, num), device, **facts,
                tokens_per_s=tokens / medians[which],
                slowdown=round(slowdown if which == "from the loader" else 0.0, 4))
            for which, seconds in taken.items()
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
