# SPDX-License-Identifier: Apache-2.0
"""Documents of the corpus behind sample ids: their domain, their text, the truth about damage.

The truth (truth.parquet, id -> kind) was written when the corpus was built. No agent and no console
ever sees it; the report reads it afterwards to tell whether they chose well.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...loader.corpus import open_corpus
from ...loader.shards import Shard
from ...loader.storage import open_store

CLEAN = "clean"


@dataclass(frozen=True)
class Facts:
    """What the corpus says about some samples; -1 where it says nothing."""

    sample_id: NDArray[np.int64]
    """[m] rising"""
    domain: NDArray[np.int64]
    """[m]"""
    kind: NDArray[np.int64]
    """[m] position in `kinds`"""
    kinds: tuple[str, ...]
    """Clean first, then the kinds of damage; empty without a truth."""

    def find(self, values: NDArray[Any], sample_ids: NDArray[Any]) -> NDArray[Any]:
        """Return `values` (domain or kind) of the given samples, all of which must be here."""
        return values[np.searchsorted(self.sample_id, sample_ids)]


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a document, to be shown."""

    text: str
    is_cut: bool
    source: str


class Documents:
    """The train split of a corpus, read by sample id."""

    def __init__(self, url: str) -> None:
        """Open the corpus at `url` (the folder above train/).

        Raises:
            StorageError, ShardError: it is not there, or not a corpus.
        """
        url = url.rstrip("/").removesuffix("/train")
        self._store = open_store(url)
        self._corpus = open_corpus(f"{url}/train")
        self._shards: dict[int, Shard] = {}

    def facts(self, sample_ids: NDArray[Any]) -> Facts:
        """Look up domain and kind of samples; reads every shard that holds one of them."""
        sample_ids = np.unique(sample_ids)
        kind_of = self._truth()
        kinds = tuple(sorted(set(kind_of.values()), key=lambda kind: (kind != CLEAN, kind)))
        place = {name: number for number, name in enumerate(kinds)}
        domain = np.full(len(sample_ids), -1, np.int64)
        kind = np.full(len(sample_ids), -1, np.int64)
        for shard, places, rows in self._located(sample_ids):
            columns = shard.info.column_names
            if "domain" in columns:
                domain[places] = shard.scalars("domain")[rows]
            if kind_of and "id" in columns:
                ids = shard.values("id", rows)
                kind[places] = [place.get(kind_of.get(one, ""), -1) for one in ids]
        return Facts(sample_ids, domain, kind, kinds)

    def excerpts(self, sample_ids: Sequence[int], most: int = 400) -> dict[int, Excerpt]:
        """Return the first `most` characters of documents, from `text` or decoded from `tokens`."""
        wanted = np.unique(np.asarray(sample_ids, np.int64))
        found = {}
        for shard, places, rows in self._located(wanted):
            columns = shard.info.column_names
            source = shard.values("source", rows) if "source" in columns else [""] * len(rows)
            texts = self._texts(shard, rows, most)
            for sample_id, text, origin in zip(wanted[places], texts, source, strict=True):
                found[int(sample_id)] = Excerpt(_shown(text[:most]), len(text) > most, origin)
        return found

    def close(self) -> None:
        """Close the corpus."""
        self._corpus.close()
        self._store.close()

    def _located(
        self, sample_ids: NDArray[Any]
    ) -> Iterator[tuple[Shard, NDArray[Any], NDArray[Any]]]:
        """Yield each shard needed with the places in `sample_ids` it serves and their rows."""
        shard_of, row_of = self._corpus.locate(sample_ids)
        for number in np.unique(shard_of):
            places = np.flatnonzero(shard_of == number)
            yield self._shard(int(number)), places, row_of[places]

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards = {number: self._corpus.read(int(number))}
        return self._shards[number]

    def _truth(self) -> dict[str, str]:
        import pyarrow.parquet as pq

        if not self._store.exists("truth.parquet"):
            return {}
        table = pq.read_table(io.BytesIO(self._store.get("truth.parquet")))
        return dict(zip(table["id"].to_pylist(), table["kind"].to_pylist(), strict=True))

    def _texts(self, shard: Shard, rows: NDArray[Any], most: int) -> list[str]:
        if "text" in shard.info.column_names:
            return shard.values("text", rows)
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_buffer(self._store.get("tokenizer.json"))
        tokens = [array[: most + 1].tolist() for array in shard.values("tokens", rows)]
        return tokenizer.decode_batch(tokens)


def _shown(text: str) -> str:
    """Replace what a page cannot show, or what would reorder it, by the replacement character."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
