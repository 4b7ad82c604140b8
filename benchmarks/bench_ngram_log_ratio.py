# SPDX-License-Identifier: Apache-2.0
"""How fast are DSIR's log ratios: against the numpy original on one core, torch on a GPU?

    python benchmarks/bench_ngram_log_ratio.py [--device cpu] [--quick] [--out FILE]

Rivals on the CPU: the original's way (sha256 of every n-gram, a vector of counts, an inner
product), and numpy at its best (our hash and a gather over the whole batch). On CUDA: torch's
embedding_bag, which is handed the buckets. The floor is a plain copy of the bytes of tokens and
table entries that are read. The gate: exact sums. The original hashes otherwise, so its sums are
not compared.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from moot.triton_kernels import LogRatioTable, ngram_log_ratio
from moot.triton_kernels.ngram_log_ratio.reference import ngram_buckets
from moot.triton_kernels.ngram_log_ratio.tables import STEP, order_bits
from ops import interleaved, main, rotated, row

OP = "ngram_log_ratio"
SHAPES = {"DSIR": (1 << 14, (1, 2)), "wide": (1 << 20, (1, 2, 3))}
ORIGINAL_BUCKETS = 10_000


def make_inputs(
    num_documents: int, buckets: int, orders: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, LogRatioTable]:
    """Documents of 1 to 1,200 tokens, small ids more frequent than large ones."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 1201, (num_documents,), generator=generator)
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = (torch.rand(int(cu[-1]), generator=generator) ** 3 * 50_000).to(torch.int32)
    steps = torch.randn(buckets, generator=generator) / STEP
    return tokens.to(torch.uint16), cu, LogRatioTable(steps.to(torch.int32), orders)


def by_numpy(tokens: np.ndarray, cu: np.ndarray, table: np.ndarray, orders: int) -> np.ndarray:
    """The same sums by whole arrays; each order's n-grams cross no border of documents."""
    words = tokens.astype(np.uint32)
    sums = np.zeros(len(cu) - 1, np.int64)
    state = np.full(len(words), 0x6D6F6F74, np.uint32)
    left = np.repeat(cu[1:], np.diff(cu)) - np.arange(len(words))
    for order in range(1, orders.bit_length()):
        state = (state ^ np.roll(words, 1 - order)) * np.uint32(0x9E3779B1)
        state ^= state >> np.uint32(15)
        if orders >> order & 1:
            last = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
            last = (last ^ (last >> np.uint32(13))) * np.uint32(0xC2B2AE35)
            bucket = (last ^ (last >> np.uint32(16))) & np.uint32(len(table) - 1)
            value = np.where(left >= order, table[bucket], 0)
            sums += np.add.reduceat(value, cu[:-1], dtype=np.int64)
    return sums * STEP


def by_original(documents: list[list[str]], log_ratio: np.ndarray) -> list[float]:
    """DSIR's own steps for unigrams and bigrams of words; here the words are token ids."""
    scores = []
    for words in documents:
        counts = np.zeros(len(log_ratio), dtype=int)
        for ngram in [*words, *(f"{a} {b}" for a, b in zip(words[:-1], words[1:], strict=True))]:
            digest = hashlib.sha256(ngram.encode("utf-8")).hexdigest()
            counts[int(digest, 16) % len(log_ratio)] += 1
        scores.append(float(np.inner(counts, log_ratio)))
    return scores


def num_ngrams(cu: torch.Tensor, orders: tuple[int, ...]) -> int:
    """How many table entries are read."""
    return sum(int((cu.diff() - order + 1).clamp(min=0).sum()) for order in orders)


def check(result: object, wanted: torch.Tensor) -> None:
    """Raise unless the sums are equal."""
    if not torch.equal(torch.as_tensor(result).cpu(), wanted):
        raise AssertionError("log ratios differ from the reference")


