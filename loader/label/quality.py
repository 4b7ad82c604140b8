# SPDX-License-Identifier: Apache-2.0
"""The quality target: reference text against corpus text, and against itself without its order.

Both sides weigh the same. On the other side stand the corpus pieces, re-weighted so that each
domain has the share it has in the reference set (what a domain is worth is the domain agent's
business), and one shuffled copy of each reference piece: the same tokens, no order. Domains without
reference text take no part. No label of degraded documents is used.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .heads import Target
from .pieces import Pieces


def shuffle_tokens(pieces: Pieces, seed: int) -> Pieces:
    """Return copies of the pieces with the tokens of each in random order."""
    owner = np.repeat(np.arange(len(pieces)), pieces.lengths)
    keys = np.random.default_rng([seed, 3]).random(len(pieces.tokens))
    return replace(pieces, tokens=pieces.tokens[np.lexsort((keys, owner))])


def quality_target(pieces: Pieces, num_shuffled: int, shuffled_share: float) -> Target:
    """Build the target of all pieces followed by the shuffled copies of the reference pieces.

    Args:
        pieces: n corpus and reference pieces, both at hand.
        num_shuffled: m, shuffled copies behind them.
        shuffled_share: of the weight of everything that is not reference, in [0, 1).

    Returns:
        A binary target of n + m pieces; reference pieces together weigh half.
    """
    is_reference = pieces.is_reference
    label = np.concatenate([is_reference, np.zeros(num_shuffled, dtype=bool)]).astype(np.int64)
    corpus = domain_weights(pieces)
    weight = np.zeros(len(label))
    weight[: len(pieces)][is_reference] = 0.5 / is_reference.sum()
    weight[: len(pieces)][~is_reference] = 0.5 * (1 - shuffled_share) * corpus
    if num_shuffled:
        weight[len(pieces) :] = 0.5 * shuffled_share / num_shuffled
    return Target(label, (weight * len(label)).astype(np.float32), 2, is_binary=True)


def domain_weights(pieces: Pieces) -> np.ndarray:
    """Weigh corpus pieces so that their domains have the reference set's shares.

    Returns:
        [number of corpus pieces] float64, sums to 1; all equal where the two share no domain.
    """
    domain = pieces.domain - min(int(pieces.domain.min()), 0)
    num_domains = int(domain.max()) + 1
    mine, theirs = domain[~pieces.is_reference], domain[pieces.is_reference]
    num_mine = np.bincount(mine, minlength=num_domains)
    num_theirs = np.bincount(theirs, minlength=num_domains)
    weight = (num_theirs / np.maximum(num_mine, 1))[mine]
    if weight.sum() == 0:
        weight = np.ones(len(mine))
    return weight / weight.sum()


def shares_domain(pieces: Pieces) -> bool:
    """Whether a domain holds both reference and corpus pieces."""
    is_reference = pieces.is_reference
    return bool(np.isin(pieces.domain[is_reference], pieces.domain[~is_reference]).any())
