# SPDX-License-Identifier: Apache-2.0
"""A corpus read in order: where documents stand, how long they are, what is stored with them."""

import threading
from collections import OrderedDict

import numpy as np

from ..corpus import Corpus
from ..order import Order
from .cache import ShardCache

_SHARDS_MEASURED = 4


class Source:
    """A corpus with its order and its shard cache: where documents come from."""

    def __init__(self, corpus: Corpus, column: str, order: Order, cache: ShardCache) -> None:
        self.token_dtype = _token_dtype(corpus.require(column))
        self.corpus = corpus
        self.column = column
        self.order = order
        self.cache = cache
        self._lock = threading.Lock()
        self._lengths: OrderedDict[int, np.ndarray] = OrderedDict()

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Return the tokens, int64 [m], of the documents at some positions of the order."""
        shards, rows = self.order.locate(positions)
        return self.lengths_at(shards, rows)

    def lengths_at(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the tokens, int64 [m], of the documents at (shard, row)."""
        lengths = np.empty(len(shards), dtype=np.int64)
        for shard_id in np.unique(shards).tolist():
            chosen = shards == shard_id
            lengths[chosen] = self._shard_lengths(shard_id)[rows[chosen]]
        return lengths

    def prefetch(self, position: int, open_positions: np.ndarray) -> None:
        """Start fetching what the open documents, and reading from `position` on, will touch."""
        held, _ = self.order.locate(open_positions)
        ahead = self.order.shards_from(position, 2 * self.order.window_shards)
        self.cache.prefetch(list(dict.fromkeys([*held.tolist(), *ahead])))

    def close(self) -> None:
        """Join all threads and let go of the shards."""
        self.cache.close()
        self.corpus.close()

    def mean_piece_tokens(self, piece_tokens: int) -> float:
        """Return the mean length of the pieces of a few shards, evenly spaced over the corpus."""
        num_shards = len(self.corpus.shards)
        some = np.linspace(0, num_shards - 1, min(_SHARDS_MEASURED, num_shards)).astype(int)
        lengths = np.concatenate([self._shard_lengths(i) for i in np.unique(some).tolist()])
        pieces = np.ceil(lengths / piece_tokens).sum()
        return float(lengths.sum() / pieces) if pieces else 0.0

    def _shard_lengths(self, shard_id: int) -> np.ndarray:
        with self._lock:
            known = self._lengths.get(shard_id)
            if known is not None:
                self._lengths.move_to_end(shard_id)
        if known is not None:
            return known
        (shard,) = self.cache.get([shard_id])
        lengths = shard.lengths(self.column).astype(np.int64)
        with self._lock:
            self._lengths[shard_id] = lengths
            while len(self._lengths) > 4 * self.order.window_shards:
                self._lengths.popitem(last=False)
        return lengths

    def scalars(self, column: str, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return a stored scalar column at (shard, row)."""
        shard_ids, place = np.unique(shards, return_inverse=True)
        held = self.cache.get(shard_ids.tolist())
        tables = [shard.scalars(column) for shard in held]
        values = np.empty(len(shards), dtype=tables[0].dtype if tables else np.float64)
        for i, table in enumerate(tables):
            values[place == i] = table[rows[place == i]]
        return values


def _token_dtype(encoding: str) -> np.dtype:
    """Return the narrowest dtype that the ops take and that holds the column's token ids."""
    stored = encoding.split(":")[1] if ":" in encoding else "int64"
    narrow = {"uint8": np.uint16, "uint16": np.uint16, "int16": np.int32, "int32": np.int32}
    return np.dtype(narrow.get(stored, np.int64))
