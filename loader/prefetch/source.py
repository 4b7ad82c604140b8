# SPDX-License-Identifier: Apache-2.0
"""A corpus read in order: where documents stand, how long they are, what is stored with them."""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from .._core import POSITION_BITS
from ..corpus import Corpus, LengthOf, Wanted
from ..corpus.units import JointCells, UnitRows
from ..order import Order
from .cache import ShardCache
from .disk import DiskCache
from .failures import LostShard

_SHARDS_MEASURED = 4


class Units(Protocol):
    """What the streams of an order are, where they are units of stored labels."""

    rows: UnitRows
    cells: JointCells

    @property
    def names(self) -> list[str]:
        """What each unit holds, in words."""

    def states(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the stored states, int32 [m, A], of documents at (shard, row)."""

    def units_of(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the units, int64 [m], of documents at (shard, row)."""


class Source:
    """A corpus with its order and its shard cache: where documents come from.

    Args:
        corpus: What exists.
        column: The column that holds tokens once a shard is read.
        encoding: The encoding of that column.
        order: Where documents stand.
        cache: The decoded shards.
        length_of: What lengths stored beside the shards must count to be used.
        wanted: The documents of the order; None where it is all of them.
        units: What the streams of the order are, where they are units of stored labels.
        disk: Where stored shards are kept, for its counters.
        shards_ahead: Shards fetched beyond those that are being read; None fetches all that the
            order names and the budget allows.
    """

    def __init__(
        self,
        corpus: Corpus,
        column: str,
        encoding: str,
        order: Order,
        cache: ShardCache,
        *,
        length_of: LengthOf,
        wanted: Wanted | None = None,
        units: Units | None = None,
        disk: DiskCache | None = None,
        shards_ahead: int | None = None,
    ) -> None:
        self.token_dtype = token_dtype(encoding)
        self.stored_dtype = np.dtype(encoding.split(":")[1] if ":" in encoding else "int64")
        self.corpus = corpus
        self.column = column
        self.order = order
        self.cache = cache
        self.disk = disk
        self.window_shards = order.ways * order.num_strands
        self.wanted = wanted
        self.units = units
        self._fixed = _fixed_length(encoding)
        self.length_of = length_of
        self._shards_ahead = shards_ahead
        self._lock = threading.Lock()
        self._lengths: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lengths_kept = 4 * self.window_shards * order.num_streams
        cache.failures.measured = self._measured

    @property
    def samples_per_shard(self) -> np.ndarray:
        """[n] int64: those of the order."""
        held = self.corpus if self.wanted is None else self.wanted
        return held.samples_per_shard

    def rows(self, shards: np.ndarray, nth: np.ndarray) -> np.ndarray:
        """Return the rows, int64 [m], of the nth [m] documents of the order in shards [m]."""
        return nth if self.wanted is None else self.wanted.locate(shards, nth)

    def lengths(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the tokens, int64 [m], of documents of the order, at (shard, row)."""
        if self._fixed is not None:
            return np.full(len(shards), self._fixed, dtype=np.int64)
        lengths = np.empty(len(shards), dtype=np.int64)
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            lengths[chosen] = self._shard_lengths(shard_id)[rows[chosen]]
        return lengths

    def prefetch(
        self,
        table: np.ndarray,
        open_keys: np.ndarray,
        weights: np.ndarray,
        strands: range,
        reach: int,
    ) -> None:
        """Start fetching what will be touched next, in order of need.

        Args:
            table: The cursor's rows of strands and streams: (next position, credit).
            open_keys: The keys of the open documents.
            weights: [num_streams], how often each stream is drawn.
            strands: Those whose documents are read; of the others only lengths may be needed.
            reach: Draws of each strand that are planned next: what they need is fetched in any
                case, and `shards_ahead` beyond it.
        """
        num_streams = self.order.num_streams
        read = self._needed(np.arange(len(table)), strands)
        held, _ = self.order.locate(open_keys[self._needed(open_keys >> POSITION_BITS, strands)])
        upcoming: list[tuple[float, int]] = []
        located: list[int] = []
        share, num_open = weights / weights.sum(), 0
        for queue, position in enumerate(table[:, 0].tolist()):
            drawn = float(share[queue % num_streams])
            needs_rows = self.wanted is not None or self.units is not None
            if not drawn or not (needs_rows or read[queue]):
                continue
            ahead = list(self.order.upcoming(queue, position, math.ceil(reach * drawn)))
            located += [shard for _, shard in ahead]
            if read[queue]:
                num_open += self.order.ways
                upcoming += [(distance / drawn, shard) for distance, shard in ahead]
        upcoming.sort()
        shards = list(dict.fromkeys([*held.tolist(), *(shard for _, shard in upcoming)]))
        if self._shards_ahead is not None:
            needed = {*held.tolist(), *(shard for draws, shard in upcoming if draws <= reach)}
            shards = shards[: max(num_open, len(needed)) + self._shards_ahead]
        if self.wanted is not None:
            self.wanted.prepare(located, set(shards))
        if self.units is not None:
            self.units.rows.prepare(located)
        self.cache.prefetch(shards)

    def _needed(self, queues: np.ndarray, strands: range) -> np.ndarray:
        """Which queues' shards are fetched: those read, or whose lengths nothing else tells."""
        strand, stream = np.divmod(queues, self.order.num_streams)
        is_read = (strand >= strands.start) & (strand < strands.stop)
        return is_read | ~self._knows_lengths[stream]

    @property
    def lost(self) -> tuple[LostShard, ...]:
        """Lost shards that were asked for so far; it only grows."""
        return self.cache.failures.met

    def forget_lengths(self) -> None:
        """Let go of lengths not looked at for long; not while a plan counts on them."""
        with self._lock:
            while len(self._lengths) > self._lengths_kept:
                self._lengths.popitem(last=False)

    def lose(self, lost: Sequence[LostShard]) -> None:
        """Take shards as lost from now on, as a state says, whatever was read of them before."""
        for shard in lost:
            self.cache.failures.lose(shard)
        shard_ids = [shard.shard_id for shard in lost]
        self.cache.failures.meet(shard_ids)
        with self._lock:
            for shard_id in shard_ids:
                self._lengths.pop(shard_id, None)

    def close(self) -> None:
        """Join all threads and let go of the shards."""
        self.cache.abandon()
        self.corpus.close()  # ends the requests that the threads wait for
        self.cache.close()

    def mean_piece_tokens(self, piece_tokens: int) -> float:
        """Return the mean length of the pieces of a few shards: those that are read first.

        They are a random choice and needed anyway; where nothing is shuffled, shards evenly spaced
        over the corpus are taken.
        """
        known = np.flatnonzero(self.samples_per_shard)
        if self.order.is_shuffled:
            known = np.array(self.order.opened_first())
        some = np.linspace(0, len(known) - 1, min(_SHARDS_MEASURED, len(known))).astype(int)
        shards = np.unique(known[some])
        counts = self.samples_per_shard[shards]
        nth = np.concatenate([np.arange(count) for count in counts.tolist()])
        shards = np.repeat(shards, counts)
        lengths = self.lengths(shards, self.rows(shards, nth))
        pieces = np.ceil(lengths / piece_tokens).sum()
        return float(lengths.sum() / pieces) if pieces else 0.0

    def scalars(self, column: str, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return a stored scalar column at (shard, row)."""
        shard_ids, place = np.unique(shards, return_inverse=True)
        held = self.cache.get(shard_ids.tolist())
        tables = [shard.scalars(column) for shard in held]
        values = np.empty(len(shards), dtype=tables[0].dtype if tables else np.float64)
        for i, table in enumerate(tables):
            values[place == i] = table[rows[place == i]]
        return values

    @cached_property
    def _knows_lengths(self) -> np.ndarray:
        """[num_streams] bool: whether lengths are known without reading the stream's shards."""
        num_streams = self.order.num_streams
        if self._fixed is not None:
            return np.full(num_streams, True)
        first = self.corpus.first_shard[:-1].tolist()
        known = np.array([self._stored_lengths(shard) is not None for shard in first])
        return known if self.units is None else np.full(num_streams, known[0])

    def _shard_lengths(self, shard_id: int) -> np.ndarray:
        with self._lock:
            known = self._lengths.get(shard_id)
            if known is not None:
                self._lengths.move_to_end(shard_id)
                return known
        lengths = self._measure(shard_id)
        with self._lock:
            self._lengths[shard_id] = lengths
        return lengths

    def _measured(self, shard_id: int) -> np.ndarray | None:
        """Return lengths that were planned with and that only the shard itself tells."""
        with self._lock:
            known = self._lengths.get(shard_id)
        if known is None or self._knows_lengths[self.corpus.stream_of(shard_id)]:
            return None
        return np.maximum(known, 0)

    def _measure(self, shard_id: int) -> np.ndarray:
        """Return the tokens of every document of a shard, as stored beside it if they are."""
        lengths = self._stored_lengths(shard_id)
        if lengths is None:
            (shard,) = self.cache.get([shard_id])
            lengths = shard.lengths(self.column)
        return lengths.astype(np.int64)

    def _stored_lengths(self, shard_id: int) -> np.ndarray | None:
        return self.corpus.stored.lengths(shard_id, self.length_of)


def token_dtype(encoding: str) -> np.dtype:
    """Return the narrowest dtype that the ops take and that holds the column's token ids."""
    stored = encoding.split(":")[1] if ":" in encoding else "int64"
    narrow = {"uint8": np.uint16, "uint16": np.uint16, "int16": np.int32, "int32": np.int32}
    return np.dtype(narrow.get(stored, np.int64))


def _fixed_length(encoding: str) -> int | None:
    """Return the elements of every sample of a column whose shape is fixed, else None."""
    parts = encoding.split(":")
    return int(np.prod([int(dim) for dim in parts[2].split(",")])) if len(parts) == 3 else None
