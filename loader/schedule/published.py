# SPDX-License-Identifier: Apache-2.0
"""The paper's edge and solver as printed, so that its text can be held against the code.

What they do is written in docs/d3.md, "The paper's errors". For use take `edges` and `solve`.
Source: Xu et al. 2026, arXiv 2605.31164v1 (the authors' repository holds no code).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, Order, antisymmetric, check_finite, square


def published_influence(gradients: ArrayLike, hessian_diagonals: ArrayLike, gamma: float) -> Floats:
    """Return I_ij = -gamma g_i.g_j + (gamma^2 / 2) lambda_j, [N, N], with the printed lambda.

    lambda_j = g_j^T diag(h_j) g_j, where the expansion has g_i^T H_j g_i.

    Args:
        gradients: [N, D], each unit's gradient (or its sketch).
        hessian_diagonals: [N, D], the diagonal of each unit's Hessian.
        gamma: Length of the virtual step; the paper takes 100 times the learning rate.

    Raises:
        ValueError: Shapes differ, or a value is not finite.
    """
    gradients_ND = np.asarray(gradients, np.float64)
    diagonals_ND = np.asarray(hessian_diagonals, np.float64)
    if gradients_ND.ndim != 2 or gradients_ND.shape != diagonals_ND.shape:
        raise ValueError(
            f"gradients {gradients_ND.shape} and hessian_diagonals {diagonals_ND.shape} "
            "must both be [units, parameters]"
        )
    check_finite("gradients", gradients_ND)
    check_finite("hessian_diagonals", diagonals_ND)
    lambda_N = (gradients_ND**2 * diagonals_ND).sum(axis=1)
    return influence_of_products(gradients_ND @ gradients_ND.T, lambda_N, gamma)


def influence_of_products(products: ArrayLike, curvatures: ArrayLike, gamma: float) -> Floats:
    """Return the influence of `published_influence` where only inner products are at hand.

    Args:
        products: [N, N], g_i . g_j.
        curvatures: [N], the printed lambda_j.
        gamma: Length of the virtual step.

    Raises:
        ValueError: Shapes do not fit, or a value is not finite.
    """
    products_NN = square("products", products)
    lambda_N = np.asarray(curvatures, np.float64)
    if lambda_N.shape != products_NN.shape[:1]:
        raise ValueError(f"curvatures {lambda_N.shape} must be {products_NN.shape[:1]}")
    check_finite("curvatures", lambda_N)
    return -gamma * products_NN + gamma**2 / 2 * lambda_N


def published_order(advantage: ArrayLike, seed: int, num_swaps: int = 100) -> Order:
    """Return the order of row sums, then random swaps that lower the cost ("RSR"), [N] int64.

    Equal for equal seeds under one version of NumPy, whose random streams may change between
    versions. Rows of equal sum keep the order of their indices.

    Args:
        advantage: [N, N], S_ij = -S_ji.
        seed: >= 0.
        num_swaps: How many pairs of places are tried, each drawn alike.

    Raises:
        ValueError: The advantage is not square, finite and antisymmetric.
    """
    advantage_NN = antisymmetric(advantage)
    order = np.argsort(-advantage_NN.sum(axis=1), kind="stable")
    if len(order) == 1:
        return order
    rng = np.random.default_rng(seed)
    for _ in range(num_swaps):
        first, second = np.sort(rng.choice(len(order), 2, replace=False))
        i, j, between = order[first], order[second], order[first + 1 : second]
        change = advantage_NN[i, j] + (advantage_NN[i, between] + advantage_NN[between, j]).sum()
        if change < 0:
            order[[first, second]] = j, i
    return order
