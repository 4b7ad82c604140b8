# SPDX-License-Identifier: Apache-2.0
"""How fast are documents scored: against fastText on one core, against embedding_bag on a GPU?

    python benchmarks/bench_document_scores.py [--device cpu] [--quick] [--out FILE]

On the CPU the documents are the demo corpus's, the model is its fitted one, and a wider one. The
rival is fastText's predict at the same orders, dimension and number of buckets, once on the words
of the text, as people use it, and once on the token ids as words, so that both read the same
n-grams. The floor is a plain copy of as many bytes as table rows are read. On CUDA the documents
are random; the rival is torch's embedding_bag, buckets given. The gate: bits of the reference.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from moot.triton_kernels import AgentTables, DocumentScores, NgramModel, document_scores
from moot.triton_kernels.hashing import HASH_START, absorb, finish
from ops import Timing, interleaved, main, rotated, row

OP = "document_scores"
HEADS, TOPICS = 21, 13
WIDE = {"dim": 64, "buckets": 1 << 16, "orders": (1, 2, 3)}


def make_model(dim: int, buckets: int, orders: tuple[int, ...], heads: int = HEADS) -> NgramModel:
    """A random model."""
    generator = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(dtype)

    return NgramModel(
        table=integers(-128, 128, buckets, dim, dtype=torch.int8),
        heads=integers(-(2**15), 2**15, heads, dim, dtype=torch.int16),
        bias=integers(-(10**5), 10**5, heads, dtype=torch.int32),
        scale=torch.full((heads,), 1e-6),
        orders=orders,
    )


def make_agents() -> AgentTables:
    """An agent of each kind that looks at the tokens: bins of a value, and the largest topic."""
    edges = torch.tensor([[-1.0, -0.3, 0.3, 1.0] + [math.inf] * 8, [math.inf] * 12])
    return AgentTables(
        kind=torch.tensor([1, 2], dtype=torch.int32),
        first_head=torch.tensor([0, 1], dtype=torch.int32),
        num_states=torch.tensor([5, TOPICS], dtype=torch.int32),
        edges=edges,
        memory=torch.randn(2, TOPICS, generator=torch.Generator().manual_seed(1)),
        theta=torch.ones(2),
    )


def check(result: DocumentScores, wanted: DocumentScores) -> None:
    """Raise unless both have the same bits."""
    for name in ("values", "states", "votes", "total"):
        if not torch.equal(getattr(result, name).cpu(), getattr(wanted, name).cpu()):
            raise AssertionError(f"{name} differ from the reference")


def count_ngrams(cu_seqlens: torch.Tensor, orders: tuple[int, ...]) -> int:
    """How many table rows are read."""
    lengths = cu_seqlens.diff()
    return sum(int((lengths - order + 1).clamp(min=0).sum()) for order in orders)


def measure(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Rows of every implementation, rival and floor."""
    return measure_cuda(device, quick) if device.type == "cuda" else measure_cpu(device, quick)


# ---- CPU


