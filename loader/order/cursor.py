# SPDX-License-Identifier: Apache-2.0
"""Slots, lanes and the cursor: how far the stream has been read.

The global batch is cut into `num_slots` canonical slots, which share the strands of the order
evenly. A slot keeps some documents open, its lanes: rows that a document runs on in, or whole
documents that wait for room. How far it has read depends on document lengths only, never on a
policy or on the rank: the cursor is equal on all ranks, and any world size that divides `num_slots`
reads the same global batches. Several steps are planned at a time, in one native call.
Source: csrc/plan.h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np

from .._core import POSITION_BITS, draws, plan
from ..errors import ConfigError, StateError
from .strands import Order

_AHEAD_LIMIT = 1 << 22  # a strand that meets this many documents without a token gives up
_EPOCHS_IN_VAIN = 2  # after which a strand gives the best it has
_SLACK = 1.25  # documents looked into beyond what the last plan used

Documents = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Weights(Protocol):
    """The weights of the streams over the steps: a `Mixture`, or what takes its place."""

    def at(self, step: int) -> np.ndarray:
        """Return the weights of a step: int64 [num_streams]."""

    def next_change(self, step: int) -> int | None:
        """Return the first step behind `step` at which weights may change, None if none is."""

    def starts_at(self, step: int) -> bool:
        """Whether other weights hold from this step on."""


class Choice(Protocol):
    """Which documents of a stream are drawn, and which are passed over."""

    def accepts(
        self, step: int, keys: np.ndarray, shards: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return which documents, bool [m], are accepted where they are drawn at a step."""

    def best(
        self, step: int, keys: np.ndarray, shards: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return which documents, bool [m], are accepted most often: one at least."""

    def rate(self, step: int) -> np.ndarray:
        """Return which share of each stream's documents is accepted: [num_streams]."""


class Packing(IntEnum):
    """How pieces come into rows; the numbers are those of csrc/plan.h."""

    CONTIGUOUS = 0
    OFFER = 1
    PAD = 2
    FIRST_FIT = 3
    BEST_FIT = 4


def default_num_slots(batch_rows: int) -> int:
    """Return the largest power of two up to 64 that leaves at least four rows a slot, else 1."""
    for num_slots in (64, 32, 16, 8, 4, 2):
        if batch_rows % num_slots == 0 and batch_rows // num_slots >= 4:
            return num_slots
    return 1


@dataclass(frozen=True, kw_only=True)
class SlotLayout:
    """How a global batch is cut. `num_candidates` counts for Packing.OFFER alone."""

    num_slots: int
    rows_per_slot: int
    row_tokens: int
    lanes: int
    packing: Packing = Packing.CONTIGUOUS
    num_candidates: int = 0
    num_strands: int = 1

    def __post_init__(self) -> None:
        """Refuse layouts that cannot be read."""
        for name in ("num_slots", "rows_per_slot", "row_tokens", "lanes", "num_strands"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        is_by_row = self.packing in (Packing.CONTIGUOUS, Packing.PAD)
        if is_by_row and self.lanes != self.rows_per_slot:
            raise ConfigError(f"{self.packing.name.lower()} packing has one lane a row")
        if self.num_slots % self.num_strands:
            raise ConfigError(
                f"num_strands ({self.num_strands}) must divide num_slots ({self.num_slots})"
            )


@dataclass(frozen=True)
class Block:
    """Pieces of several steps, step after step and slot after slot.

    `end` [steps] int64 is the number of pieces up to and with each step, `tables` [steps, rows, 2]
    int64 the cursor behind it. `slot`, `shard`, `row`, `offset`, `length` (tokens) and `target`
    (token in the slot's rows) are [m] int64.
    """

    first_step: int
    end: np.ndarray
    tables: np.ndarray
    slot: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    target: np.ndarray

    @property
    def num_steps(self) -> int:
        """The steps that are planned."""
        return len(self.end)


def new_table(layout: SlotLayout, num_streams: int = 1) -> np.ndarray:
    """Return the table of a cursor that has read nothing."""
    num_queues = layout.num_strands * num_streams
    table = np.zeros((num_queues + layout.num_slots * layout.lanes, 2), dtype=np.int64)
    table[num_queues:, 0] = -1
    return table


class Cursor:
    """How far the stream has been read: what each strand draws next, and what each lane has open.

    `table` is [num_strands * num_streams + num_slots * lanes, 2] int64: first, strand after strand,
    each stream's (next position, credit), then, slot after slot, (key, offset) of each lane's open
    document, key -1 where a lane is free.

    Args:
        layout: How the global batch is cut.
        order: Where the documents stand.
        lengths: Returns the tokens, int64 [m], of documents at (shard [m], row [m]).
        mixture: The weights of the streams.
        choice: Which documents a stream passes over; None: none. What is drawn of a stream is then
            its next accepted document, so weights count accepted ones.
    """

    def __init__(
        self,
        layout: SlotLayout,
        order: Order,
        lengths: Documents,
        mixture: Weights,
        choice: Choice | None = None,
    ) -> None:
        self.layout = layout
        self.order = order
        self.mixture = mixture
        self._choice = choice
        self._lengths = lengths
        self.table = new_table(layout, order.num_streams)
        self._num_queues = order.num_streams * layout.num_strands
        lanes_per_strand = layout.lanes * layout.num_slots // layout.num_strands
        self._per_step = float(lanes_per_strand)

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table; StateError if it does not fit or cannot be one."""
        if table.shape != self.table.shape:
            raise StateError(
                f"the saved cursor has shape {table.shape}, this loader needs {self.table.shape}: "
                "resume with the batch_rows, num_slots, lanes and streams of the run that saved it"
            )
        queues, (keys, offsets) = table[: self._num_queues, 0], table[self._num_queues :].T
        are_right = (queues >= 0).all() and (queues >> POSITION_BITS == 0).all()
        are_right &= bool((offsets >= 0).all() and (keys >= -1).all())
        if not are_right or (keys >> POSITION_BITS >= self._num_queues).any():
            raise StateError("the state is damaged (no such position): resume from another one")
        self.table = np.ascontiguousarray(table, dtype=np.int64)

    def open_keys(self) -> np.ndarray:
        """The keys of the open documents: [k] int64."""
        keys = self.table[self._num_queues :, 0]
        return keys[keys >= 0]

    def reach(self, num_steps: int) -> int:
        """The draws of each strand that planning so many steps looks at first."""
        # A single step looks no further than it must: what lies ahead may be slow to come, or bad.
        return int(self._per_step * num_steps * _SLACK) + (8 if num_steps > 1 else 1)

    def advance(self, step: int, num_steps: int) -> Block:
        """Plan at least one and at most `num_steps` steps from `step` on, and move behind them."""
        if self.mixture.starts_at(step):
            self.table = self.table.copy()
            self.table[: self._num_queues, 1] = 0  # what an old mixture owed counts no more
        change = self.mixture.next_change(step)
        if change is not None:
            num_steps = min(num_steps, change - step)
        count = self.reach(num_steps)
        while count <= _AHEAD_LIMIT:
            block = self._plan(step, num_steps, count)
            if block is not None:
                return block
            count *= 2
        raise ConfigError(f"a step takes more than {_AHEAD_LIMIT} documents: lower batch_rows")

    def _plan(self, step: int, num_steps: int, count: int) -> Block | None:
        """Plan with `count` draws of each strand; None if that was too few for one step."""
        layout, weights = self.layout, self.mixture.at(step)
        ahead, shards, rows = [], [], []
        passed: dict[int, np.ndarray] = {}  # by queue: the position behind each of its draws
        for strand in range(layout.num_strands):
            first = strand * self.order.num_streams
            pairs = self.table[first : first + self.order.num_streams]
            keys = draws(pairs, weights, first, count)
            if self._choice is not None:
                keys = self._accepted_keys(step, keys, passed)
            shard, row = self.order.locate(keys)
            length = self._lengths(shard, row)
            self._check_fertile(strand, weights, length)
            ahead.append((np.arange(count), keys, length))
            shards.append(shard)
            rows.append(row)
        lane_shard, lane_row, lane_lengths = self._lanes()
        shape = [self.order.num_streams, layout.num_strands, layout.num_slots, layout.lanes]
        shape += [layout.rows_per_slot, layout.row_tokens, layout.num_candidates, layout.packing]
        planned = plan(shape, self.table, lane_lengths, weights, ahead, num_steps)
        end, tables, slot, document, offset, length, target = planned
        if not len(end):
            return None
        tables = tables.reshape(len(end), *self.table.shape)
        drawn = tables[-1, : self._num_queues, 0].sum() - self.table[: self._num_queues, 0].sum()
        self._per_step = max(float(drawn) / len(end) / layout.num_strands, 1.0)
        for queue, behind in passed.items():
            tables[:, queue, 0] = behind[tables[:, queue, 0] - self.table[queue, 0]]
        self.table = tables[-1]
        # Documents of lanes are numbered ~lane: negative, so they index from the back.
        shard = np.concatenate([*shards, lane_shard[::-1]])[document]
        row = np.concatenate([*rows, lane_row[::-1]])[document]
        return Block(step, end, tables, slot, shard, row, offset, length, target)

    def _accepted_keys(
        self, step: int, keys: np.ndarray, passed: dict[int, np.ndarray]
    ) -> np.ndarray:
        """Turn the draws of a strand into accepted documents, each queue's in their order."""
        accepted = np.empty_like(keys)
        queues = keys >> POSITION_BITS
        for queue in np.unique(queues).tolist():
            nth = np.flatnonzero(queues == queue)
            found = self._next_accepted(step, queue, len(nth))
            accepted[nth] = (queue << POSITION_BITS) | found
            passed[queue] = np.concatenate([self.table[queue, :1], found + 1])
        return accepted

    def _next_accepted(self, step: int, queue: int, num: int) -> np.ndarray:
        """Return the positions of a queue's next `num` accepted documents: int64 [num]."""
        assert self._choice is not None
        strand, stream = divmod(queue, self.order.num_streams)
        first, found, missing, in_vain = int(self.table[queue, 0]), [], num, 0
        rate = max(float(self._choice.rate(step)[stream]), 1e-6)
        patience = max(_EPOCHS_IN_VAIN * self.order.num_samples(strand, stream), 64)
        while missing > 0:
            size = min(int(missing / rate * _SLACK) + 16, patience)
            positions = np.arange(first, first + size)
            some = (queue << POSITION_BITS) | positions
            # A strand may hold none of the documents for which its stream is drawn.
            look = self._choice.best if in_vain >= patience else self._choice.accepts
            found.append(positions[look(step, some, *self.order.locate(some))][:missing])
            missing -= len(found[-1])
            in_vain = 0 if len(found[-1]) else in_vain + size
            first += size
        return np.concatenate(found)

    def _check_fertile(self, strand: int, weights: np.ndarray, length: np.ndarray) -> None:
        """Raise if whole epochs of all streams that are drawn were looked into in vain."""
        if (length > 0).any():
            return
        num_streams = self.order.num_streams
        sizes = np.array([self.order.num_samples(strand, i) for i in range(num_streams)])
        needed = int((sizes[weights > 0] * (weights.sum() / weights[weights > 0])).max())
        if len(length) >= min(needed, _AHEAD_LIMIT // 4):
            raise ConfigError(
                f"{len(length)} documents in a row (strand {strand}) hold no token: look at the "
                "corpus, or lower num_strands"
            )

    def _lanes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return shard, row and tokens of each lane's open document, zeros where a lane is free."""
        keys = self.table[self._num_queues :, 0]
        shard, row, length = np.zeros((3, len(keys)), dtype=np.int64)
        is_open = np.flatnonzero(keys >= 0)
        if len(is_open):
            shard[is_open], row[is_open] = self.order.locate(keys[is_open])
            length[is_open] = self._lengths(shard[is_open], row[is_open])
        return shard, row, length
