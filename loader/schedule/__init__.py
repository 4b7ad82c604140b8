# SPDX-License-Identifier: Apache-2.0
"""The core of D3: from measured influence between units to the order in which they are trained.

`edges` makes influence of measured losses, `regression` of losses that are probed anyway,
`advantage` says what an order costs, `solve` finds a good one, and `published` is the paper's way,
to hold it against. The mathematics is in docs/d3.md.
"""

from .advantage import advantage_of, forward_weight, order_cost, tolerance_of
from .edges import EdgeAverage, lookahead, lookahead_error, relative
from .published import published_influence, published_order
from .regression import Regression
from .solve import solve_order

__all__ = [
    "EdgeAverage",
    "Regression",
    "advantage_of",
    "forward_weight",
    "lookahead",
    "lookahead_error",
    "order_cost",
    "published_influence",
    "published_order",
    "relative",
    "solve_order",
    "tolerance_of",
]
