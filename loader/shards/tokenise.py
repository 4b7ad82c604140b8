# SPDX-License-Identifier: Apache-2.0
"""Texts of a shard to token ids while it is read, by a tokenizer of the `tokenizers` package.

Texts are encoded in batches, off the GIL and in the thread that calls: the loader has threads of
its own, and a second pool below them would only contend. So `Tokeniser.load` sets the variable
TOKENIZERS_PARALLELISM to false where the environment does not say otherwise; with `true`, every
call spreads over all cores.
The ids of a text depend on that text and the tokenizer alone, whatever the setting.
Padding and truncation of the tokenizer are switched off: a document keeps all of its tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from .. import _core
from ..errors import ConfigError, ShardError
from ..storage import open_store
from .shard import Allocate, Flat, Shard, flat_arrays, flat_elements, plain_bytes

TOKENS = "tokens"
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_BATCH_BYTES = 1 << 20  # encoded at once: what the tokenizer notes of a text is 50 times its length
_BATCH_TEXTS = 1024


class Tokeniser:
    """A tokenizer with the settings that decide what a document's ids are. Thread-safe.

    Made by `load`.

    Attributes:
        digest: Names tokenizer and settings; equal where all ids are.
        dtype: The narrowest unsigned integer that holds every id.
        eod: The id behind every document, None for none.
    """

    def __init__(self, text: str, eod: str | int | None, add_special_tokens: bool) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._adds_special = add_special_tokens
        self.eod = self._find_eod(eod)
        self.dtype = self._narrowest()
        described = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        settings = json.dumps([self.eod, add_special_tokens])
        self.digest = hashlib.sha256(f"{described}\n{settings}".encode()).hexdigest()[:32]

    @classmethod
    def load(
        cls,
        source: str,
        *,
        eod: str | int | None = None,
        add_special_tokens: bool = False,
        storage_options: dict[str, str] | None = None,
    ) -> Tokeniser:
        """Load a tokenizer.

        Args:
            source: A path or URL of a tokenizer.json, or its text.
            eod: The token, or its id, to append to every document; None appends none.
            add_special_tokens: Have the tokenizer add those of its own, such as one at the start.
            storage_options: For a URL.

        Raises:
            ConfigError: The file is no tokenizer, or has no such token.
            StorageError: It cannot be read.
        """
        text = source
        if not source.lstrip().startswith("{"):
            folder, _, name = source.rpartition("/")
            store = open_store(folder or ".", storage_options)
            try:
                text = store.get(name).decode("utf-8", "replace")
            finally:
                store.close()
        os.environ.setdefault(_PARALLELISM, "false")
        try:
            return cls(text, eod, add_special_tokens)
        except ConfigError:
            raise
        except Exception as error:  # tokenizers raises nothing narrower
            shown = source if text is not source else "the text given"
            raise ConfigError(f"{shown} is no tokenizer.json: {error}") from error

    @property
    def num_ids(self) -> int:
        """Ids that may come out: one more than the largest."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, the end-of-document id behind them."""
        encoded = self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=self._adds_special
        )
        tail = [] if self.eod is None else [self.eod]
        return [one.ids + tail for one in encoded]

    def encode_column(
        self,
        shard: Shard,
        column: str,
        *,
        rows: np.ndarray | None = None,
        allocate: Allocate = plain_bytes,
    ) -> Flat:
        """Return the ids of a text column: values of `dtype`, offsets int64 [n + 1].

        Args:
            shard: Where the texts are.
            column: A column of encoding `str`.
            rows: The samples wanted, ascending int64; the others have no ids. None wants all.
            allocate: Gives the memory of the ids.

        Raises:
            ShardError: There is no such column, it is no text, or a text is not UTF-8.
        """
        encoding = shard.encoding(column)
        if encoding != "str":
            raise ShardError(f"{shard.where}: column {column!r} is {encoding}; only str is text")
        wanted = np.arange(shard.num_samples) if rows is None else np.asarray(rows, np.int64)
        counts = np.zeros(shard.num_samples, np.int64)
        parts = []
        for part in _batches(shard.lengths(column)[wanted]):
            ids = self.encode_texts(shard.values(column, wanted[part]))
            counts[wanted[part]] = [len(one) for one in ids]
            size = int(counts[wanted[part]].sum())
            parts.append(np.fromiter(chain.from_iterable(ids), self.dtype, size))
        offsets = np.concatenate(([0], np.cumsum(counts)))
        values = allocate(int(offsets[-1]) * self.dtype.itemsize).view(self.dtype)
        np.concatenate([np.empty(0, self.dtype), *parts], out=values)
        values.flags.writeable = False
        return Flat(values, offsets)

    def tokenise(
        self,
        shard: Shard,
        column: str = "text",
        *,
        rows: np.ndarray | None = None,
        allocate: Allocate = plain_bytes,
    ) -> TokenisedShard:
        """Return the shard with a column of ids, `tokens`, beside its own; see `encode_column`.

        It stands in the place of a stored column of that name.
        """
        return TokenisedShard(
            shard, self.encode_column(shard, column, rows=rows, allocate=allocate)
        )

    def _find_eod(self, eod: str | int | None) -> int | None:
        if eod is None:
            return None
        found = self._tokenizer.token_to_id(eod) if isinstance(eod, str) else eod
        if found is None or not 0 <= found < self.num_ids:
            raise ConfigError(f"the tokenizer has no token {eod!r} to end documents with")
        return found

    def _narrowest(self) -> np.dtype:
        for name in ("uint8", "uint16"):
            if self.num_ids - 1 <= np.iinfo(name).max:
                return np.dtype(name)
        return np.dtype(np.uint32)


class TokenisedShard(Shard):
    """A shard with ids beside the columns it was read with. Made by `Tokeniser.tokenise`."""

    def __init__(self, base: Shard, tokens: Flat) -> None:
        columns = zip(
            base.info.column_names,
            base.info.column_encodings,
            base.info.column_sizes,
            strict=True,
        )
        kept = [column for column in columns if column[0] != TOKENS]
        kept.append((TOKENS, f"ndarray:{tokens.values.dtype.name}", None))
        names, encodings, sizes = zip(*kept, strict=True)
        info = replace(
            base.info, column_names=names, column_encodings=encodings, column_sizes=sizes
        )
        super().__init__(info, base.where)
        self.unverified_bytes = base.unverified_bytes
        self._base = base
        self._tokens = tokens

    @property
    def nbytes(self) -> int:
        """Bytes this shard keeps in memory."""
        return self._base.nbytes + self._tokens.values.nbytes + 3 * self._tokens.offsets.nbytes

    def values(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        """Return decoded values of some samples; see `Shard.values`."""
        if column != TOKENS:
            return self._base.values(column, rows)
        return flat_arrays(self._tokens, rows, self.where)

    def _find(self, column: str) -> _core.Elements:
        if column != TOKENS:
            return self._base.elements(column)
        return flat_elements(self._tokens, self.num_samples, column, self.where)


def _batches(lengths: np.ndarray) -> Iterator[slice]:
    """Cut texts of these lengths, in bytes, into batches."""
    ends = np.cumsum(lengths, dtype=np.int64)
    start = 0
    while start < ends.size:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + _BATCH_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + _BATCH_TEXTS)
        yield slice(start, stop)
        start = stop
