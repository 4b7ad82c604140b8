# SPDX-License-Identifier: Apache-2.0
"""select: which of a row's candidates are kept, by the agents' votes, noise and budgets.

Native C++ on the CPU, one fused Triton kernel on CUDA, plain torch as the specification; all
give the same bits. Mathematics and cost: docs/ops/select.md.
"""

import math

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..document_scores.tables import check_tensor
from .candidates import NO_LIMIT, Candidates, Rule, Selection, check_finite, check_scores
from .reference import select_reference

__all__ = ["Selection", "select"]


def select(
    votes: Tensor,
    theta: Tensor,
    lengths: Tensor,
    ids: Tensor,
    *,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    max_count: int | None = None,
    budget_tokens: int | None = None,
    implementation: Implementation = "auto",
) -> Selection:
    """Order each row's candidates by score and keep the longest prefix within the limits.

    score = sum over agents of theta * ((vote - shift) * scale), plus temperature * Gumbel noise
    of (id, seed). Ties fall by a hash of (id, seed), then by id, so neither the order of the
    candidates nor the other rows change what is kept.

    Args:
        votes: [S, C, A] float32.
        theta: [A] float32, the agents' weights.
        lengths: [S, C] int32 tokens; negative marks an absent candidate: last, never kept.
        ids: [S, C] int64, distinct in a row (equal ids that tie fall by position).
        shift: [A] float32 taken from a vote first; None: nothing.
        scale: [A] float32 a vote is then multiplied by; None: 1.
        seed: In [-2**63, 2**63); the same seed gives the same noise and ties.
        temperature: >= 0; 0 is plain top-k. Rounded to float32.
        max_count: Most candidates to keep in a row; None: no limit.
        budget_tokens: Most tokens to keep in a row; the prefix ends before the first candidate
            that does not fit. None: no limit.
        implementation: As in document_scores.

    Returns:
        Selection of new tensors on the device of the votes.

    Raises:
        ValueError: A shape, dtype, device or setting that does not fit; on the CPU also a vote,
            weight or score that is not finite (on CUDA such a score counts as the worst).

    Source: Gumbel top-k, Kool et al. 2019 (arXiv:1903.06059); docs/ops/select.md.
    """
    rule = _rule(seed, temperature, max_count, budget_tokens)
    if not isinstance(theta, Tensor):
        raise ValueError(f"theta is a {type(theta).__name__}; pass a float32 tensor [A]")
    shift = torch.zeros_like(theta) if shift is None else shift
    scale = torch.ones_like(theta) if scale is None else scale
    candidates = Candidates(votes, theta, lengths, ids, shift, scale)
    _check(candidates)
    chosen = choose(implementation, votes.device)
    on_cpu = votes.device.type == "cpu"
    if on_cpu:
        check_finite(candidates)
    if chosen == "reference":
        run = select_reference
    elif chosen == "native":
        from .native import select_native as run
    else:
        from .kernel import select_fwd as run
    selection = run(candidates, rule)
    if on_cpu:
        check_scores(candidates, selection.scores)
    return selection


def _rule(seed: int, temperature: float, max_count: int | None, budget_tokens: int | None) -> Rule:
    """Check the settings and replace None by no limit."""
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}; it must fit in a signed 64-bit integer")
    if not (math.isfinite(temperature) and 0.0 <= temperature <= 1e30):
        raise ValueError(f"temperature is {temperature}; it must be in [0, 1e30]")
    for name, limit in (("max_count", max_count), ("budget_tokens", budget_tokens)):
        if limit is not None and not 0 <= limit <= NO_LIMIT:
            raise ValueError(f"{name} is {limit}; it must be at least 0, or None for no limit")
    return Rule(
        seed=seed,
        temperature=float(torch.tensor(temperature, dtype=torch.float32)),
        max_count=NO_LIMIT if max_count is None else max_count,
        budget_tokens=NO_LIMIT if budget_tokens is None else budget_tokens,
    )


def _check(candidates: Candidates) -> None:
    """Raise ValueError for shapes, dtypes and devices that do not fit."""
    check_tensor("votes", candidates.votes, torch.float32, (None, None, None))
    num_rows, num_candidates, num_agents = candidates.votes.shape
    for name in ("theta", "shift", "scale"):
        check_tensor(name, getattr(candidates, name), torch.float32, (num_agents,))
    check_tensor("lengths", candidates.lengths, torch.int32, (num_rows, num_candidates))
    check_tensor("ids", candidates.ids, torch.int64, (num_rows, num_candidates))
    for name in ("theta", "lengths", "ids", "shift", "scale"):
        device = getattr(candidates, name).device
        if device != candidates.votes.device:
            raise ValueError(
                f"{name} lies on {device}, votes on {candidates.votes.device}; move them to one"
            )
