# SPDX-License-Identifier: Apache-2.0
"""The core of D3: from measured influence between units to the order in which they are trained.

`edges` makes influence of measured losses, `regression` of losses that are probed anyway,
`commutator` an advantage of how two steps act on each other; `advantage` says what an order costs,
`solve` finds a good one, `gate` keeps the order of batches from doing harm, and `published` is the
paper's way, to hold it against. `units` merges cells, `pacing` makes rounds of budgets, `schedule`
mixtures by step of them, `streams` a schedule for a loader. The mathematics is in docs/d3.md.
"""

from .advantage import advantage_of, forward_weight, order_cost, tolerance_of
from .commutator import commutator_advantage
from .config import ScheduleConfig
from .edges import EdgeAverage, lookahead, lookahead_error, relative
from .gate import Gate, GateConfig
from .pacing import Belief, Round, believe, pace
from .published import influence_of_products, published_influence, published_order
from .regression import Regression
from .schedule import Change, Schedule
from .shrink import effective_delta, shrink
from .solve import solve_order
from .units import Units, merge_cells

__all__ = [
    "Belief",
    "Change",
    "EdgeAverage",
    "Gate",
    "GateConfig",
    "Regression",
    "Round",
    "Schedule",
    "ScheduleConfig",
    "Units",
    "advantage_of",
    "believe",
    "commutator_advantage",
    "effective_delta",
    "forward_weight",
    "influence_of_products",
    "lookahead",
    "lookahead_error",
    "merge_cells",
    "order_cost",
    "pace",
    "published_influence",
    "published_order",
    "relative",
    "shrink",
    "solve_order",
    "tolerance_of",
]
