# SPDX-License-Identifier: Apache-2.0
"""How one step is made: take its plan, fetch, score, select, pack.

Everything here is a function of (corpus, settings, step, policy): neither timing nor the world
size enters. Each rank plans the pieces of all slots, because the cursor is global, and fetches,
scores and packs those of its own slots. Plans are made for many steps at a time, so that a step
itself costs one native call and little else.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..triton_kernels import DocumentScores, Selection
from ._core import Elements, mix64
from .agents import AgentSet
from .batches import (
    BatchLayout,
    Candidates,
    DeviceCopy,
    Kept,
    Placement,
    expand,
    make_batch,
    make_narrow,
)
from .choosing import DeviceChoice, Returning, kept_of, segment_borders
from .config import LoaderConfig
from .console import Console, Policy
from .errors import ShardError, StorageError
from .order import Block, Packing, SlotLayout
from .prefetch import LostShard, Source, is_lost
from .scoring import Scorer
from .shards import gather_elements

BLOCK_STEPS = 64  # of a plan, at most
_BLOCK_PIECES = 1 << 14
_NO_TOKENS = np.empty(0, np.uint16)
_NO_START = np.empty(0, np.int64)
_NOTHING_KEPT = Kept(_NO_START, _NO_START, _NO_START)


class Planner(Protocol):
    """Says which pieces the next steps are made of."""

    @property
    def table(self) -> np.ndarray:
        """The whole of what resuming needs of it, equal on all ranks."""

    def load(self, table: np.ndarray) -> None:
        """Continue from a saved table."""

    def advance(self, step: int, num_steps: int) -> Block:
        """Plan at least one and at most `num_steps` steps."""

    def prefetch(self, source: Source, step: int, num_steps: int) -> None:
        """Start fetching what `num_steps` steps from `step` on will touch, and some beyond."""


@dataclass(slots=True)  # made once a batch: a frozen one takes five times as long to make
class Step:
    """A made step: the batch, and what it was made of.

    `table` is the cursor behind this step, `num_tokens` what the local batch holds and `room` what
    it could hold.
    `scores`, `selection` and `policy` are None without a console. `lost` are the shards that this
    step and those behind it do without. `states` [m, A] are the stored labels of the pieces, where
    those select. Where `returning` is set, `kept`, `scores`, `selection` and
    `num_tokens` are not known before `StepMaker.receive`.
    """

    step: int
    batch: dict[str, torch.Tensor]
    copied: torch.cuda.Event | None
    table: np.ndarray
    candidates: Candidates
    kept: Kept
    scores: DocumentScores | None
    selection: Selection | None
    policy: Policy | None
    select_s: float
    num_tokens: int
    room: int
    lost: tuple[LostShard, ...] = ()
    returning: Returning | None = None
    states: np.ndarray | None = None


def slot_layout(config: LoaderConfig, source: Source) -> SlotLayout:
    """Settle how the global batch is cut, candidates included."""
    rows = config.batch_rows // config.slots
    packing = Packing[config.packing.upper()]
    lanes, num_candidates = config.lanes, 0
    if config.selects_inline:
        packing = Packing.OFFER
        mean = max(source.mean_piece_tokens(config.seq_len), 1.0)
        rounds = math.ceil(rows * config.seq_len / (config.keep * mean * config.lanes))
        num_candidates = rounds * config.lanes
    elif packing in (Packing.CONTIGUOUS, Packing.PAD):
        lanes = rows
    return SlotLayout(
        num_slots=config.slots,
        rows_per_slot=rows,
        row_tokens=config.seq_len,
        lanes=lanes,
        packing=packing,
        num_candidates=num_candidates,
        num_strands=source.order.num_strands,
    )


class _Local:
    """The part of a block that stands in this rank's slots, cut step by step."""

    def __init__(
        self, block: Block, slots: range, slot_tokens: int, first_sample: np.ndarray
    ) -> None:
        self.first_step = block.first_step
        self.tables = block.tables
        step = np.repeat(np.arange(block.num_steps), np.diff(block.end, prepend=0))
        local = (block.slot >= slots.start) & (block.slot < slots.stop)
        picked = np.flatnonzero(local)
        self.slot = block.slot[picked] - slots.start
        self.shard, self.row = block.shard[picked], block.row[picked]
        self.offset, self.length = block.offset[picked], block.length[picked]
        self.target = block.target[picked] + self.slot * slot_tokens
        self.end = np.searchsorted(step[picked], np.arange(block.num_steps), side="right").tolist()
        self.shard_ids, table = np.unique(self.shard, return_inverse=True)
        self.table = table.astype(np.int32)
        self.row32 = self.row.astype(np.int32)
        self.sample_id = first_sample[self.shard] + self.row
        self.ordinal = np.arange(len(picked))
        self.tokens = np.bincount(step[picked], self.length, block.num_steps).astype(int).tolist()
        is_touched = np.zeros((block.num_steps, len(self.shard_ids)), bool)
        is_touched[step[picked], table] = True
        place = np.nonzero(is_touched)[1]
        self._touched_end = np.cumsum(is_touched.sum(1)).tolist()
        self._place, self._shard_id = place.tolist(), self.shard_ids[place].tolist()

    def __contains__(self, step: int) -> bool:
        return self.first_step <= step < self.first_step + len(self.end)

    def pieces(self, step: int) -> slice:
        """Which of the block's local pieces stand in a step."""
        at = step - self.first_step
        return slice(self.end[at - 1] if at else 0, self.end[at])

    def touched(self, step: int) -> tuple[list[int], list[int]]:
        """Which places of `shard_ids` a step reads from, and the shards there."""
        at = step - self.first_step
        some = slice(self._touched_end[at - 1] if at else 0, self._touched_end[at])
        return self._place[some], self._shard_id[some]


