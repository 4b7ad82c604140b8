# SPDX-License-Identifier: Apache-2.0
"""Units: the joint cells that are scheduled as one, small ones merged.

A function of labels and budgets alone, so every rank and every run makes the same units.
Source: docs/d3.md, "Units".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Order
from .pacing import whole_numbers

MAX_UNITS = 32


@dataclass(frozen=True, eq=False)
class Units:
    """`unit_of` [M] int64: the unit of each cell; `budgets` [N] int64, the sums of their cells."""

    unit_of: Order
    budgets: Order

    def __len__(self) -> int:
        return len(self.budgets)

    def cells(self, unit: int) -> list[int]:
        """Return the cells of a unit, ascending."""
        return np.flatnonzero(self.unit_of == unit).tolist()


def merge_cells(
    labels: ArrayLike, budgets: ArrayLike, *, max_units: int = MAX_UNITS, min_share: float = 0.0
) -> Units:
    """Merge joint cells until there are few units and none is small.

    Again and again the unit of the smallest budget (of equal ones the later) goes into the one
    with which it agrees in most labels, of those into the smallest, of those into the earlier. A
    unit has the labels of its largest cell, of equal ones those of the first. Units are numbered
    by their first cell.

    Args:
        labels: [M, A] whole numbers, what each agent says of a cell; no two rows need differ.
        budgets: [M] whole numbers >= 0 by cell.
        max_units: >= 1, how many units there may be.
        min_share: In [0, 1): units of a smaller share of all budgets are merged as well.

    Raises:
        ValueError: Shapes do not fit, or a setting is out of its range.
    """
    budgets_M = whole_numbers("budgets", budgets)
    labels_MA = np.array(labels)
    if labels_MA.ndim != 2 or len(labels_MA) != len(budgets_M):
        raise ValueError(f"labels {labels_MA.shape} must be [{len(budgets_M)}, agents]")
    if max_units < 1 or not 0 <= min_share < 1:
        raise ValueError(f"max_units {max_units} must be >= 1, min_share {min_share} in [0, 1)")
    sums_M, unit_of = budgets_M.copy(), np.arange(len(budgets_M))
    largest_M = budgets_M.copy()  # budget of the cell whose labels a unit has
    alive = np.arange(len(budgets_M))
    least = min_share * int(budgets_M.sum())
    while len(alive) > 1:
        smallest = alive[len(alive) - 1 - int(sums_M[alive][::-1].argmin())]
        if len(alive) <= max_units and sums_M[smallest] >= least:
            break
        alive = alive[alive != smallest]
        agreed = (labels_MA[alive] == labels_MA[smallest]).sum(axis=1)
        nearest = alive[np.lexsort((alive, sums_M[alive], -agreed))[0]]
        first, other = sorted((int(nearest), int(smallest)))
        if largest_M[other] > largest_M[first]:
            labels_MA[first], largest_M[first] = labels_MA[other], largest_M[other]
        sums_M[first] += sums_M[other]
        unit_of[unit_of == other] = first
        alive = np.sort(np.append(alive[alive != nearest], first))
    return Units(np.searchsorted(alive, unit_of), sums_M[alive])
