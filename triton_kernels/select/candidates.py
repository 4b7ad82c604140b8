# SPDX-License-Identifier: Apache-2.0
"""What select reads and returns, checked.

Legend: S rows (slots), C candidates a row, A agents, G groups.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..document_scores.tables import check_tensor

NO_LIMIT = (1 << 63) - 1


@dataclass(frozen=True)
class Candidates:
    """The tensors that select reads, checked.

    Args:
        votes: [S, C, A] float32.
        theta: [A] float32.
        lengths: [S, C] int32 tokens; negative: no candidate there.
        ids: [S, C] int64.
        shift: [A] float32.
        scale: [A] float32.
    """

    votes: Tensor
    theta: Tensor
    lengths: Tensor
    ids: Tensor
    shift: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Quotas:
    """What each group of candidates may take of a row at most.

    A group's candidates, in order of score, are within quota up to the first one that exceeds a
    limit; that one and those behind it are over quota and are never kept.

    Args:
        groups: [S, C] int32, a candidate's group in [0, G); negative: no quota.
        max_count: [S, G] int64, most candidates of a group; None: no limit.
        budget_tokens: [S, G] int64, most tokens of a group; None: no limit.

    Raises:
        ValueError: A shape or dtype that does not fit, or no limit at all.
    """

    groups: Tensor
    max_count: Tensor | None = None
    budget_tokens: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("groups", self.groups, torch.int32, (None, None))
        limits = [limit for limit in (self.max_count, self.budget_tokens) if limit is not None]
        if not limits:
            raise ValueError("quotas without a limit; set max_count, budget_tokens or both")
        num_groups = limits[0].shape[-1] if limits[0].ndim else 0
        for name in ("max_count", "budget_tokens"):
            limit = getattr(self, name)
            if limit is not None:
                check_tensor(name, limit, torch.int64, (len(self.groups), num_groups))

    @property
    def num_groups(self) -> int:
        """G."""
        limits = self.max_count if self.max_count is not None else self.budget_tokens
        assert limits is not None
        return limits.shape[1]

    def limits(self, fill: int = NO_LIMIT) -> tuple[Tensor, Tensor]:
        """Return max_count and budget_tokens, `fill` everywhere where there is none."""
        given = (self.max_count, self.budget_tokens)
        size = (len(self.groups), self.num_groups)
        counts, tokens = (
            self.groups.new_full(size, fill, dtype=torch.int64) if limit is None else limit
            for limit in given
        )
        return counts, tokens


@dataclass(frozen=True)
class Rule:
    """How select draws: seed, float32 temperature, and limits (NO_LIMIT where there is none).

    `is_full`: all candidates are ordered; else the kept ones are named alone.
    """

    seed: int
    temperature: float
    max_count: int
    budget_tokens: int
    is_full: bool = True


@dataclass(frozen=True)
class Selection:
    """The result of select.

    The kept candidates of row s are order[s, :num_kept[s]].

    Args:
        order: [S, C] int32, positions of a row's candidates. Full order: best first, behind them
            those over their group's quota, absent ones last. Else: the kept ascending; then the
            best that was within quota and did not fit, or -1; then -1.
        num_kept: [S] int32.
        scores: [S, C] float32 by candidate position, noise included; -inf where absent.
    """

    order: Tensor
    num_kept: Tensor
    scores: Tensor


def new_outputs(candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate order, num_kept and scores."""
    shape, device = candidates.lengths.shape, candidates.votes.device
    return (
        torch.empty(shape, dtype=torch.int32, device=device),
        torch.empty(shape[0], dtype=torch.int32, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
    )


def check_weights(candidates: Candidates) -> None:
    """Raise ValueError for a weight or setting that is not finite; looks at the data."""
    for name in ("theta", "shift", "scale"):
        value = getattr(candidates, name).tolist()
        if not all(map(math.isfinite, value)):
            raise ValueError(f"{name} is {value}; every entry must be finite")


def check_quotas(quotas: Quotas) -> None:
    """Raise ValueError for a group or a limit out of range; looks at the data."""
    wrong = quotas.groups >= quotas.num_groups
    if bool(wrong.any()):
        row, candidate = (int(place) for place in wrong.nonzero()[0])
        raise ValueError(
            f"groups[{row}, {candidate}] is {int(quotas.groups[row, candidate])}; there are limits "
            f"for {quotas.num_groups} groups"
        )
    for limit in quotas.limits(fill=0):
        if bool((limit < 0).any()):
            raise ValueError(f"a group's limit is {int(limit.min())}; it must be at least 0")


def check_scores(candidates: Candidates, scores: Tensor) -> None:
    """Raise ValueError for a vote that is not finite or a score that overflowed; looks at the data.

    A vote that is not finite makes its score so, whatever its weight: the votes need no look of
    their own.
    """
    is_finite = torch.isfinite(scores)
    if bool(is_finite.all()):
        return
    wrong = ~is_finite & (candidates.lengths >= 0)
    if bool(wrong.any()):
        row, candidate = (int(place) for place in wrong.nonzero()[0])
        for agent, vote in enumerate(candidates.votes[row, candidate].tolist()):
            if not math.isfinite(vote):
                raise ValueError(
                    f"votes[{row}, {candidate}, {agent}] is {vote}; a vote must be finite: check "
                    f"the memory of agent {agent}"
                )
        raise ValueError(
            f"the score of candidate {candidate} in row {row} is {float(scores[row, candidate])}: "
            "votes times theta times scale overflow float32; bring theta or scale down"
        )
