# SPDX-License-Identifier: Apache-2.0
"""The order solver: exact on graphs without cycles and on cycles of at most ten units.

Units of one cycle form a component; between components the order is a matter of the graph alone,
inside it is a linear ordering problem, which is NP-hard. Deterministic, without seeds.
Source: docs/d3.md; subset dynamic programme after Held and Karp 1962.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, Order, antisymmetric

MAX_EXACT = 10  # units of a component; the dynamic programme holds 2^n subsets times n
ROUNDING = 1e-12  # of the sum of |S|: a gain below it may be rounding and could go round in circles


def solve_order(advantage: ArrayLike, tolerance: ArrayLike = 0.0) -> Order:
    """Return the units in an order of small cost, [N] int64.

    Where the constraints have no cycle the cost over them is 0, where no cycle binds more than ten
    units it is the least possible, else a minimum of local search. Without constraints the order
    is 0..N-1; between units that nothing orders, the larger row sum goes first, then the smaller
    index.

    Args:
        advantage: [N, N], S_ij = -S_ji; see `advantage_of`.
        tolerance: A number or symmetric [N, N], >= 0: entries with |S_ij| at or below it
            constrain nothing; infinite where nothing is known.

    Raises:
        ValueError: The advantage is not square, finite and antisymmetric, or the tolerance is
            negative, NaN, not symmetric or of another shape.
    """
    advantage_NN = antisymmetric(advantage)
    binding_NN = np.where(
        np.abs(advantage_NN) > _tolerance(tolerance, len(advantage_NN)), advantage_NN, 0.0
    )
    order: list[int] = []
    for component in _components(binding_NN):
        inside = _order_inside(binding_NN[np.ix_(component, component)])
        order += [component[pos] for pos in inside]
    return np.array(order, np.int64)


def improve_order(advantage_NN: Floats, order: Order) -> Order:
    """Return a copy of the order that no single insertion improves, and so no single swap.

    If neither unit of a pair gains by moving anywhere up to the other, the two cannot by swapping.
    """
    order = order.copy()
    margin = ROUNDING * float(np.abs(advantage_NN).sum())
    while _insert_each(advantage_NN, order, margin):
        pass
    return order


def greedy_order(advantage_NN: Floats) -> Order:
    """Return the order that always takes the unit ahead of most of what is left."""
    ahead_N = advantage_NN.sum(axis=1)
    order = np.empty(len(ahead_N), np.int64)
    for pos in range(len(order)):
        order[pos] = unit = int(ahead_N.argmax())
        ahead_N -= advantage_NN[:, unit]
        ahead_N[unit] = -np.inf
    return order


def _tolerance(tolerance: ArrayLike, num_units: int) -> Floats:
    checked = np.asarray(tolerance, np.float64)
    if checked.ndim and checked.shape != (num_units, num_units):
        raise ValueError(
            f"tolerance has shape {checked.shape}, must be a number or [{num_units}, {num_units}]"
        )
    if not (checked >= 0).all() or not np.array_equal(checked, checked.T):
        raise ValueError("tolerance must be >= 0, not NaN, and the same for (i, j) and (j, i)")
    return checked


def _components(binding_NN: Floats) -> list[list[int]]:
    """Return the units of each strongly connected component, components in topological order.

    By matrices: on dense graphs faster than a graph library (benchmarks/bench_order_solvers.py).
    """
    num_units = len(binding_NN)
    reaches_NN = ((binding_NN > 0) | np.eye(num_units, dtype=bool)).astype(np.float32)
    for _ in range(num_units.bit_length()):  # paths of up to 2, 4, 8, ... edges
        reaches_NN = np.minimum(reaches_NN @ reaches_NN, 1.0)
    first_N = (reaches_NN * reaches_NN.T).argmax(axis=1)  # smallest unit of the same component
    components = [np.nonzero(first_N == first)[0].tolist() for first in np.unique(first_N)]
    rows_N = binding_NN.sum(axis=1)
    components.sort(key=lambda units: (-float(rows_N[units].sum()), units[0]))
    firsts = [units[0] for units in components]
    precedes = reaches_NN[np.ix_(firsts, firsts)]
    num_waiting_for = precedes.sum(axis=0)  # itself included
    ordered = []
    for _ in components:
        component = int((num_waiting_for == 1).argmax())
        num_waiting_for -= precedes[component]
        ordered.append(components[component])
    return ordered


def _order_inside(advantage_NN: Floats) -> Order:
    if len(advantage_NN) <= MAX_EXACT:
        return _subset_order(advantage_NN)
    return improve_order(advantage_NN, greedy_order(advantage_NN))


def _subset_order(advantage_NN: Floats) -> Order:
    """Return an order of the largest forward weight, by dynamic programming over subsets."""
    num = len(advantage_NN)
    units, subsets = np.arange(num), np.arange(1 << num)
    holds = (subsets[:, None] >> units) & 1 == 1  # [2^N, N]
    ahead = holds @ advantage_NN  # [subset, unit]: forward weight of the unit placed after it
    best, last = np.zeros(1 << num), np.zeros(1 << num, np.int64)
    size = holds.sum(axis=1)
    for count in range(1, num + 1):
        layer = subsets[size == count]
        rest = layer[:, None] & ~(1 << units)
        weight = np.where(holds[layer], best[rest] + ahead[rest, units], -np.inf)
        last[layer] = num - 1 - weight[:, ::-1].argmax(axis=1)  # ties: the largest index last
        best[layer] = weight[np.arange(len(layer)), last[layer]]
    order, subset = np.empty(num, np.int64), (1 << num) - 1
    for pos in range(num - 1, -1, -1):
        order[pos] = last[subset]
        subset &= ~(1 << int(order[pos]))
    return order


def _insert_each(advantage_NN: Floats, order: Order, margin: float) -> bool:
    """Move each unit once to where it costs least; return whether any moved."""
    has_moved = False
    before = np.zeros(len(order) + 1)  # before[g]: the unit's advantage over what stands before g
    for unit in order.tolist():
        pos = int(np.nonzero(order == unit)[0][0])
        np.cumsum(advantage_NN[unit, order], out=before[1:])
        gap = int(before.argmin())
        if before[pos] - before[gap] <= margin:
            continue
        has_moved = True
        if gap < pos:
            order[gap + 1 : pos + 1] = order[gap:pos].copy()
            order[gap] = unit
        else:
            order[pos : gap - 1] = order[pos + 1 : gap].copy()
            order[gap - 1] = unit
    return has_moved
