# SPDX-License-Identifier: Apache-2.0
"""The commutator edge: what swapping two steps changes in a reference loss, to second order.

Two steps do not commute: theta after i then j differs from theta after j then i by
eta^2 (P H_j P g_i - P H_i P g_j). Suffix N stands for steps. Whoever has the model measures the
products; here they become an advantage.
Source: docs/d3.md, "Edges".
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from .advantage import Floats, square


def commutator_advantage(products: ArrayLike, eta: float) -> Floats:
    """Return S_ij = eta^2 (u_i . P g_j - u_j . P g_i), u_i = H_i P v, [N, N].

    v is the gradient of the reference loss. S_ij > 0: i before j ends lower than j before i, by
    S_ij up to terms of eta^3.

    Args:
        products: [N, N], products[i, j] = u_i . P g_j.
        eta: The learning rate, >= 0.

    Raises:
        ValueError: The products are not square or not finite, or eta is negative.
    """
    products_NN = square("products", products)
    if not eta >= 0:
        raise ValueError(f"eta is {eta}, must be >= 0")
    return eta**2 * (products_NN - products_NN.T)
