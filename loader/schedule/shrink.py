# SPDX-License-Identifier: Apache-2.0
"""What is left of an advantage once its noise is taken off, and how far it may be followed.

The trust region is reached at any scale of S: without this, noise of 1e-12 would pace as far as a
real advantage does. Suffix N stands for units.
Source: docs/d3.md, "Pacing".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, antisymmetric, tolerance_of


def shrink(advantage: ArrayLike, error: ArrayLike, num_errors: float = 2.0) -> Floats:
    """Return S_ij * S_ij^2 / (S_ij^2 + (c se_ij)^2), [N, N], c = num_errors.

    Args:
        advantage: [N, N], S_ij = -S_ji.
        error: [N, N] standard errors of influence; infinite where nothing is known, which leaves 0.
        num_errors: The size of S_ij, in standard errors of its own, at which half of it is left.

    Raises:
        ValueError: A shape does not fit, the advantage is not finite and antisymmetric, or an
            error is negative or NaN.
    """
    advantage_NN, width_NN = antisymmetric(advantage), tolerance_of(error, num_errors)
    if width_NN.shape != advantage_NN.shape:
        raise ValueError(f"error {width_NN.shape} must be {advantage_NN.shape} as the advantage")
    size_NN = np.abs(advantage_NN)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratio_NN = width_NN / size_NN  # of the two, so that neither is squared out of range
        left_NN = 1 / (1 + ratio_NN**2)
    return np.where(size_NN > 0, advantage_NN * left_NN, 0.0)


def effective_delta(delta: float, advantage: ArrayLike, shrunk: ArrayLike) -> float:
    """Return delta * sum S_shrunk^2 / sum S^2: 0 where S is all noise, or 0.

    Raises:
        ValueError: A matrix is not finite and antisymmetric, or delta is negative or NaN.
    """
    if not 0 <= delta < np.inf:
        raise ValueError(f"delta is {delta}, must be >= 0 and finite")
    advantage_NN, shrunk_NN = antisymmetric(advantage), antisymmetric(shrunk)
    largest = float(np.abs(advantage_NN).max())
    if not largest:
        return 0.0
    left, whole = (float(((m / largest) ** 2).sum()) for m in (shrunk_NN, advantage_NN))
    return delta * min(left / whole, 1.0)