class StepMaker:
    """Makes step after step; owned by one thread."""

    def __init__(
        self,
        source: Source,
        config: LoaderConfig,
        layout: SlotLayout,
        planner: Planner,
        console: Console | None,
        agents: AgentSet | None,
        allocate: Callable[[int], np.ndarray],
        scorers: ThreadPoolExecutor | None = None,
    ) -> None:
        rank, world_size = config.ranks
        local = layout.num_slots // world_size
        self._source = source
        self._config = config
        self._console = console
        self._units = source.units
        self._slots = range(rank * local, (rank + 1) * local)
        self._layout = BatchLayout(
            slots=local, rows_per_slot=layout.rows_per_slot, row_tokens=layout.row_tokens
        )
        self._copy = DeviceCopy(config.device, config.pin_memory, allocate)
        # What int64 cannot hold is refused where it is packed.
        self._is_narrow = self._copy.crosses and np.can_cast(source.stored_dtype, np.int64)
        # implementation="triton" on the CPU takes the device's way too: so the interpreter runs it.
        takes_device = self._copy.crosses or config.implementation == "triton"
        self._choice: DeviceChoice | None = None
        voters = agents if config.selects_inline else None
        if voters is not None and takes_device and np.can_cast(source.stored_dtype, np.int64):
            self._choice = DeviceChoice(source, voters, config, self._layout, self._copy)
        self._scorer: Scorer | None = None
        if voters is not None and self._choice is None:
            self._scorer = Scorer(source, voters, config, self._layout, scorers)
        self._gathered = np.empty(0, source.token_dtype)  # a step's candidates; used again
        self._planner = planner
        self._block: _Local | None = None
        self._block_steps = 1  # the first batch waits for no more than it needs

    def make(self, step: int) -> Step:
        """Make a step; steps are made one after the other."""
        if self._block is None or step not in self._block:
            self._block = self._plan(step)
        block = self._block
        if self._console is None:
            return self._stream(step, block)
        policy = self._console.policy(step)
        if self._units is None:
            return self._choose(step, block, policy)
        made, at = self._stream(step, block), block.pieces(step)
        made.policy, made.states = policy, self._units.states(block.shard[at], block.row[at])
        return made

    def receive(self, step: Step) -> dict[str, torch.Tensor]:
        """Hand the batch over to the caller's stream, and settle what returned of it."""
        if step.returning is not None:
            self._settle(step, step.returning)
        return self._copy.receive(step.batch, step.copied)

    def _settle(self, step: Step, returning: Returning) -> None:
        """Fill in what the device decided; the host waits for the loader's stream at most."""
        assert self._choice is not None
        step.scores, step.selection = returning.settled()
        step.kept = self._choice.kept(step.selection, _length(step.candidates, step.lost))
        step.num_tokens = int(step.kept.length.sum())
        if "cu_seqlens" in self._config.fields:
            borders = segment_borders(step.kept, self._layout)
            step.batch["cu_seqlens"] = self._copy.put(borders)  # on the caller's stream
        step.returning = None

    def _plan(self, step: int) -> _Local:
        self._source.forget_lengths()
        with suppress(ShardError, StorageError):  # raised where it is needed, if it is
            self._planner.prefetch(self._source, step, self._block_steps)
        try:
            block = self._planner.advance(step, self._block_steps)
        except ShardError:  # the steps before the one that needs the bad shard are still good
            block = self._planner.advance(step, 1)
            self._block_steps = 1
        pieces = max(int(block.end[-1]) // block.num_steps, 1)
        most = min(BLOCK_STEPS, max(_BLOCK_PIECES // pieces, 1))
        self._block_steps = min(2 * self._block_steps, most)
        first_sample = self._source.corpus.first_sample
        return _Local(block, self._slots, self._layout.slot_tokens, first_sample)

    def _stream(self, step: int, block: _Local) -> Step:
        """Pack all of a step's pieces where the plan puts them; lost shards leave padding."""
        at = block.pieces(step)
        tables = self._tables(step, block)
        lost = self._source.lost
        pieces = Placement(
            block.table[at], block.row32[at], block.offset[at], block.length[at], block.target[at]
        )
        kept = Kept(block.ordinal[: len(pieces.length)], pieces.target, pieces.length)
        if lost:  # where lengths were known before, their pieces are in the plan
            good = np.flatnonzero(~is_lost(lost, block.shard[at]))
            pieces = pieces.only(good)
            kept = Kept(good, pieces.target, pieces.length)
        batch = self._pack(tables, pieces)
        candidates = Candidates(
            block.slot[at],
            block.shard[at],
            block.row[at],
            block.sample_id[at],
            block.offset[at],
            block.length[at],
            _NO_START,
            _NO_TOKENS,
        )
        at_step = step - block.first_step
        tokens = int(pieces.length.sum()) if lost else block.tokens[at_step]
        made = self._step(step, batch, block.tables[at_step], candidates, kept, tokens)
        made.lost = lost
        return made

    def _choose(self, step: int, block: _Local, policy: Policy) -> Step:
        """Score a step's candidates, select among them and pack those that are kept."""
        at = block.pieces(step)
        candidates = self._candidates(self._tables(step, block), block, at)
        started = time.perf_counter()
        lost = self._source.lost
        length = _length(candidates, lost)
        # Noise and ties differ by step.
        seed = mix64(self._config.seed ^ mix64(step)) >> 1
        table = block.tables[step - block.first_step]
        if self._choice is not None:
            batch, copied, returning = self._choice.choose(candidates, length, policy, seed)
            candidates.forget_tokens()  # their memory is the next step's
            unknown = (_NOTHING_KEPT, None, None, policy, time.perf_counter() - started, 0)
            room = self._layout.tokens
            return Step(step, batch, copied, table, candidates, *unknown, room, lost, returning)
        assert self._scorer is not None
        scores, selection = self._scorer.choose(candidates, length, policy, seed)
        select_s = time.perf_counter() - started
        kept = kept_of(selection, length, self._layout)
        zeros = np.zeros(len(kept.candidate), np.int64)
        row = kept.candidate.astype(np.int32)
        batch = self._pack(
            [candidates.elements()],
            Placement(np.zeros_like(row), row, zeros, kept.length, kept.target),
        )
        candidates.forget_tokens()
        made = self._step(step, batch, table, candidates, kept, int(kept.length.sum()))
        made.scores, made.selection, made.policy = scores, selection, policy
        made.select_s, made.lost = select_s, lost
        return made

    def _tables(self, step: int, block: _Local) -> list[Elements]:
        """Return where the tokens of a block's shards lie, of those that a step touches."""
        places, shard_ids = block.touched(step)
        column = self._source.column
        found = [shard.elements(column) for shard in self._source.cache.get(shard_ids)]
        tables = [found[0]] * len(block.shard_ids)  # those that are not touched stand for nothing
        for place, elements in zip(places, found, strict=True):
            tables[place] = elements
        return tables

    def _candidates(self, tables: list[Elements], block: _Local, at: slice) -> Candidates:
        """Copy a step's candidates out of their shards, one after the other."""
        start = np.concatenate([[0], np.cumsum(block.length[at])])
        if len(self._gathered) < start[-1]:
            self._gathered = np.empty(int(start[-1]) * 5 // 4, self._source.token_dtype)
        tokens = self._gathered[: start[-1]]
        places = (block.table[at], block.row32[at], block.offset[at], block.length[at])
        gather_elements(tables, *places, tokens)
        return Candidates(
            block.slot[at],
            block.shard[at],
            block.row[at],
            block.sample_id[at],
            block.offset[at],
            block.length[at],
            start,
            tokens,
        )

    def _pack(self, tables: list[Elements], pieces: Placement) -> dict[str, torch.Tensor]:
        dtype, empty = self._source.stored_dtype, self._copy.empty
        if self._is_narrow:
            return make_narrow(tables, pieces, self._layout, empty, dtype)
        return make_batch(tables, pieces, self._layout, self._config.fields, empty, dtype)

    def _finish(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make the fields that did not travel."""
        if not self._is_narrow:
            return batch
        return expand(batch["tokens"], batch["segments"], self._config.fields)

    def _step(
        self,
        step: int,
        batch: dict[str, torch.Tensor],
        table: np.ndarray,
        candidates: Candidates,
        kept: Kept,
        num_tokens: int,
    ) -> Step:
        sent, copied = self._copy.send(batch, self._finish)
        room = self._layout.tokens
        nothing = (None, None, None, 0.0)
        return Step(step, sent, copied, table, candidates, kept, *nothing, num_tokens, room)


def _length(candidates: Candidates, lost: tuple[LostShard, ...]) -> np.ndarray:
    """Return the candidates' lengths; a piece of a lost shard has none and takes no one's place."""
    if not lost:
        return candidates.length
    return np.where(is_lost(lost, candidates.shard), 0, candidates.length)
