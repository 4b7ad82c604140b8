# SPDX-License-Identifier: Apache-2.0
"""A corpus: which shards exist and how many samples each holds. Reads the index, never a sample.

A sample's id is its global ordinal in the order of the index: `first_sample[shard] + row`, int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ShardError, StorageError
from ..shards.index import INDEX_NAME, ShardInfo, read_index
from ..storage import Store, open_store


@dataclass(frozen=True, eq=False)
class Corpus:
    """The shards of a corpus and where their samples stand.

    Attributes:
        store: Where the shards lie; `close()` closes it.
        shards: In the order of the index.
        num_samples: Samples in all shards, > 0.
        samples_per_shard: [n] int64.
        first_sample: [n + 1] int64, the id of each shard's first sample, then num_samples.
    """

    store: Store
    shards: tuple[ShardInfo, ...]
    num_samples: int
    samples_per_shard: np.ndarray
    first_sample: np.ndarray

    def require(self, column: str) -> str:
        """Return the encoding of a column that every shard has.

        Raises:
            ShardError: A shard lacks it, or shards differ in its encoding.
        """
        found = ""
        for names, encodings in {(s.column_names, s.column_encodings) for s in self.shards}:
            if column not in names:
                raise ShardError(
                    f"{self.store.url}: no column {column!r}; the corpus holds {', '.join(names)}"
                )
            encoding = encodings[names.index(column)]
            if found and found != encoding:
                raise ShardError(
                    f"{self.store.url}: column {column!r} is {found} in one shard, {encoding} in "
                    "another; write the corpus with one encoding"
                )
            found = encoding
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

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def open_corpus(url: str, options: Mapping[str, str] | None = None) -> Corpus:
    """Read the index of a corpus.

    Args:
        url: A folder or bucket that holds index.json.
        options: As for `open_store`.

    Raises:
        StorageError: Nothing is there, or it cannot be read.
        ShardError: The index is malformed, or there are no samples.
    """
    store = open_store(url, options)
    try:
        return _read_corpus(store)
    except BaseException:
        store.close()
        raise


def _read_corpus(store: Store) -> Corpus:
    try:
        shards = tuple(read_index(store))
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise StorageError(_nothing_here(store)) from error
    counts = np.array([shard.num_samples for shard in shards], np.int64)
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    if first[-1] == 0:
        raise ShardError(f"{store.url}: the corpus holds no samples; write some before reading it")
    return Corpus(store, shards, int(first[-1]), counts, first)


def _nothing_here(store: Store) -> str:
    names = store.list()
    if not names:
        return f"{store.url} is empty; write a corpus there, as with `moot corpus local --out`"
    below = [name for name in names if name.endswith(f"/{INDEX_NAME}")]
    if below:
        parts = ", ".join(sorted(name.rpartition("/")[0] for name in below)[:8])
        return f"{store.url} holds no {INDEX_NAME} itself, but its parts do: open one of {parts}"
    return (
        f"{store.url} holds no {INDEX_NAME} among {len(names)} objects; the URL is wrong, or "
        "writing the corpus never finished"
    )
