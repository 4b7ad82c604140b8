# SPDX-License-Identifier: Apache-2.0
"""Pacing: how much of which unit stands in the next round, and in which order.

Budgets are whole numbers and are spent exactly: a round takes of what is left, tilted towards the
units that should go before it, no farther from the mix of what is left than the trust region
allows. Suffix N stands for units; shares add up to 1.
Source: docs/d3.md, "Pacing".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, Order, advantage_of, tolerance_of
from .shrink import effective_delta, shrink
from .solve import solve_order

_MAX_TILT = 1e4  # times the range of s: all goes to the units furthest ahead
_BISECTIONS = 50


@dataclass(frozen=True, eq=False)
class Belief:
    """What is held of the units before a round is made.

    `advantage` [N, N] with its noise taken off, `order` [N] int64 in which they are best trained,
    `delta` how far the round may go, in nats, and `num_edges` how many pairs bind.
    """

    advantage: Floats
    order: Order
    delta: float
    num_edges: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held: then nothing is paced and nothing is ordered."""
        return self.num_edges == 0 and (self.delta == 0 or not self.advantage.any())


@dataclass(frozen=True, eq=False)
class Round:
    """One round: `counts` [N] int64, what it takes of each unit, and `order` [k] of those with any.

    `shares` [N] are what the counts were rounded from, `divergence` their KL divergence, in nats,
    from the mix of what was left.
    """

    counts: Order
    order: Order
    shares: Floats
    divergence: float


def believe(
    influence: ArrayLike, error: ArrayLike, *, delta: float, num_errors: float = 2.0
) -> Belief:
    """Return what measured influence says about the units.

    Args:
        influence: [N, N], see `advantage_of`.
        error: [N, N], its standard errors; infinite where nothing is known.
        delta: The trust region, nats, as far as noise leaves it.
        num_errors: How many standard errors a pair must exceed to bind the order, and at which
            half of its advantage is left.

    Raises:
        ValueError: See `advantage_of`, `tolerance_of` and `effective_delta`.
    """
    advantage_NN = advantage_of(influence)
    tolerance_NN = tolerance_of(error, num_errors)
    shrunk_NN = shrink(advantage_NN, error, num_errors)
    return Belief(
        advantage=shrunk_NN,
        order=solve_order(advantage_NN, tolerance_NN),
        delta=effective_delta(delta, advantage_NN, shrunk_NN),
        num_edges=int((advantage_NN > tolerance_NN).sum()),
    )


def no_belief(num_units: int) -> Belief:
    """Return what is held before anything was measured."""
    nothing = np.zeros((num_units, num_units))
    return Belief(nothing, np.arange(num_units), 0.0, 0)


def pace(remaining: ArrayLike, size: int, belief: Belief, floor: float = 0.0) -> Round:
    """Return the next round.

    Args:
        remaining: [N] whole numbers >= 0, what is left of each unit's budget.
        size: How much the round takes, at most; less when less is left.
        belief: Of the same units.
        floor: In [0, 1]: the part of its share of what is left that every unit keeps.

    Raises:
        ValueError: What remains is no whole number, or nothing, or does not fit the belief.
    """
    remaining_N = whole_numbers("remaining", remaining)
    if remaining_N.shape != belief.order.shape:
        raise ValueError(f"remaining {remaining_N.shape} must be {belief.order.shape}")
    total = int(remaining_N.sum())
    if size < 1 or not total:
        raise ValueError(f"a round of {size} of {total} that are left: both must be at least 1")
    mix_N = remaining_N / total
    push_N = belief.advantage @ mix_N
    shares_N = tilted_shares(mix_N, push_N, delta=belief.delta, floor=floor)
    counts_N = integer_counts(shares_N, min(size, total), remaining_N)
    order = belief.order[counts_N[belief.order] > 0]
    return Round(counts_N, order, shares_N, divergence(shares_N, mix_N))


