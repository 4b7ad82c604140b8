# SPDX-License-Identifier: Apache-2.0
"""select: which of a row's candidates are kept, by the agents' votes, noise and budgets.

Native C++ on the CPU, Triton kernels on CUDA, plain torch as the specification; all give the
same bits. Mathematics and cost: docs/ops/select.md.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..document_scores.tables import check_tensor
from ..registry import register
from .candidates import (
    NO_LIMIT,
    Candidates,
    Quotas,
    Rule,
    Selection,
    check_quotas,
    check_scores,
    check_weights,
    new_outputs,
)

__all__ = ["Quotas", "Selection", "select"]


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
    quotas: Quotas | None = None,
    full_order: bool = True,
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
        quotas: What each group of candidates may take. A group's candidates count up to the first
            that exceeds its quota; the prefix is then taken of what is within quota, so one group
            that is full makes room for others. None: no groups.
        full_order: Whether all candidates are to be ordered. False names the kept ones alone,
            ascending, and the first that did not fit; cheaper, and one launch up to 8,192
            candidates without quotas.
        implementation: As in document_scores.

    Returns:
        Selection of new tensors on the device of the votes.

    Raises:
        ValueError: A shape, dtype, device or setting that does not fit; on the CPU also a vote,
            weight, score, group or limit out of range. On CUDA contents are not looked at: a score
            that is not finite counts as the worst, a group out of range has no quota.

    Source: Gumbel top-k, Kool et al. 2019 (arXiv:1903.06059); docs/ops/select.md.
    """
    rule = _rule(seed, temperature, max_count, budget_tokens)
    if not isinstance(theta, Tensor):
        raise ValueError(f"theta is a {type(theta).__name__}; pass a float32 tensor [A]")
    shift = torch.zeros_like(theta) if shift is None else shift
    scale = torch.ones_like(theta) if scale is None else scale
    candidates = Candidates(votes, theta, lengths, ids, shift, scale)
    _check(candidates, quotas)
    name = choose(implementation, votes.device)
    looks = votes.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks:
        check_weights(candidates)
        if quotas is not None:
            check_quotas(quotas)
    if looks and name == "native":  # the op would take the arguments apart and join them again
        from .native import select_native

        selection = Selection(*select_native(candidates, quotas, replace(rule, is_full=full_order)))
    else:
        groups = (None,) * 3 if quotas is None else _flat(quotas)
        selection = Selection(
            *_OP(
                votes, theta, lengths, ids, shift, scale, *groups, seed, rule.temperature,
                rule.max_count, rule.budget_tokens, full_order, implementation,
            )
        )  # fmt: skip
    if looks:
        check_scores(candidates, selection.scores)
    return selection


def _flat(quotas: Quotas) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The tensors of quotas."""
    return quotas.groups, quotas.max_count, quotas.budget_tokens


def _run(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Select by the implementation that is named last; the registered op's flat arguments."""
    candidates = Candidates(*values[:6])
    quotas = None if values[6] is None else Quotas(*values[6:9])
    rule = Rule(*values[9:14])
    rule = replace(rule, temperature=float(torch.tensor(rule.temperature, dtype=torch.float32)))
    name = choose(str(values[-1]), candidates.votes.device)
    if name == "reference":
        from .reference import select_reference as run
    elif name == "native":
        from .native import select_native as run
    else:
        from .kernel import select_fwd as run
    return run(candidates, quotas, rule)


def _fake(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Empty results."""
    return new_outputs(Candidates(*values[:6]))


_OP = register(
    "select(Tensor votes, Tensor theta, Tensor lengths, Tensor ids, Tensor shift, Tensor scale, "
    "Tensor? groups, Tensor? group_max_count, Tensor? group_budget_tokens, int seed, "
    "float temperature, int max_count, int budget_tokens, bool full_order, str implementation) "
    "-> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


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
        temperature=temperature,
        max_count=NO_LIMIT if max_count is None else max_count,
        budget_tokens=NO_LIMIT if budget_tokens is None else budget_tokens,
    )


def _check(candidates: Candidates, quotas: Quotas | None) -> None:
    """Raise ValueError for shapes, dtypes and devices that do not fit."""
    check_tensor("votes", candidates.votes, torch.float32, (None, None, None))
    num_rows, num_candidates, num_agents = candidates.votes.shape
    for name in ("theta", "shift", "scale"):
        check_tensor(name, getattr(candidates, name), torch.float32, (num_agents,))
    check_tensor("lengths", candidates.lengths, torch.int32, (num_rows, num_candidates))
    check_tensor("ids", candidates.ids, torch.int64, (num_rows, num_candidates))
    given = {name: getattr(candidates, name) for name in ("theta", "lengths", "ids", "shift")}
    given["scale"] = candidates.scale
    if quotas is not None:
        check_tensor("groups", quotas.groups, torch.int32, (num_rows, num_candidates))
        given["groups"] = quotas.groups
        given |= {"max_count": quotas.max_count, "budget_tokens": quotas.budget_tokens}
    for name, value in given.items():
        if value is not None and value.device != candidates.votes.device:
            raise ValueError(
                f"{name} lies on {value.device}, votes on {candidates.votes.device}; move them to "
                "one"
            )
