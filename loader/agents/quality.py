# SPDX-License-Identifier: Apache-2.0
"""The quality agent: five bins of a score.

Stored, the score is an educational-quality regression from 0 to 5 in steps of one:
[0,1) [1,2) [2,3) [3,4) [4,5], the last interval closed and everything outside clipped, so that
exactly 5.0, above 5 and below 0 all have a state. Inline, the score is the value of one head of the
n-gram model and the edges come from the fit (usually quantiles of the corpus).
Source: Bai et al. 2024 (arXiv 2410.08102), section on agents; bins as in docs/console.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .info import AgentInfo, bin_scores

QUALITY_EDGES = (1.0, 2.0, 3.0, 4.0)
"""Inner edges of the stored 0..5 score."""

_STORED_NAMES = ("0-1", "1-2", "2-3", "3-4", "4-5")


def quality_states(scores: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Bin stored quality scores.

    Args:
        scores: [n] real, nominally 0..5; values outside are clipped to the first or last state.

    Returns:
        [n] int32 states 0..4.

    Raises:
        AgentError: A score is NaN.
    """
    return bin_scores(scores, QUALITY_EDGES, what="quality scores")


def stored_quality(column: str = "quality") -> AgentInfo:
    """Describe the quality agent that reads a stored 0..5 score."""
    return AgentInfo(
        name="quality",
        num_states=len(_STORED_NAMES),
        state_names=_STORED_NAMES,
        kind="stored",
        column=column,
        edges=QUALITY_EDGES,
    )


def inline_quality(head: int, edges: Sequence[float], state_names: Sequence[str] = ()) -> AgentInfo:
    """Describe the quality agent that bins one head of the n-gram model.

    Args:
        head: Index of the head.
        edges: Ascending inner edges of its value; one fewer than the states.
        state_names: One a state; default "q1" (lowest) and up.
    """
    num_states = len(edges) + 1
    names = tuple(state_names) or tuple(f"q{state + 1}" for state in range(num_states))
    return AgentInfo(
        name="quality",
        num_states=num_states,
        state_names=names,
        kind="binned",
        first_head=head,
        edges=tuple(edges),
    )
