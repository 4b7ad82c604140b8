# SPDX-License-Identifier: Apache-2.0
"""Pieces to fit on: a seeded sample of candidates from a corpus, held in memory.

A piece is what the loader offers the agents: at most `seq_len` tokens of one document. The pieces
of one document carry its id, so that no document lies on both sides of a split. A sample depends on
the corpus and the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from ..corpus import Corpus
from ..errors import AgentError
from ..shards import Shard, gather

_LABELS = ("document_id", "source_id", "domain", "is_reference")  # one value a piece


@dataclass(frozen=True)
class Pieces:
    """Pieces of tokenised documents, one after another.

    Attributes:
        tokens: [T] int32, the tokens of all pieces.
        cu_seqlens: [n+1] int64, piece i is `tokens[cu_seqlens[i]:cu_seqlens[i+1]]`.
        document_id: [n] int64, equal for the pieces of one document.
        source_id: [n] int64, equal for documents of one source; the document's id where none is
            named.
        domain: [n] int32, the stored domain of the document, -1 where there is none.
        is_reference: [n] bool, whether the piece comes from the reference set.
    """

    tokens: np.ndarray
    cu_seqlens: np.ndarray
    document_id: np.ndarray
    source_id: np.ndarray
    domain: np.ndarray
    is_reference: np.ndarray

    def __len__(self) -> int:
        return len(self.document_id)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, [n] int64."""
        return np.diff(self.cu_seqlens)

    def take(self, piece_pos: np.ndarray) -> Pieces:
        """Return the pieces at `piece_pos` ([m] int64), in that order, as a copy."""
        lengths = self.lengths[piece_pos]
        cu_seqlens = _running_sum(lengths)
        shift = np.repeat(self.cu_seqlens[piece_pos] - cu_seqlens[:-1], lengths)
        tokens = self.tokens[np.arange(cu_seqlens[-1]) + shift]
        return Pieces(tokens, cu_seqlens, *(getattr(self, name)[piece_pos] for name in _LABELS))

    def with_offset(self, offset: int) -> Pieces:
        """Return the same pieces with `offset` added to every document id."""
        return replace(self, document_id=self.document_id + offset)

    @staticmethod
    def concat(parts: Sequence[Pieces]) -> Pieces:
        """Join samples; the caller keeps the document ids of different corpora apart."""
        lengths = np.concatenate([part.lengths for part in parts])
        joined = (np.concatenate([getattr(part, name) for part in parts]) for name in _LABELS)
        tokens = np.concatenate([part.tokens for part in parts])
        return Pieces(tokens, _running_sum(lengths), *joined)


@dataclass(frozen=True)
class SampleLimits:
    """How much a sample may hold: pieces, tokens, shards read, and tokens a piece."""

    max_pieces: int
    max_tokens: int
    max_shards: int
    seq_len: int


def sample_pieces(corpus: Corpus, limits: SampleLimits, seed: int, *, is_reference: bool) -> Pieces:
    """Draw pieces uniformly, spread over the shards by their size.

    Above `limits.max_shards` shards, as many are read, drawn by the seed; else every shard is read
    once.

    Raises:
        AgentError: the corpus holds no token.
    """
    corpus.require("tokens")
    rng = np.random.default_rng([seed, int(is_reference)])
    shard_pos = np.arange(len(corpus.shards))
    if len(shard_pos) > limits.max_shards:
        shard_pos = np.sort(rng.choice(shard_pos, limits.max_shards, replace=False))
    size_bytes = np.array([corpus.shards[pos].raw_bytes for pos in shard_pos], dtype=np.float64)
    quotas = np.ceil(limits.max_pieces * size_bytes / size_bytes.sum()).astype(np.int64)
    parts = []
    for pos, quota in zip(shard_pos, quotas, strict=True):
        shard = corpus.read(int(pos))
        first = int(corpus.first_sample[pos])
        part = _sample_shard(shard, first, int(quota), limits.seq_len, rng)
        parts.append(part)
    pieces = Pieces.concat(parts)
    if not len(pieces):
        raise AgentError(
            f"{corpus.url}: its documents hold no token, so there is nothing to fit on; "
            "build the corpus again with `moot corpus`"
        )
    pieces = pieces.take(_within_limits(pieces.lengths, limits, rng))
    return replace(pieces, is_reference=np.full(len(pieces), is_reference))


def cut_pieces(lengths: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents of `lengths` tokens into pieces of at most `seq_len`.

    Returns:
        (document_pos, starts, stops), each [n] int64: a piece is the half-open token range of its
        document.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    num_pieces = -(-lengths // seq_len)
    document_pos = np.repeat(np.arange(len(lengths)), num_pieces)
    nth = np.arange(len(document_pos)) - np.repeat(_running_sum(num_pieces)[:-1], num_pieces)
    starts = nth * seq_len
    return document_pos, starts, np.minimum(starts + seq_len, lengths[document_pos])


def _sample_shard(
    shard: Shard, first_sample: int, quota: int, seq_len: int, rng: np.random.Generator
) -> Pieces:
    document_pos, starts, stops = cut_pieces(shard.lengths("tokens"), seq_len)
    chosen = np.sort(rng.permutation(len(document_pos))[:quota])
    rows, starts, stops = document_pos[chosen], starts[chosen], stops[chosen]
    cu_seqlens = _running_sum(stops - starts)
    tokens = np.empty(int(cu_seqlens[-1]), dtype=np.int32)
    shard_pos = np.zeros(len(rows), dtype=np.int32)
    gather([shard], "tokens", shard_pos, rows.astype(np.int32), starts, stops, tokens)
    document_id, names = first_sample + rows, shard.info.column_names
    source_id, domain = document_id, np.full(len(rows), -1, dtype=np.int32)
    if "source" in names:
        source_id = _number_names(shard.values("source", rows))
    if "domain" in names:
        domain = shard.scalars("domain").astype(np.int32)[rows]
    is_reference = np.zeros(len(rows), dtype=bool)
    return Pieces(tokens, cu_seqlens, document_id, source_id, domain, is_reference)


def _number_names(names: Sequence[object]) -> np.ndarray:
    """Hash names to int64: equal names, equal numbers, in every shard and process."""
    number = {name: blake2b(str(name).encode(), digest_size=8).digest() for name in set(names)}
    return np.frombuffer(b"".join(number[name] for name in names), dtype=">i8").astype(np.int64)


def _within_limits(
    lengths: np.ndarray, limits: SampleLimits, rng: np.random.Generator
) -> np.ndarray:
    """Positions of a seeded subset that keeps both limits, in stored order."""
    order = rng.permutation(len(lengths))[: limits.max_pieces]
    num_kept = int(np.searchsorted(np.cumsum(lengths[order]), limits.max_tokens, side="right"))
    return np.sort(order[: max(num_kept, 1)])


def _running_sum(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
