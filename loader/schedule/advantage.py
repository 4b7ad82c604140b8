# SPDX-License-Identifier: Apache-2.0
"""What an order of units costs: the linear ordering problem over an antisymmetric advantage.

Suffix N stands for units. All arrays are float64; influence and advantage are in the unit of the
losses, or shares of them. I[i, j] is the change in unit j's loss by training on unit i (negative
helps), and S[i, j] > 0 says that i should go before j.
Source: Xu et al. 2026, arXiv 2605.31164v1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Order = NDArray[np.int64]


def advantage_of(influence: ArrayLike) -> Floats:
    """Return S = I^T - I, [N, N]: how much more training on i helps j than the other way round.

    Raises:
        ValueError: The influence is not square or not finite.

    Source: S_ij = I(j->i) - I(i->j), ibid.
    """
    influence_NN = square("influence", influence)
    return influence_NN.T - influence_NN


def tolerance_of(error: ArrayLike, num_errors: float = 2.0) -> Floats:
    """Return [N, N] tolerances for `solve_order` from the standard errors of influence.

    Args:
        error: [N, N] standard errors; those of I_ij and I_ji are taken as independent. Infinite
            where nothing is known: no constraint is then made.
        num_errors: How many standard errors of S an advantage must exceed to bind.

    Raises:
        ValueError: An error is negative or NaN, or the matrix is not square.
    """
    error_NN = np.asarray(error, np.float64)
    _check_square("error", error_NN)
    if not (error_NN >= 0).all() or not num_errors >= 0:
        raise ValueError("standard errors and num_errors must be >= 0 and not NaN")
    return num_errors * np.hypot(error_NN, error_NN.T)


def order_cost(advantage: ArrayLike, order: ArrayLike) -> float:
    """Return C: the advantage lost, the sum of S_ij over the pairs with S_ij > 0 and j before i.

    Raises:
        ValueError: See `square` and `antisymmetric`, or the order is not a permutation.

    Source: C = (sum_{i<j} |S_ij| - F) / 2 with F of `forward_weight`.
    """
    return float(np.maximum(-_pairs(advantage, order), 0.0).sum())


def forward_weight(advantage: ArrayLike, order: ArrayLike) -> float:
    """Return F: the sum of S_ab over all a that stand before b; the larger the better.

    Raises:
        ValueError: As `order_cost`.
    """
    return float(_pairs(advantage, order).sum())


def antisymmetric(advantage: ArrayLike) -> Floats:
    """Return the advantage as checked float64 [N, N].

    Raises:
        ValueError: It is not square, not finite, or S_ij is not exactly -S_ji.
    """
    advantage_NN = square("advantage", advantage)
    wrong = np.argwhere(advantage_NN != -advantage_NN.T)
    if len(wrong):
        i, j = wrong[0]
        raise ValueError(
            f"advantage[{i}, {j}] is {advantage_NN[i, j]} and [{j}, {i}] is {advantage_NN[j, i]}; "
            "they must be opposite: make it with advantage_of(influence)"
        )
    return advantage_NN


def square(name: str, matrix: ArrayLike) -> Floats:
    """Return a matrix over pairs of units as finite float64 [N, N], N >= 1.

    Raises:
        ValueError: It has another shape, or an entry that is not finite.
    """
    checked = np.asarray(matrix, np.float64)
    _check_square(name, checked)
    check_finite(name, checked)
    return checked


def check_finite(name: str, values: Floats) -> None:
    """Refuse NaN and infinity, naming the first place."""
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        where = ", ".join(str(index) for index in wrong[0])
        raise ValueError(
            f"{name}[{where}] is {values[tuple(wrong[0])]}; leave a unit out until it is measured"
        )


def _check_square(name: str, matrix: Floats) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{name} has shape {matrix.shape}, must be [units, units], at least one")


def _pairs(advantage: ArrayLike, order: ArrayLike) -> Floats:
    """Return S_ab over all pairs with a before b."""
    advantage_NN = antisymmetric(advantage)
    num_units, order_N = len(advantage_NN), np.asarray(order)
    if not np.array_equal(np.sort(order_N), np.arange(num_units)):
        raise ValueError(f"order {order_N.tolist()} must hold each of 0..{num_units - 1} once")
    return advantage_NN[np.ix_(order_N, order_N)][np.triu_indices(num_units, k=1)]
