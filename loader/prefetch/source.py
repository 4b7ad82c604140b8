# SPDX-License-Identifier: Apache-2.0
"""A corpus read in order: where documents stand, how long they are, what is stored with them."""

import threading
from collections import OrderedDict
from functools import cached_property

import numpy as np

from .._core import POSITION_BITS
from ..corpus import Corpus, Where
from ..order import Order
from .cache import ShardCache
from .disk import DiskCache

_SHARDS_MEASURED = 4
NOT_WANTED = -1  # the length of a document that is passed over


class Source:
    """A corpus with its order and its shard cache: where documents come from.

    Args:
        corpus: What exists.
        column: The column that holds tokens once a shard is read.
        encoding: The encoding of that column.
        order: Where documents stand.
        cache: The decoded shards.
        where: Documents that it refuses are passed over and, where possible, never fetched.
        disk: Where stored shards are kept, for its counters.
        uses_stored_lengths: Lengths stored beside the shards are those of the column.
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
        where: Where | None = None,
        disk: DiskCache | None = None,
        uses_stored_lengths: bool = True,
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
        self._where = where
        self._fixed = _fixed_length(encoding) if where is None else None
        self._uses_stored_lengths = uses_stored_lengths
        self._shards_ahead = shards_ahead
        self._lock = threading.Lock()
        self._lengths: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lengths_kept = 4 * self.window_shards * order.num_streams

    def lengths(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the tokens, int64 [m], of the documents at (shard, row); -1 where not wanted."""
        if self._fixed is not None:
            return np.full(len(shards), self._fixed, dtype=np.int64)
        lengths = np.empty(len(shards), dtype=np.int64)
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            lengths[chosen] = self._shard_lengths(shard_id)[rows[chosen]]
        return lengths

    def prefetch(
        self, table: np.ndarray, open_keys: np.ndarray, weights: np.ndarray, strands: range
    ) -> None:
        """Start fetching what will be touched next, in order of need.

        Args:
            table: The cursor's rows of strands and streams: (next position, credit).
            open_keys: The keys of the open documents.
            weights: [num_streams], how often each stream is drawn.
            strands: Those whose documents are read; of the others only lengths may be needed.
        """
        num_streams = self.order.num_streams
        read = self._needed(np.arange(len(table)), strands)
        held, _ = self.order.locate(open_keys[self._needed(open_keys >> POSITION_BITS, strands)])
        upcoming: list[tuple[float, int]] = []
        share = weights / weights.sum()
        for queue, position in enumerate(table[:, 0].tolist()):
            drawn = float(share[queue % num_streams])
            if drawn and read[queue]:
                ahead = self.order.upcoming(queue, position)
                upcoming += [(distance / drawn, shard) for distance, shard in ahead]
        upcoming.sort()
        num_read = sum(distance == 0 for distance, _ in upcoming)
        if self._shards_ahead is not None:
            upcoming = upcoming[: num_read + self._shards_ahead]
        shards = dict.fromkeys([*held.tolist(), *(shard for _, shard in upcoming)])
        self.cache.prefetch([shard for shard in shards if self._holds_wanted(shard)])

    def _needed(self, queues: np.ndarray, strands: range) -> np.ndarray:
        """Which queues' shards are fetched: those read, or whose lengths nothing else tells."""
        strand, stream = np.divmod(queues, self.order.num_streams)
        is_read = (strand >= strands.start) & (strand < strands.stop)
        return is_read | ~self._knows_lengths[stream]

    def close(self) -> None:
        """Join all threads and let go of the shards."""
        self.cache.close()
        self.corpus.close()

    def mean_piece_tokens(self, piece_tokens: int) -> float:
        """Return the mean length of the pieces of a few shards, evenly spaced over the corpus."""
        num_shards = len(self.corpus.shards)
        some = np.linspace(0, num_shards - 1, min(_SHARDS_MEASURED, num_shards)).astype(int)
        lengths = np.concatenate([self._shard_lengths(i) for i in np.unique(some).tolist()])
        lengths = np.maximum(lengths, 0)
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
        if self._fixed is not None or not self._uses_stored_lengths:
            return np.full(num_streams, self._fixed is not None)
        first = self.corpus.first_shard[:-1].tolist()
        return np.array([self.corpus.stored_lengths(shard) is not None for shard in first])

    def _shard_lengths(self, shard_id: int) -> np.ndarray:
        with self._lock:
            known = self._lengths.get(shard_id)
            if known is not None:
                self._lengths.move_to_end(shard_id)
                return known
        lengths = self._measure(shard_id)
        with self._lock:
            self._lengths[shard_id] = lengths
            while len(self._lengths) > self._lengths_kept:
                self._lengths.popitem(last=False)
        return lengths

    def _holds_wanted(self, shard_id: int) -> bool:
        return self._where is None or self.corpus.wanted(shard_id, self._where).size > 0

    def _measure(self, shard_id: int) -> np.ndarray:
        """Return the tokens of every document of a shard, as stored beside it if they are."""
        if not self._holds_wanted(shard_id):
            return np.full(int(self.corpus.samples_per_shard[shard_id]), NOT_WANTED, np.int64)
        stored = self.corpus.stored_lengths(shard_id) if self._uses_stored_lengths else None
        if stored is None:
            (shard,) = self.cache.get([shard_id])
            stored = shard.lengths(self.column)
        lengths = stored.astype(np.int64)
        if self._where is None:
            return lengths
        wanted = np.full(len(lengths), NOT_WANTED, dtype=np.int64)
        rows = self.corpus.wanted(shard_id, self._where)
        wanted[rows] = lengths[rows]
        return wanted


def token_dtype(encoding: str) -> np.dtype:
    """Return the narrowest dtype that the ops take and that holds the column's token ids."""
    stored = encoding.split(":")[1] if ":" in encoding else "int64"
    narrow = {"uint8": np.uint16, "uint16": np.uint16, "int16": np.int32, "int32": np.int32}
    return np.dtype(narrow.get(stored, np.int64))


def _fixed_length(encoding: str) -> int | None:
    """Return the elements of every sample of a column whose shape is fixed, else None."""
    parts = encoding.split(":")
    return int(np.prod([int(dim) for dim in parts[2].split(",")])) if len(parts) == 3 else None