def measure_cpu(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """The demo's own model, then a wider one of three orders."""
    from ops.demo import demo

    found = demo()
    texts = found.texts()
    fitted = found.agents.model
    rows = []
    for name, model in (("demo", fitted), ("wide", make_model(**WIDE))):
        rows += _measure_model(name, model, found, texts, device, quick)
    return rows


def _measure_model(
    name: str, model: NgramModel, found: Any, texts: list[str], device: torch.device, quick: bool
) -> list[dict[str, Any]]:
    tokens, cu = found.tokens, found.cu_seqlens
    agents = make_agents()
    result = document_scores(tokens, cu, model, agents)
    check(result, document_scores(tokens, cu, model, agents, implementation="reference"))
    dim, orders = model.table.shape[1], model.orders
    source = torch.zeros(count_ngrams(cu, orders) * dim, dtype=torch.int8)
    target = torch.empty_like(source)
    works = {
        "native": lambda i: document_scores(tokens, cu, model, agents),
        "reference": lambda i: document_scores(
            tokens, cu, model, agents, implementation="reference"
        ),
        "copy of the rows": lambda i: target.copy_(source),
    }
    timings = interleaved(works, device, quick)
    facts = {"model": name, "dim": dim, "buckets": len(model.table), "orders": list(orders),
             "heads": model.num_heads, "documents": len(cu) - 1, "tokens": len(tokens)}  # fmt: skip
    labels = result.states[:, 1].tolist()
    ids = tokens.tolist()
    borders = cu.tolist()
    numbers = [" ".join(map(str, ids[i:j])) for i, j in zip(borders[:-1], borders[1:], strict=True)]
    failed = []
    for words, lines in (("words of the text", texts), ("token ids", numbers)):
        timing = fasttext_timing(lines, labels, facts, 3 if quick else 7)
        if timing is None:
            failed = [{"op": OP, "implementation": "fasttext", "device": "cpu",
                       "missing": "not installed, and PyPI cannot be reached"}]  # fmt: skip
            break
        timings[f"fasttext, {words}"] = timing
    per_second = {which: len(labels) / timing.median_s for which, timing in timings.items()}
    rows = [
        row(
            OP, f"{which} ({name})", timing, device, **facts,
            documents_per_s=per_second[which], tokens_per_s=len(tokens) / timing.median_s,
            gigabytes_per_s=source.nbytes / timing.median_s / 1e9,
            native_is_faster=round(per_second["native"] / per_second[which], 2),
        )
        for which, timing in timings.items()
    ]  # fmt: skip
    return rows + failed


def fasttext_timing(
    lines: list[str], labels: list[int], facts: dict[str, Any], trials: int
) -> Timing | None:
    """Time fastText's predict on the lines; None where it is missing."""
    from ops.fasttext_rival import predict

    found = predict(
        lines, labels, ngrams=max(facts["orders"]), dim=facts["dim"], buckets=facts["buckets"],
        trials=trials,
    )  # fmt: skip
    if found is None:
        return None
    taken = found["seconds"]
    return Timing(statistics.median(taken), min(taken), max(taken), len(taken), 1)


# ---- CUDA


def measure_cuda(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Random documents of 1 to 1,024 tokens; two widths."""
    rows = []
    for name, model in (("demo", make_model(16, 1 << 16, (1, 2))), ("wide", make_model(**WIDE))):
        tokens, cu = make_documents(2_000 if quick else 16_000)
        agents = make_agents()
        wanted = document_scores(tokens, cu, model, agents)
        moved = model.to(device), agents.to(device)
        inputs = (tokens.to(device), cu.to(device))
        check(document_scores(*inputs, *moved), wanted)
        some = rotated(inputs, device)
        bags = rotated(buckets_of(*inputs, model), device)
        works: dict[str, Callable[[int], object]] = {
            "triton": lambda i, some=some, moved=moved: document_scores(
                *some[i % len(some)], *moved
            ),
            "embedding_bag, buckets given": _embedding_bag(bags, moved[0]),
        }
        gathered = count_ngrams(cu, model.orders) * model.table.shape[1]
        rows += [
            row(
                OP, f"{which} ({name})", timing, device, documents=len(cu) - 1, tokens=len(tokens),
                dim=model.table.shape[1], orders=list(model.orders),
                tokens_per_s=len(tokens) / timing.median_s,
                gathered_gigabytes_per_s=gathered / timing.median_s / 1e9,
            )
            for which, timing in interleaved(works, device, quick, budget_s=10.0).items()
        ]  # fmt: skip
    return rows


def make_documents(num_documents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random documents."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 1025, (num_documents,), generator=generator)
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(0, 1 << 16, (int(cu[-1]),), generator=generator).to(torch.uint16)
    return tokens, cu


def buckets_of(
    tokens: torch.Tensor, cu: torch.Tensor, model: NgramModel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Buckets of unigrams and bigrams of the whole stream: what embedding_bag is handed.

    Bigrams over a border of documents are counted too; for time that makes no difference.
    """
    words = tokens.to(torch.int64)
    state = torch.full_like(words, HASH_START)
    parts = []
    for order in range(1, max(model.orders) + 1):
        state = absorb(state, words.roll(1 - order))
        parts.append(finish(state) & (len(model.table) - 1))
    return torch.stack(parts, 1).reshape(-1), cu[:-1] * len(parts)


def _embedding_bag(bags: list, model: NgramModel) -> Callable[[int], object]:
    """The same sums and heads in half precision, without hashing, states or votes."""
    table, heads = model.table.half(), model.heads.half().T.contiguous()

    def run(i: int) -> torch.Tensor:
        bag = torch.nn.functional.embedding_bag(*_pair(bags[i % len(bags)], table), mode="mean")
        return bag @ heads

    return run


def _pair(bag: tuple[torch.Tensor, torch.Tensor], table: torch.Tensor) -> tuple:
    """Arguments of embedding_bag."""
    return bag[0], table, bag[1]


if __name__ == "__main__":
    main(measure)