def tilted_shares(mix: ArrayLike, push: ArrayLike, *, delta: float, floor: float = 0.0) -> Floats:
    """Return p = floor q + (1 - floor) q exp(b s) / Z with the largest b whose KL(p || q) <= delta.

    The divergence grows with b, and so does <s, p>: bisection finds b.

    Args:
        mix: [N], q, shares.
        push: [N], s, on any scale; what is pushed equally is not tilted.
        delta: In nats, >= 0; 0 gives q itself.
        floor: In [0, 1].

    Raises:
        ValueError: A shape does not fit, q are no shares, s is not finite, or delta or floor is
            out of its range.
    """
    mix_N, push_N = _shares(mix), np.asarray(push, np.float64)
    if push_N.shape != mix_N.shape or not np.isfinite(push_N).all():
        raise ValueError(f"push {push_N.tolist()} must be {len(mix_N)} finite numbers")
    if not 0 <= delta < np.inf or not 0 <= floor <= 1:
        raise ValueError(f"delta {delta} must be >= 0 and finite, floor {floor} in [0, 1]")
    is_in = mix_N > 0
    highest, lowest = push_N[is_in].max(), push_N[is_in].min()
    if delta == 0 or floor == 1 or not highest > lowest:
        return mix_N
    behind_N = np.where(is_in, (push_N - highest) / (highest - lowest), 0.0)  # in [-1, 0]

    def tilted(tilt: float) -> Floats:
        weights_N = mix_N * np.exp(tilt * behind_N)
        return floor * mix_N + (1 - floor) * weights_N / weights_N.sum()

    low, high = 0.0, 1.0
    while high < _MAX_TILT and divergence(tilted(high), mix_N) <= delta:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_within = divergence(tilted(middle), mix_N) <= delta
        low, high = (middle, high) if is_within else (low, middle)
    return tilted(low) if low else mix_N


def divergence(shares: Floats, mix: Floats) -> float:
    """Return KL(p || q) in nats; what p has none of counts nothing."""
    is_in = shares > 0
    ratio = shares[is_in] / mix[is_in]
    return max(float((shares[is_in] * np.log(ratio)).sum()), 0.0)


def integer_counts(shares: ArrayLike, size: int, most: ArrayLike) -> Order:
    """Return [N] int64 counts that add up to `size`, by largest remainder, none above `most`.

    What a unit cannot take goes to the others in proportion to their shares. Of equal fractions the
    smaller index is rounded up.

    Raises:
        ValueError: A shape does not fit, or `most` adds up to less than `size`.
    """
    shares_N, most_N = _shares(shares), whole_numbers("most", most)
    if most_N.shape != shares_N.shape or not 0 <= size <= most_N.sum():
        raise ValueError(
            f"{size} cannot be shared out to {shares_N.shape} units of at most {most_N.tolist()}"
        )
    counts_N = np.zeros(len(shares_N), np.int64)
    while left := size - int(counts_N.sum()):
        room_N = most_N - counts_N
        weights_N = np.where(room_N > 0, shares_N, 0.0)
        if not weights_N.any():  # all that have a share are full
            weights_N = room_N.astype(np.float64)
        wanted_N = left * (weights_N / weights_N.sum())
        is_full = wanted_N >= room_N
        if (is_full & (room_N > 0)).any():
            counts_N[is_full] = most_N[is_full]
            continue
        whole_N = np.floor(wanted_N).astype(np.int64)
        largest = np.argsort(whole_N - wanted_N, kind="stable")[: left - int(whole_N.sum())]
        whole_N[largest] += 1
        counts_N += whole_N
    return counts_N


def whole_numbers(name: str, values: ArrayLike) -> Order:
    """Return whole numbers >= 0 as checked int64 [N], N >= 1.

    Raises:
        ValueError: They are none.
    """
    given = np.asarray(values)
    is_whole = given.ndim == 1 and len(given) and given.dtype.kind in "iu"
    if not is_whole or (given < 0).any() or int(given.max()) > 1 << 40:
        raise ValueError(f"{name} must be whole numbers from 0 on, one a unit, not {values!r}")
    return given.astype(np.int64)


def _shares(values: ArrayLike) -> Floats:
    shares_N = np.asarray(values, np.float64)
    if shares_N.ndim != 1 or not len(shares_N) or not (shares_N >= 0).all():
        raise ValueError(f"shares must be numbers from 0 on, one a unit, not {values!r}")
    if abs(shares_N.sum() - 1) > 1e-6:
        raise ValueError(f"shares {shares_N.tolist()} must add up to 1")
    return shares_N
