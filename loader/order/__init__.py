# SPDX-License-Identifier: Apache-2.0
"""The order: which sample stands at which position, and how far each slot has read.

Integers only. `Order` maps a position of the endless stream to (shard, row) by formula; `Cursor`
cuts documents into candidate pieces for all slots and is the whole of what resume needs.
"""

from .cursor import Cursor, Pieces, SlotLayout, default_num_slots, new_table
from .windows import Order

__all__ = ["Cursor", "Order", "Pieces", "SlotLayout", "default_num_slots", "new_table"]
