# SPDX-License-Identifier: Apache-2.0
"""What tells a topic apart: the n-grams that its pieces hold far more often than the rest do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .features import ngram_starts
from .pieces import Pieces

Decode = Callable[[Sequence[int]], str]

MAX_ORDER = 2  # longer n-grams are fitted on but not listed
MAX_LISTED = 64  # of each order
NAME_WORDS = 3
_WORD = re.compile(r"[^\W\d_]\w{2,}")


@dataclass(frozen=True)
class TopNgram:
    """An n-gram and the shares of pieces that hold it, within the topic and outside."""

    text: str
    share_in: float
    share_out: float


def top_ngrams(
    pieces: Pieces, topic: np.ndarray, num_topics: int, orders: tuple[int, ...], decode: Decode
) -> list[list[TopNgram]]:
    """List the telling n-grams of every topic, best first.

    An n-gram's rank is p log(p / q) with p its share of the topic's pieces and q that of all
    others, both with half a piece added; tokens themselves are counted, not buckets, so no
    collision shows.

    Args:
        pieces: labelled pieces.
        topic: [n] int64, in [0, num_topics).
        num_topics: number of topics.
        orders: lengths of the n-grams the model reads.
        decode: tokens to text.
    """
    sizes = np.bincount(topic, minlength=num_topics).astype(np.float64)
    best: list[list[tuple[float, float, float, tuple[int, ...]]]] = [[] for _ in range(num_topics)]
    for order in (order for order in orders if order <= MAX_ORDER):
        grams, held = _pieces_holding(pieces, topic, num_topics, order)
        p = (held + 0.5) / (sizes[:, None] + 1.0)
        q = (held.sum(axis=0) - held + 0.5) / (len(topic) - sizes[:, None] + 1.0)
        rank = p * np.log(p / q)
        for number in range(num_topics):
            first = np.argsort(-rank[number], kind="stable")[:MAX_LISTED]
            for pos in first[rank[number, first] > 0]:
                entry = (float(rank[number, pos]), float(p[number, pos]), float(q[number, pos]))
                best[number].append((*entry, tuple(grams[pos].tolist())))
    return [_decode_best(entries, decode) for entries in best]


def topic_names(ngrams: Sequence[Sequence[TopNgram]]) -> list[str]:
    """Name topics by their first telling words: "topic 3: import self def"."""
    return [f"topic {number}: {_words(entries)}" for number, entries in enumerate(ngrams)]


def _pieces_holding(
    pieces: Pieces, topic: np.ndarray, num_topics: int, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct n-grams [g, order] and how many pieces of each topic hold them [k, g]."""
    starts, owner = ngram_starts(pieces, order)
    width = int(pieces.tokens.max(initial=0)) + 1
    key = np.zeros(len(starts), dtype=np.int64)
    for place in range(order):
        key = key * width + pieces.tokens[starts + place]
    by_piece = np.lexsort((key, owner))
    key, owner = key[by_piece], owner[by_piece]
    is_new = np.ones(len(key), dtype=bool)
    is_new[1:] = (key[1:] != key[:-1]) | (owner[1:] != owner[:-1])
    distinct, number = np.unique(key[is_new], return_inverse=True)
    cell = topic[owner[is_new]] * len(distinct) + number
    held = np.bincount(cell, minlength=num_topics * len(distinct)).reshape(num_topics, -1)
    kept = np.flatnonzero(held.sum(axis=0) >= min(3, len(pieces)))
    grams = np.empty((len(kept), order), dtype=np.int64)
    rest = distinct[kept]
    for place in reversed(range(order)):
        rest, grams[:, place] = np.divmod(rest, width)
    return grams, held[:, kept].astype(np.float64)


def _decode_best(
    entries: list[tuple[float, float, float, tuple[int, ...]]], decode: Decode
) -> list[TopNgram]:
    """Decode the best entries; of equal texts (case and spaces aside) the first stays."""
    found: dict[str, TopNgram] = {}
    for _, share_in, share_out, gram in sorted(entries, key=lambda entry: (-entry[0], entry[3])):
        text = decode(gram)
        if text.strip():
            found.setdefault(text.strip().casefold(), TopNgram(text, share_in, share_out))
    return list(found.values())


def _words(entries: Sequence[TopNgram]) -> str:
    """Join the first few readable words; whatever comes first where there is none."""
    words: list[str] = []
    for text in (entry.text.strip() for entry in entries):
        folded = text.casefold()
        is_known = any(folded in word.casefold() or word.casefold() in folded for word in words)
        if _WORD.fullmatch(text) and not is_known:
            words.append(text)
    if not words:
        words = [repr(entry.text.strip())[1:-1] for entry in entries]
    return " ".join(words[:NAME_WORDS]) or "(nothing in common)"
