# SPDX-License-Identifier: Apache-2.0
"""The console's table over joint cells: which share of each cell's documents is accepted.

Where labels are stored, a document's score under a policy is that of its cell, and `select`'s
Gumbel noise decides by cell alone: a document passes a threshold t with probability
1 - exp(-exp((S - t) / T)). t is set so that `keep` of all tokens passes. Whole numbers of 2^-32,
found by bisection on them alone, so that ranks agree.
Source: docs/console.md, "Stored labels".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .policy import Policy

ONE = 1 << 32
"""The acceptance of a cell all of whose documents pass."""
_HALVINGS = 64


def cell_scores(policy: Policy, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Score cells as `select` scores a document of theirs, without noise.

    Args:
        policy: Whose memories and weights.
        labels: [C, A] states.

    Returns:
        [C] float64.
    """
    agents = np.arange(labels.shape[1])
    votes = policy.memory.astype(np.float64)[agents, labels]
    theta, shift, scale = (
        part.astype(np.float64) for part in (policy.theta, policy.shift, policy.scale)
    )
    return (theta * ((votes - shift) * scale)).sum(axis=1)


def acceptance(
    scores: npt.NDArray[np.float64],
    tokens: npt.NDArray[np.int64],
    keep: float,
    temperature: float,
) -> npt.NDArray[np.int64]:
    """Return which share of each cell is accepted, so that `keep` of all tokens is.

    Args:
        scores: [C].
        tokens: [C], of each cell.
        keep: In (0, 1].
        temperature: Of the Gumbel noise, in units of the score; 0 takes the best cells whole and
            a part of the one at the border.

    Returns:
        [C] int64 in [0, ONE].
    """
    if keep >= 1:
        return np.full(len(scores), ONE, np.int64)
    wanted = keep * float(tokens.sum())
    if temperature <= 0:
        return _best_first(scores, tokens, wanted)
    scaled = scores / temperature
    low, high = scaled.min() - 50.0, scaled.max() + 50.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        accepted = -np.expm1(-np.exp(np.minimum(scaled - middle, 50.0)))
        if float(accepted @ tokens) > wanted:
            low = middle
        else:
            high = middle
    accepted = -np.expm1(-np.exp(np.minimum(scaled - high, 50.0)))
    return np.rint(accepted * ONE).astype(np.int64)


def _best_first(
    scores: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64], wanted: float
) -> npt.NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    sizes = tokens[order].astype(np.float64)
    before = np.cumsum(sizes) - sizes
    part = np.clip((wanted - before) / np.maximum(sizes, 1), 0, 1)
    accepted = np.empty(len(scores), np.int64)
    accepted[order] = np.rint(part * ONE).astype(np.int64)
    return accepted
