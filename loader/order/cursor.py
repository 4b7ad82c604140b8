# SPDX-License-Identifier: Apache-2.0
"""Slots, strands and the cursor: how far the stream has been read.

The global batch is cut into `num_slots` canonical slots. Slot s owns strand s of the order:
positions s, s + num_slots, s + 2 num_slots, ... A slot reads its strand through `lanes` open
documents at once, so that one long document never fills a step alone. How far every slot has read
depends on document lengths only, never on a policy or on the rank; so the cursor is equal on all
ranks, and any world size that divides `num_slots` reads the same global batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from .._core import fill, offer
from ..errors import ConfigError, StateError

_AHEAD_LIMIT = 1 << 22  # a slot that meets this many empty documents in a row gives up

Lengths = Callable[[np.ndarray], np.ndarray]
_Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def default_num_slots(batch_rows: int) -> int:
    """Return the largest power of two up to 64 that leaves at least four rows a slot, else 1."""
    for num_slots in (64, 32, 16, 8, 4, 2):
        if batch_rows % num_slots == 0 and batch_rows // num_slots >= 4:
            return num_slots
    return 1


@dataclass(frozen=True, kw_only=True)
class SlotLayout:
    """How a global batch is cut.

    `num_candidates` None means that nothing is selected: each slot fills its rows to the last
    token.
    """

    num_slots: int
    rows_per_slot: int
    row_tokens: int
    lanes: int
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        """Refuse layouts that cannot be read."""
        for name in ("num_slots", "rows_per_slot", "row_tokens", "lanes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_candidates is None and self.lanes != self.rows_per_slot:
            raise ConfigError("without selection a slot has one lane a row")


@dataclass(frozen=True)
class Pieces:
    """Candidate pieces of one step, slot after slot.

    `slot`, `position` (in the order), `offset` and `length` (tokens) are [m] int64.
    """

    slot: np.ndarray
    position: np.ndarray
    offset: np.ndarray
    length: np.ndarray


class Cursor:
    """The cursor of every slot: [num_slots, 1 + 2 lanes] int64, advanced one step at a time.

    Args:
        layout: How the global batch is cut.
        lengths: Returns the number of tokens, int64 [m], of the documents at positions int64 [m].
    """

    def __init__(self, layout: SlotLayout, lengths: Lengths) -> None:
        self.layout = layout
        self._lengths = lengths
        self.table = np.zeros((layout.num_slots, 1 + 2 * layout.lanes), dtype=np.int64)
        self.table[:, 1::2] = -1
        self._ahead = layout.num_candidates or 2 * layout.lanes

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table; StateError if its shape does not fit."""
        if table.shape != self.table.shape:
            raise StateError(
                f"the saved cursor has shape {table.shape}, this loader needs {self.table.shape}: "
                "resume with the batch_rows, num_slots and lanes of the run that saved it"
            )
        self.table = np.ascontiguousarray(table, dtype=np.int64)

    def first_position(self) -> int:
        """Return the smallest position of the order that may still be read."""
        nexts = self.table[:, 0] * self.layout.num_slots + np.arange(self.layout.num_slots)
        return int(nexts.min())

    def advance(self) -> Pieces:
        """Cut one step of all slots and move on."""
        while self._ahead <= _AHEAD_LIMIT:
            parts = self._cut(table := self.table.copy())
            if parts is not None:
                self.table = table
                return self._join(parts)
            self._ahead *= 2
        raise StateError(f"a slot met {_AHEAD_LIMIT} documents without a token in a row")

    def _cut(self, table: np.ndarray) -> list[_Part] | None:
        """Advance every row of `table`; None when a strand was not looked into far enough."""
        layout = self.layout
        slots = np.arange(layout.num_slots, dtype=np.int64)[:, None]
        ahead = table[:, :1] + np.arange(self._ahead, dtype=np.int64)
        ahead_lengths = self._lengths_of(ahead * layout.num_slots + slots)
        lanes = np.where(table[:, 1::2] >= 0, table[:, 1::2], 0)
        lane_lengths = self._lengths_of(lanes * layout.num_slots + slots)
        parts: list[_Part] = []
        for slot in range(layout.num_slots):
            strand = (table[slot], lane_lengths[slot], ahead_lengths[slot])
            if layout.num_candidates is None:
                part = fill(*strand, layout.row_tokens)
            else:
                part = offer(*strand, layout.num_candidates, layout.row_tokens)
            if part is None:
                return None
            parts.append(cast(_Part, part))
        return parts

    def _lengths_of(self, positions: np.ndarray) -> np.ndarray:
        return self._lengths(positions.reshape(-1)).reshape(positions.shape)

    def _join(self, parts: list[_Part]) -> Pieces:
        slots = [np.full(len(part[0]), slot, dtype=np.int64) for slot, part in enumerate(parts)]
        slot = np.concatenate(slots)
        position, offset, length = (np.concatenate([p[i] for p in parts]) for i in range(3))
        return Pieces(slot, position * self.layout.num_slots + slot, offset, length)
