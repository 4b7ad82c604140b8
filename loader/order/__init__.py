# SPDX-License-Identifier: Apache-2.0
"""The order: which sample stands at which position, and how far each slot has read.

Integers only. `Order` maps a position of the endless stream to (shard, row) by formula; `Cursor`
plans which pieces of which documents stand in which slot and is the whole of what resume needs.
"""

from .cursor import Block, Cursor, Packing, SlotLayout, default_num_slots, new_table
from .mixture import Mixture
from .strands import ORDER_VERSION, Order
from .units import UnitOrder
from .wanted import WantedOrder

__all__ = [
    "ORDER_VERSION",
    "Block",
    "Cursor",
    "Mixture",
    "Order",
    "Packing",
    "SlotLayout",
    "UnitOrder",
    "WantedOrder",
    "default_num_slots",
    "new_table",
]
