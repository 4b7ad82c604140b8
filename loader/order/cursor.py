# SPDX-License-Identifier: Apache-2.0
"""Slots, lanes and the cursor: how far the stream has been read.

The global batch is cut into `num_slots` canonical slots. A slot reads through `lanes` open
documents at once, so that one long document never fills a step alone; a lane that has finished
its document opens the next one of the order. So all slots read the same part of the order at the
same time, however long their documents are. How far they have read depends on document lengths
only, never on a policy or on the rank: the cursor is equal on all ranks, and any world size that
divides `num_slots` reads the same global batches.
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


def new_table(layout: SlotLayout) -> np.ndarray:
    """Return the table of a cursor that has read nothing."""
    table = np.zeros((1 + layout.num_slots * layout.lanes, 2), dtype=np.int64)
    table[1:, 0] = -1
    return table


class Cursor:
    """How far the stream has been read: the next document, and what each lane has open.

    `table` is [1 + num_slots * lanes, 2] int64: first (next position, 0), then, slot after slot,
    (position, offset) of each lane's open document, position -1 where a lane is free.

    Args:
        layout: How the global batch is cut.
        lengths: Returns the number of tokens, int64 [m], of the documents at positions int64 [m].
    """

    def __init__(self, layout: SlotLayout, lengths: Lengths) -> None:
        self.layout = layout
        self._lengths = lengths
        self.table = new_table(layout)
        self._ahead = 2 * layout.num_slots * layout.lanes

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table; StateError if its shape does not fit."""
        if table.shape != self.table.shape:
            raise StateError(
                f"the saved cursor has shape {table.shape}, this loader needs {self.table.shape}: "
                "resume with the batch_rows, num_slots and lanes of the run that saved it"
            )
        self.table = np.ascontiguousarray(table, dtype=np.int64)

    @property
    def next_position(self) -> int:
        """The position of the next document that a lane opens."""
        return int(self.table[0, 0])

    @property
    def open_positions(self) -> np.ndarray:
        """The positions of the open documents: [k] int64."""
        positions = self.table[1:, 0]
        return positions[positions >= 0]

    def advance(self) -> Pieces:
        """Cut one step of all slots and move on."""
        while self._ahead <= _AHEAD_LIMIT:
            parts = self._cut(table := self.table.copy())
            if parts is not None:
                self.table = table
                return _join(parts)
            self._ahead *= 2
        raise StateError(f"{_AHEAD_LIMIT} documents in a row hold no token")

    def _cut(self, table: np.ndarray) -> list[_Part] | None:
        """Advance `table`; None when the order was not looked into far enough."""
        layout = self.layout
        first = int(table[0, 0])
        ahead = self._lengths(np.arange(first, first + self._ahead, dtype=np.int64))
        lane_lengths = self._lane_lengths(table[1:, 0])
        parts: list[_Part] = []
        for slot in range(layout.num_slots):
            lanes = slice(slot * layout.lanes, (slot + 1) * layout.lanes)
            open_documents = table[1:][lanes]
            cursor = np.concatenate([table[0, :1], open_documents.reshape(-1)])
            reading = (cursor, lane_lengths[lanes], ahead[int(table[0, 0]) - first :])
            if layout.num_candidates is None:
                part = fill(*reading, layout.row_tokens)
            else:
                part = offer(*reading, layout.num_candidates, layout.row_tokens)
            if part is None:
                return None
            table[0, 0] = cursor[0]
            open_documents[:] = cursor[1:].reshape(-1, 2)
            parts.append(cast(_Part, part))
        return parts

    def _lane_lengths(self, positions: np.ndarray) -> np.ndarray:
        """Return the tokens of each lane's open document, 0 where a lane is free."""
        lengths = np.zeros(len(positions), dtype=np.int64)
        is_open = positions >= 0
        if is_open.any():
            lengths[is_open] = self._lengths(positions[is_open])
        return lengths


def _join(parts: list[_Part]) -> Pieces:
    slots = [np.full(len(part[0]), slot, dtype=np.int64) for slot, part in enumerate(parts)]
    position, offset, length = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Pieces(np.concatenate(slots), position, offset, length)
