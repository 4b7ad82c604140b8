# SPDX-License-Identifier: Apache-2.0
"""How long does it take to choose among the candidates of a row?

    python benchmarks/bench_select.py [--device cuda] [--quick] [--out FILE.jsonl]

On CUDA rows of 1,024 and 8,192 candidates, captured in a graph, against a chain of torch ops that
finds the same candidates; on the CPU a row of 65,536 against the same chain. The native routine is
also timed alone, without the checks and allocations around it. Equality with the reference is the
gate.
"""

import torch
from moot.triton_kernels import Quotas, select
from ops import captured, interleaved, main, row

OP = "select"
AGENTS = 3
MODES = {
    "ours, kept alone": {"full_order": False},
    "ours, full order": {},
    "ours, quotas": {"full_order": False, "quotas": True},
}


def make_inputs(device: torch.device, rows: int, num: int) -> tuple:
    """Votes, theta, lengths, ids, and quotas of 16 groups."""
    generator = torch.Generator().manual_seed(0)
    values = (
        torch.randn(rows, num, AGENTS, generator=generator),
        torch.rand(AGENTS, generator=generator),
        torch.randint(1, 2000, (rows, num), generator=generator).to(torch.int32),
        torch.randint(-(2**62), 2**62, (rows, num), generator=generator),
    )
    groups = torch.randint(0, 16, (rows, num), generator=generator).to(torch.int32)
    quotas = Quotas(groups.to(device), torch.full((rows, 16), num // 32, device=device))
    return *(value.to(device) for value in values), quotas


def choose(inputs: tuple, full_order: bool = True, quotas: bool = False, how: str = "auto"):
    """Call the op: Gumbel noise, a quarter of the tokens."""
    *candidates, limits = inputs
    return select(
        *candidates, seed=7, temperature=0.5, budget_tokens=candidates[2].shape[1] * 250,
        quotas=limits if quotas else None, full_order=full_order, implementation=how,
    )  # fmt: skip


def by_torch(inputs: tuple) -> torch.Tensor:
    """Find what is kept by torch ops and noise that torch draws: kept candidates as a mask."""
    votes, theta, lengths, _, _ = inputs
    noise = -torch.log(-torch.log(torch.rand_like(votes[:, :, 0]).clamp(min=1e-30)))
    order = (votes @ theta + 0.5 * noise).argsort(dim=1, descending=True)
    tokens = lengths.gather(1, order).cumsum(1)
    fits = tokens <= lengths.shape[1] * 250
    return torch.zeros_like(fits).scatter(1, order, fits)


def check(inputs: tuple) -> None:
    """Raise where a result is not the reference's, bit for bit."""
    for options in MODES.values():
        ours, wanted = choose(inputs, **options), choose(inputs, **options, how="reference")
        for name, value in vars(ours).items():
            other = getattr(wanted, name)
            assert torch.equal(value.view(torch.int32), other.view(torch.int32)), name


def native_alone(inputs: tuple, options: dict):
    """The native routine with views and outputs made beforehand."""
    from moot.triton_kernels import _native

    votes, theta, lengths, ids, limits = inputs
    plain = (torch.zeros(AGENTS).numpy(), torch.ones(AGENTS).numpy())
    candidates = _native.Candidates(
        votes.numpy(), theta.numpy(), lengths.numpy(), ids.numpy(), *plain
    )
    quotas = None
    if options.get("quotas"):
        quotas = _native.GroupQuotas(limits.groups.numpy(), limits.max_count.numpy(), None)
    budget = lengths.shape[1] * 250
    rule = _native.SelectRule(7, 0.5, 1 << 40, budget, options.get("full_order", True))
    out = (torch.empty_like(lengths), torch.empty(len(lengths), dtype=torch.int32))
    views = (out[0].numpy(), out[1].numpy(), torch.empty(lengths.shape).numpy())
    return lambda i: _native.select(candidates, quotas, rule, *views, 0, len(lengths))


def measure(device: torch.device, quick: bool) -> list[dict]:
    """Rows of every mode and of the rival, by shape."""
    is_cuda = device.type == "cuda"
    rows = []
    for shape in ((1, 8192), (8, 8192), (8, 1024)) if is_cuda else ((1, 65536),):
        inputs = make_inputs(device, *shape)
        check(inputs)
        works = {
            name: lambda i, options=options, inputs=inputs: choose(inputs, **options)
            for name, options in MODES.items()
        }
        works["chain of torch ops"] = lambda i, inputs=inputs: by_torch(inputs)
        if is_cuda:
            works = {name: captured(work) for name, work in works.items()}
        else:
            for name, options in MODES.items():
                works[f"{name}, native routine alone"] = native_alone(inputs, options)
        timings = interleaved(works, device, quick, budget_s=12.0)
        rows += [
            row(OP, name, timing, device, rows=shape[0], candidates=shape[1], agents=AGENTS,
                in_graph=is_cuda)
            for name, timing in timings.items()
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    main(measure)
