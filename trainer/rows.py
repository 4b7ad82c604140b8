# SPDX-License-Identifier: Apache-2.0
"""Documents packed into rows for measuring: probes, reference and held-out sets.

A document longer than a row is cut into consecutive pieces; pieces stand several in a row, each
its own segment (`position_ids` restart, the first label is -100). Best fit, longest piece first:
deterministic, the same for the same documents in the same order. A piece of fewer than two
tokens predicts nothing and is left out. This packs a few hundred documents for a measurement;
the batches of training are packed by the loader.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..triton_kernels.ghost_influence import document_sums
from .cross_entropy import IGNORED_LABEL

MIN_PIECE_TOKENS = 2
"""A single token has nothing to predict."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where the pieces of documents stand in rows: [P] int64 each, by row, then by start."""

    document: np.ndarray
    row: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def take(self, chosen: np.ndarray) -> Pieces:
        """Return the pieces at the given indices (or mask), in that order."""
        return Pieces(
            self.document[chosen], self.row[chosen], self.start[chosen], self.length[chosen]
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of packed pieces."""

    input_ids: Tensor
    """[R, L] int64; 0 at padding."""
    labels: Tensor
    """[R, L] int64, unshifted; -100 at the first token of a piece and at padding."""
    position_ids: Tensor
    """[R, L] int64; restarts at every piece, 0 at padding (each pad is a segment by itself)."""
    pieces: Pieces

    @property
    def num_predicted(self) -> int:
        """Number of tokens predicted in these rows."""
        return int((self.pieces.length - 1).sum())

    def passes(self, max_tokens: int, device: torch.device | str) -> Iterator[Rows]:
        """Yield groups of rows of at most `max_tokens` (at least one row), on a device."""
        total, width = self.input_ids.shape
        step = max(1, max_tokens // max(1, width))
        for first in range(0, total, step):
            pieces = self.pieces.take((self.pieces.row >= first) & (self.pieces.row < first + step))
            pieces = Pieces(pieces.document, pieces.row - first, pieces.start, pieces.length)
            used = slice(0, int((pieces.start + pieces.length).max()))
            yield Rows(
                self.input_ids[first : first + step, used].to(device),
                self.labels[first : first + step, used].to(device),
                self.position_ids[first : first + step, used].to(device),
                pieces,
            )

    def add_document_sums(self, values_RL: Tensor, totals: np.ndarray) -> None:
        """Add the values of each document's tokens to its total, in a fixed order.

        Args:
            values_RL: [R, L] floating, one value a token.
            totals: [n] float64, changed in place; n covers the documents' numbers.
        """
        cu_pieces = np.zeros(len(self.pieces.length) + 1, dtype=np.int64)
        np.cumsum(self.pieces.length, out=cu_pieces[1:])
        first = self.pieces.row * values_RL.shape[1] + self.pieces.start - cu_pieces[:-1]
        positions = np.arange(cu_pieces[-1]) + np.repeat(first, self.pieces.length)
        sums = document_sums(
            values_RL.flatten()[torch.from_numpy(positions).to(values_RL.device)],
            torch.from_numpy(cu_pieces).to(values_RL.device),
        )
        np.add.at(totals, self.pieces.document, sums.cpu().numpy())


def pack(documents: Sequence[np.ndarray], row_tokens: int) -> Rows:
    """Pack documents into rows.

    Args:
        documents: n arrays [length] of token ids, any integer dtype.
        row_tokens: the longest row, in tokens. Where no piece is as long, rows of the longest
            piece are taken instead if they waste no more: attention is cheaper in short rows.

    Returns:
        CPU tensors; no rows at all where no document has two tokens.
    """
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    document, offset, length = _cut(lengths, row_tokens)
    row, start, width = _place(length, row_tokens)
    order = np.lexsort((start, row))
    pieces = Pieces(document, row, start, length).take(order)
    num_rows = int(row.max()) + 1 if len(row) else 0
    input_ids = np.zeros((num_rows, width), dtype=np.int64)
    labels = np.full((num_rows, width), IGNORED_LABEL, dtype=np.int64)
    position_ids = np.zeros((num_rows, width), dtype=np.int64)
    for i, j in enumerate(order):
        tokens = np.asarray(documents[document[j]])[offset[j] : offset[j] + length[j]]
        at = slice(pieces.start[i], pieces.start[i] + pieces.length[i])
        input_ids[pieces.row[i], at] = tokens
        labels[pieces.row[i], at] = tokens
        labels[pieces.row[i], at.start] = IGNORED_LABEL
        position_ids[pieces.row[i], at] = np.arange(length[j])
    return Rows(
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        torch.from_numpy(position_ids),
        pieces,
    )


def predicted_tokens(lengths: np.ndarray, row_tokens: int) -> np.ndarray:
    """Count the tokens that documents of these lengths predict in rows: all but pieces' first.

    Args:
        lengths: [n] int64, in tokens.
        row_tokens: the longest row, in tokens.

    Returns:
        [n] int64.
    """
    return lengths + lengths // -row_tokens


def _cut(lengths: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents into pieces; return each piece's document, offset and length."""
    num_pieces = lengths // -row_tokens * -1
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    ordinal = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    offset = ordinal * row_tokens
    length = np.minimum(lengths[document] - offset, row_tokens)
    kept = length >= MIN_PIECE_TOKENS
    return document[kept], offset[kept], length[kept]


def _place(length: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Choose between rows of `row_tokens` and of the longest piece; return row, start, width."""
    longest = int(length.max(initial=0))
    short, full = _best_fit(length, longest), _best_fit(length, row_tokens)
    if (short[0].max(initial=-1) + 1) * longest <= (full[0].max(initial=-1) + 1) * row_tokens:
        return *short, longest
    return *full, row_tokens


def _best_fit(length: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Place pieces, longest first, where the least room is left; return row and start."""
    row, start = np.zeros_like(length), np.zeros_like(length)
    free: list[tuple[int, int]] = []  # (room, row), sorted
    num_rows = 0
    for piece in np.argsort(-length, kind="stable"):
        size = int(length[piece])
        place = bisect_left(free, (size, -1))
        if place < len(free):
            room, chosen = free.pop(place)
        else:
            room, chosen = width, num_rows
            num_rows += 1
        row[piece], start[piece] = chosen, width - room
        if room - size >= MIN_PIECE_TOKENS:
            insort(free, (room - size, chosen))
    return row, start
