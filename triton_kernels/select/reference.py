# SPDX-License-Identifier: Apache-2.0
"""select in plain torch: the specification that kernel and native routine reproduce.

Every fp32 step is one correctly rounded operation (no fused multiply-add) in the order written
here, the logarithm included; so scores, order and counts are the same bits everywhere.
"""

import torch
from torch import Tensor

from ..hashing import MASK, NOISE_SALT, finish, hash_ids
from .candidates import NO_LIMIT, Candidates, Quotas, Rule

SQRT_HALF_BITS = 0x3F3504F3
LN2_HIGH, LN2_LOW = 0.693359375, -0.00021219444


def select_reference(
    candidates: Candidates, quotas: Quotas | None, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Select candidates; arguments checked. Returns order, num_kept, scores."""
    present = candidates.lengths >= 0
    tie = hash_ids(candidates.ids, rule.seed)
    scores = combine(candidates)
    if rule.temperature != 0.0:
        temperature = torch.tensor(rule.temperature, dtype=torch.float32, device=scores.device)
        scores = scores + temperature * gumbel(tie)
    scores = torch.where(present, scores, float("-inf"))
    order = rank_candidates(scores, tie, candidates.ids, present)
    is_open = present
    if quotas is not None:
        is_open = present & within_quota(order, candidates, quotas)
        behind = rank_candidates(torch.zeros_like(scores), tie, candidates.ids, present)
        order = split(order, behind, is_open)
    tokens = candidates.lengths.clamp(min=0).to(torch.int64).gather(1, order).cumsum(1)
    place = torch.arange(order.shape[1], device=order.device)
    kept = is_open.gather(1, order) & (tokens <= rule.budget_tokens) & (place < rule.max_count)
    num_kept = kept.sum(1)
    if not rule.is_full:
        order = name_kept(order, num_kept, is_open.sum(1))
    return order.to(torch.int32), num_kept.to(torch.int32), scores


def within_quota(order: Tensor, candidates: Candidates, quotas: Quotas) -> Tensor:
    """Whether each candidate belongs to the longest prefix of its group in its limits: [S, C]."""
    groups = quotas.groups.to(torch.int64)
    has_quota = (groups >= 0) & (groups < quotas.num_groups)
    group = groups.gather(1, order)
    by_group = order.gather(1, group.argsort(dim=1, stable=True))
    group = groups.gather(1, by_group)
    start = torch.searchsorted(group, group)
    count = torch.arange(1, group.shape[1] + 1, device=group.device) - start
    ends = candidates.lengths.clamp(min=0).to(torch.int64).gather(1, by_group).cumsum(1)
    before = torch.cat([ends.new_zeros(len(ends), 1), ends], dim=1).gather(1, start)
    # One limit more, for candidates without a quota.
    most, budget = (
        torch.cat([limit, limit.new_full((len(limit), 1), NO_LIMIT)], dim=1).gather(
            1, torch.where(has_quota, groups, quotas.num_groups).gather(1, by_group)
        )
        for limit in quotas.limits()
    )
    fits = (count <= most) & (ends - before <= budget)
    return torch.zeros_like(has_quota).scatter(1, by_group, fits)


def split(order: Tensor, behind: Tensor, is_open: Tensor) -> Tensor:
    """Put those within quota first, by `order`; then the rest, by `behind`, absent ones last."""
    rank = torch.zeros_like(order)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.where(
        is_open, rank.scatter(1, order, place), rank.scatter(1, behind, place) + order.shape[1]
    )
    return rank.argsort(dim=1)


def name_kept(order: Tensor, num_kept: Tensor, num_open: Tensor) -> Tensor:
    """Kept positions ascending, then the best open one that was not kept or -1, then -1."""
    num_candidates = order.shape[1]
    place = torch.arange(num_candidates, device=order.device)
    kept = torch.where(place < num_kept[:, None], order, num_candidates).sort(dim=1).values
    is_next = (place == num_kept[:, None]) & (num_kept < num_open)[:, None]
    return torch.where(place < num_kept[:, None], kept, torch.where(is_next, order, -1))


def combine(candidates: Candidates) -> Tensor:
    """Sum theta * ((vote - shift) * scale) over agents, left to right from 0.0: [S, C]."""
    scores = torch.zeros_like(candidates.lengths, dtype=torch.float32)
    for agent in range(candidates.theta.shape[0]):
        vote = (candidates.votes[:, :, agent] - candidates.shift[agent]) * candidates.scale[agent]
        scores = scores + candidates.theta[agent] * vote
    return scores


def rank_candidates(scores: Tensor, tie: Tensor, ids: Tensor, present: Tensor) -> Tensor:
    """Order each row by (present first, score descending, tie, id, position): [S, C] int64.

    Among absent candidates only the position counts.
    """
    order = torch.where(present, ids, 0).argsort(dim=1, stable=True)
    for key, descending in ((torch.where(present, tie, 0), False), (scores, True)):
        step = key.gather(1, order).argsort(dim=1, descending=descending, stable=True)
        order = order.gather(1, step)
    return order.gather(1, (~present).gather(1, order).to(torch.int8).argsort(dim=1, stable=True))


def gumbel(tie: Tensor) -> Tensor:
    """Standard Gumbel noise -log(-log(u)) of a 32-bit hash, u = (23 bits + 1/2) / 2**23."""
    bits = finish((tie + NOISE_SALT) & MASK) >> 9
    uniform = (bits.to(torch.float32) + 0.5) * 2.0**-23
    return -log_fp32(-log_fp32(uniform))


def log_fp32(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal float32 in plain fp32 steps, within a few ulp.

    x = m * 2**e with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh(s), s = (m - 1) / (m + 1), by
    its series up to s**9 (the rest is below 2e-9 of it).
    """
    bits = x.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    power = exponent.to(torch.float32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = square * (square * (square * (square * (1 / 9) + 1 / 7) + 1 / 5) + 1 / 3)
    twice = s + s
    return power * LN2_HIGH + (power * LN2_LOW + (twice * series + twice))