def measure(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Rows of every implementation, rival and floor."""
    rows = []
    for name, (buckets, orders) in SHAPES.items():
        documents = (500 if quick else 2_000) if device.type == "cpu" else 20_000
        inputs = make_inputs(documents, buckets, orders)
        works = cpu_works(inputs, quick) if device.type == "cpu" else cuda_works(inputs, device)
        if device.type == "cpu" and name == "DSIR":
            works["original, sha256"] = original_work(inputs)
        rows += rows_of(name, inputs, works, device, quick)
    return rows


def rows_of(name: str, inputs: tuple, works: dict, device: torch.device, quick: bool) -> list:
    """Time the works and put figures to them; the original has a share of the documents."""
    tokens, cu, table = inputs
    rows = []
    for which, timing in interleaved(works, device, quick, budget_s=15.0).items():
        part = cu[: ORIGINAL_DOCUMENTS + 1] if which.startswith("original") else cu
        num_tokens, read = int(part[-1]), num_ngrams(part, table.orders) * 4 + int(part[-1]) * 2
        rows.append(
            row(
                OP, f"{which} ({name})", timing, device, documents=len(part) - 1,
                tokens=num_tokens, buckets=len(table.table), orders=list(table.orders),
                documents_per_s=(len(part) - 1) / timing.median_s,
                tokens_per_s=num_tokens / timing.median_s,
                gigabytes_per_s=read / timing.median_s / 1e9,
            )
        )  # fmt: skip
    return rows


ORIGINAL_DOCUMENTS = 20
"""Enough for the original: it needs about a millisecond a document."""


def cpu_works(inputs: tuple, quick: bool) -> dict[str, Any]:
    """Native routine, reference, numpy and a copy."""
    del quick
    tokens, cu, table = inputs
    arrays = (tokens.numpy(), cu.numpy(), table.table.numpy(), order_bits(table.orders))
    wanted = ngram_log_ratio(*inputs, implementation="reference")
    check(ngram_log_ratio(*inputs), wanted)
    check(by_numpy(*arrays), wanted)
    source = torch.zeros(num_ngrams(cu, table.orders) * 4 + len(tokens) * 2, dtype=torch.int8)
    target = torch.empty_like(source)
    return {
        "native": lambda i: ngram_log_ratio(*inputs),
        "reference": lambda i: ngram_log_ratio(*inputs, implementation="reference"),
        "numpy, whole arrays": lambda i: by_numpy(*arrays),
        "copy of what is read": lambda i: target.copy_(source),
    }


def original_work(inputs: tuple) -> Any:
    """DSIR's own steps on the first documents."""
    tokens, cu, _ = inputs
    borders, ids = cu[: ORIGINAL_DOCUMENTS + 1].tolist(), tokens.tolist()
    pairs = zip(borders[:-1], borders[1:], strict=True)
    documents = [[str(token) for token in ids[i:j]] for i, j in pairs]
    log_ratio = np.random.default_rng(0).standard_normal(ORIGINAL_BUCKETS)
    return lambda i: by_original(documents, log_ratio)


def cuda_works(inputs: tuple, device: torch.device) -> dict[str, Any]:
    """Kernel and torch's embedding_bag over buckets that are given; fp32 sums there."""
    tokens, cu, table = inputs
    moved = table.to(device)
    given = (tokens.to(device), cu.to(device))
    check(ngram_log_ratio(*given, moved), ngram_log_ratio(*inputs))
    some = rotated(given, device)
    parts = list(ngram_buckets(*given, len(table.table), order_bits(table.orders)))
    document = torch.cat([part[0] for part in parts])
    order = document.argsort(stable=True)
    buckets = torch.cat([part[1] for part in parts])[order].to(torch.int32)
    starts = torch.searchsorted(document[order], torch.arange(len(cu) - 1, device=device))
    bags = rotated((buckets, starts.to(torch.int32)), device)
    weight = (moved.table.float() * STEP)[:, None].contiguous()

    def embedding_bag(i: int) -> torch.Tensor:
        bucket, offsets = bags[i % len(bags)]
        return torch.nn.functional.embedding_bag(bucket, weight, offsets, mode="sum")

    return {
        "triton": lambda i: ngram_log_ratio(*some[i % len(some)], moved),
        "embedding_bag, buckets given": embedding_bag,
    }


if __name__ == "__main__":
    main(measure)
