# SPDX-License-Identifier: Apache-2.0
"""Planners: where the pieces of the next steps come from, our own order or a foreign one.

A planner's table is the whole of what resuming needs of it; it is equal on all ranks.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import LoaderConfig
from .errors import ConfigError
from .order import Block, Cursor, Mixture, Order, Packing, SlotLayout
from .order.mosaic import MosaicOrder
from .order.mosaic_state import MosaicState
from .prefetch import Source
from .stored import StoredChoice

_BATCHES_AHEAD = 256  # how far the shards of a foreign order are looked for


class StrandPlanner:
    """Our own order: a cursor over strands.

    Args:
        layout: How the global batch is cut.
        order: Where documents stand.
        source: How long they are.
        mixture: The weights of the streams.
        slots: Those of this rank, whose shards are fetched ahead.
    """

    def __init__(
        self,
        layout: SlotLayout,
        order: Order,
        source: Source,
        mixture: Mixture | StoredChoice,
        slots: range,
    ) -> None:
        self._choice = mixture if isinstance(mixture, StoredChoice) else None
        self._cursor = Cursor(layout, order, source.lengths, mixture, self._choice)
        self._num_queues = order.num_strands * order.num_streams
        per_strand = layout.num_slots // layout.num_strands
        self._strands = range(slots.start // per_strand, (slots.stop - 1) // per_strand + 1)

    @property
    def table(self) -> np.ndarray:
        """The cursor: see `order.Cursor`."""
        return self._cursor.table

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table."""
        self._cursor.load(table)

    def advance(self, step: int, num_steps: int) -> Block:
        """Plan at least one and at most `num_steps` steps."""
        return self._cursor.advance(step, num_steps)

    def prefetch(self, source: Source, step: int, num_steps: int) -> None:
        """Start fetching what `num_steps` steps from `step` on will touch, and some beyond."""
        queues, weights = self.table[: self._num_queues], self._cursor.mixture.at(step)
        reach = self._cursor.reach(2 * num_steps)  # the next plan's are then on their way
        if self._choice is not None:  # those that are passed over count as well
            offered = weights / np.maximum(self._choice.rate(step), 1e-6)
            reach = math.ceil(reach * offered.sum() / weights.sum())
            weights = offered
        source.prefetch(queues, self._cursor.open_keys(), weights, self._strands, reach)


class MosaicRun:
    """A StreamingDataset's order under way: the plan it began with, and where it was resumed.

    Args:
        config: Holds the plan and the ranks.
    """

    def __init__(self, config: LoaderConfig) -> None:
        assert config.mosaic_plan is not None
        self._plan = config.mosaic_plan
        self._ranks = (*config.process_ranks, config.local_world_size)
        self.base: dict[str, Any] | None = None
        self.order = MosaicOrder(self._plan, *self._ranks)

    def resume(self, base: Mapping[str, Any] | None) -> np.ndarray:
        """Continue from a state of theirs, None from the beginning; return the planner's table.

        Raises:
            StateError: It is no such state, or cannot be continued.
        """
        plan, epoch, first = self._plan, 0, 0
        self.base = None
        if base is not None:
            state = MosaicState.from_dict(base)
            plan, epoch, first = self._plan.resume(state)
            self.base = dict(base)
        self.order = MosaicOrder(plan, *self._ranks)
        return np.array([[epoch, first, 0]], np.int64)

    def state(self, table: np.ndarray) -> dict[str, Any]:
        """Return what their loader's state_dict() would say at a table."""
        return self.order.state_after(*table[0].tolist()).to_dict()


class MosaicPlanner:
    """The order of a StreamingDataset: a row a sample, cut to the row's length.

    `table` is [1, 3] int64: epoch, the sample in it at which reading began, batches read since.
    """

    def __init__(self, run: MosaicRun, config: LoaderConfig, source: Source) -> None:
        self._order = run.order
        self._row_tokens = config.seq_len
        self._slot = config.ranks[0]
        self._source = source
        self._table = np.zeros((1, 3), np.int64)

    @property
    def table(self) -> np.ndarray:
        """[1, 3] int64, as above."""
        return self._table

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table."""
        self._table = np.ascontiguousarray(table, np.int64).reshape(1, 3)

    def advance(self, step: int, num_steps: int) -> Block:
        """Plan at least one and at most `num_steps` steps, within one epoch."""
        batches = self._left()
        if not len(batches):
            self._table = np.array([[self.table[0, 0] + 1, 0, 0]])
            batches = self._left()
        if not len(batches):
            raise ConfigError("the order of the dataset holds no batch for this rank")
        ids = batches[:num_steps]
        epoch, first, done = self.table[0].tolist()
        tables = np.empty((len(ids), 1, 3), np.int64)
        tables[:, 0] = (epoch, first, done)
        tables[:, 0, 2] += np.arange(1, len(ids) + 1)
        self._table = tables[-1]
        batch, place = np.nonzero(ids >= 0)
        shard, row = self._order.locate(ids[batch, place])
        length = np.minimum(self._source.lengths(shard, row), self._row_tokens)
        return Block(
            step,
            np.searchsorted(batch, np.arange(len(ids)), side="right"),
            tables,
            np.full(len(batch), self._slot),
            shard,
            row,
            np.zeros(len(batch), np.int64),
            length,
            place * self._row_tokens,
        )

    def prefetch(self, source: Source, step: int, num_steps: int) -> None:
        """Start fetching what the next batches will touch."""
        del step, num_steps
        ids = self._left()[:_BATCHES_AHEAD].reshape(-1)
        shard, _ = self._order.locate(ids[ids >= 0])
        source.cache.prefetch(list(dict.fromkeys(shard.tolist())))

    def _left(self) -> np.ndarray:
        epoch, first, done = self.table[0].tolist()
        return self._order.batches(epoch, first)[done:]


def mosaic_layout(config: LoaderConfig) -> SlotLayout:
    """Cut the global batch into one slot a rank, as their order does."""
    world_size = config.ranks[1]
    rows = config.batch_rows // world_size
    return SlotLayout(
        num_slots=world_size,
        rows_per_slot=rows,
        row_tokens=config.seq_len,
        lanes=rows,
        packing=Packing.PAD,
    )
