# SPDX-License-Identifier: Apache-2.0
"""A corpus: the shards of all its streams in a row, and what is stored beside them.

A shard's id is its place in that row. A sample's id is its ordinal, `first_sample[shard] + row`,
int64. Thread-safe; nothing here reads a sample except `read`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShardError
from ..shards import Ask, Shard, ShardIndex, read_shard
from ..shards.columns import ends_of
from ..storage import Store
from .cells import Cells
from .labels import StoredLabels
from .sidecar import LengthOf
from .streams import Stream, StreamStores
from .where import Where


class Corpus:
    """What exists. Made by `open_corpus`; `close()` closes its stores.

    Attributes:
        streams: What it is mixed from.
        shards: Of all streams, in their order.
        first_shard: [streams + 1] int64, the first shard of each stream, then their number.
        samples_per_stream: [streams] int64.
        samples_per_shard: [n] int64.
        first_sample: [n + 1] int64, the id of each shard's first sample, then num_samples.
        num_samples: Samples in all shards.
        digests: Of the index of each stream.
        stored: The sidecars of the streams.
    """

    def __init__(
        self, streams: Sequence[Stream], stores: StreamStores, indexes: Sequence[ShardIndex]
    ) -> None:
        self.streams = tuple(streams)
        self.stores = stores
        self.shards = ShardIndex.concat(indexes)
        self.digests = tuple(index.digest for index in indexes)
        self.first_shard = ends_of(np.array([len(index) for index in indexes], np.int64))
        self.samples_per_shard = self.shards.samples
        self.first_sample = ends_of(self.samples_per_shard)
        self.samples_per_stream = np.diff(self.first_sample[self.first_shard])
        self.num_samples = int(self.first_sample[-1])
        self.stored = StoredLabels(stores, self.digests, self.first_shard, self.samples_per_shard)

    def __repr__(self) -> str:
        return (
            f"Corpus({len(self.streams)} streams, {len(self.shards)} shards, "
            f"{self.num_samples} samples)"
        )

    @property
    def url(self) -> str:
        """Where it lies, for messages."""
        more = len(self.streams) - 1
        return self.streams[0].url + (f" and {more} more streams" if more else "")

    def stream_of(self, shard_id: int) -> int:
        """Return the number of the stream a shard belongs to."""
        return int(np.searchsorted(self.first_shard, shard_id, side="right")) - 1

    def store_of(self, shard_id: int) -> Store:
        """Return the store a shard lies in."""
        return self.stores.get(self.stream_of(shard_id))

    def read(self, shard_id: int, ask: Ask | None = None) -> Shard:
        """Read a shard; see `read_shard`.

        Raises:
            StorageError: Its file is missing or cannot be read.
            ShardError: It is cut short, corrupt, or not the shard the index describes.
        """
        return read_shard(self.store_of(shard_id), self.shards[shard_id], ask)

    def require(self, column: str) -> str:
        """Return the encoding of a column that every shard has.

        Raises:
            ShardError: A shard lacks it, or shards differ in its encoding.
        """
        found, first = "", 0
        columns = self.shards.columns
        used, places = np.unique(columns.kind, return_index=True)
        for code, shard_id in sorted(zip(used.tolist(), places.tolist(), strict=True), key=_place):
            kind, url = columns.kinds[code], self.streams[self.stream_of(shard_id)].url
            if column not in kind.column_names:
                held = ", ".join(kind.column_names)
                raise ShardError(f"{url}: no column {column!r}; the corpus holds {held}")
            encoding = kind.column_encodings[kind.column_names.index(column)]
            if found and found != encoding:
                raise ShardError(
                    f"{url}: column {column!r} is {found} in one shard (of "
                    f"{self.streams[self.stream_of(first)].url}), {encoding} in another; write "
                    "the corpus with one encoding"
                )
            found, first = encoding, shard_id
        return found

    def locate(self, sample_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where samples lie.

        Args:
            sample_ids: [m] int64, in [0, num_samples).

        Returns:
            Shards int64 [m] and rows int64 [m].
        """
        ids = np.asarray(sample_ids, np.int64)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_samples:
            raise ValueError(f"sample ids are in [0, {self.num_samples})")
        shard = np.searchsorted(self.first_sample, ids, side="right") - 1
        return shard, ids - self.first_sample[shard]

    def labels(self, shard_id: int, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Return stored labels of a shard: each [samples], read-only, as they are stored.

        Raises:
            ConfigError: The stream has no labels, or not those columns.
            StorageError, ShardError: They cannot be read, or belong to other shards.
        """
        return self.stored.read(shard_id, columns)

    def stored_lengths(
        self, shard_id: int, column: str = "tokens", tokenizer: str | None = None
    ) -> np.ndarray | None:
        """Return the tokens of each sample, uint32 [samples]; None where they are not stored.

        Args:
            shard_id: The shard.
            column: The column whose elements count, or whose texts are tokenised.
            tokenizer: The digest of the tokenizer of its texts.
        """
        return self.stored.lengths(shard_id, LengthOf(column, tokenizer))

    def sample_bytes(self, shard_id: int) -> np.ndarray | None:
        """Return the bytes each sample takes in the raw file, uint64; None if not stored."""
        return self.stored.sizes(shard_id)

    def sample_hashes(self, shard_id: int) -> np.ndarray | None:
        """Return xxh3_64 of each sample's stored bytes, uint64; None where they are not stored."""
        return self.stored.hashes(shard_id)

    def cell_counts(self, shard_id: int) -> Cells | None:
        """Return the cells of a shard with their documents and tokens; None if not stored."""
        return self.stored.cells(shard_id)

    def wanted(self, shard_id: int, where: Where) -> np.ndarray:
        """Return the rows of a shard that a predicate wants: ascending int64.

        No labels are read where the cells of the shard tell that it is all of them, or none.

        Raises:
            ConfigError: The stream has no labels, or not those columns or states.
            StorageError, ShardError: They cannot be read, or belong to other shards.
        """
        return self.stored.wanted(shard_id, where)

    def num_wanted(self, where: Where) -> np.ndarray:
        """Return how many samples of each shard a predicate wants: int64 [n].

        Told from cells; else the labels are read, one request a shard.

        Raises:
            ConfigError, StorageError, ShardError: As for `wanted`.
        """
        return self.stored.num_wanted(where)

    def close(self) -> None:
        """Close the stores."""
        self.stores.close()


def _place(pair: tuple[int, int]) -> int:
    return pair[1]
