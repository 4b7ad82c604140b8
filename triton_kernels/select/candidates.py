# SPDX-License-Identifier: Apache-2.0
"""What select reads and returns, checked.

Legend: S rows (slots), C candidates a row, A agents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
class Rule:
    """How select draws: seed, float32 temperature, and limits (NO_LIMIT where there is none)."""

    seed: int
    temperature: float
    max_count: int
    budget_tokens: int


@dataclass(frozen=True)
class Selection:
    """The result of select.

    Args:
        order: [S, C] int32, positions of a row's candidates, best first, absent ones last.
        num_kept: [S] int32; the kept candidates of row s are order[s, :num_kept[s]].
        scores: [S, C] float32 by candidate position, noise included; -inf where absent.
    """

    order: Tensor
    num_kept: Tensor
    scores: Tensor


def check_finite(candidates: Candidates) -> None:
    """Raise ValueError for a vote, weight or setting that is not finite; looks at the data."""
    for name in ("theta", "shift", "scale"):
        value = getattr(candidates, name)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} is {value.tolist()}; every entry must be finite")
    wrong = ~torch.isfinite(candidates.votes) & (candidates.lengths >= 0)[:, :, None]
    if bool(wrong.any()):
        row, candidate, agent = (int(place) for place in wrong.nonzero()[0])
        vote = float(candidates.votes[row, candidate, agent])
        raise ValueError(
            f"votes[{row}, {candidate}, {agent}] is {vote}; a vote must be finite: check the "
            f"memory of agent {agent}"
        )


def check_scores(candidates: Candidates, scores: Tensor) -> None:
    """Raise ValueError for a score that overflowed; looks at the data."""
    wrong = ~torch.isfinite(scores) & (candidates.lengths >= 0)
    if bool(wrong.any()):
        row, candidate = (int(place) for place in wrong.nonzero()[0])
        raise ValueError(
            f"the score of candidate {candidate} in row {row} is {float(scores[row, candidate])}: "
            "votes times theta times scale overflow float32; bring theta or scale down"
        )
