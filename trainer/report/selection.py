# SPDX-License-Identifier: Apache-2.0
"""What was selected: pieces of a ledger as arrays, mixtures over time, examples to show.

Shares are shares of tokens. Time runs in bins of equal numbers of steps.
Legend: n pieces, A agents, B bins, S states.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .runs import Run

if TYPE_CHECKING:
    import pyarrow

Array = NDArray[Any]


@dataclass(frozen=True)
class Pieces:
    """The pieces of a run's ledger, kept and rejected."""

    step: Array
    """[n] int64"""
    sample_id: Array
    """[n] int64"""
    length: Array
    """[n] tokens"""
    kept: Array
    """[n] bool"""
    score: Array
    """[n] float32"""
    votes: Array
    """[n, A] float32"""
    states: Array
    """[n, A] int32"""
    bin_of: Array
    """[n] int64, bin of the piece's step"""
    bin_tokens: Array
    """[B] tokens trained on at the middle of each bin"""

    @property
    def num_bins(self) -> int:
        """Bins over the run."""
        return len(self.bin_tokens)

    def take(self, rows: Array) -> "Pieces":
        """Return some of the pieces; the bins stay."""
        names = ("step", "sample_id", "length", "kept", "score", "votes", "states", "bin_of")
        picked = {name: getattr(self, name)[rows] for name in names}
        return Pieces(**picked, bin_tokens=self.bin_tokens)


@dataclass(frozen=True)
class Mixture:
    """Shares of tokens by state, offered and kept; rows of an empty bin are NaN."""

    names: tuple[str, ...]
    tokens: Array
    """[B] tokens trained on"""
    offered: Array
    """[B, S]"""
    kept: Array
    """[B, S]"""
    offered_overall: Array
    """[S]"""
    kept_overall: Array
    """[S]"""

    def only(self, states: slice) -> "Mixture":
        """Return the same shares of fewer states."""
        return Mixture(
            names=self.names[states],
            tokens=self.tokens,
            offered=self.offered[:, states],
            kept=self.kept[:, states],
            offered_overall=self.offered_overall[states],
            kept_overall=self.kept_overall[states],
        )


def read_pieces(run: Run, max_bins: int = 30) -> Pieces | None:
    """Return the pieces of a run's ledger, None where it has none.

    There are fewer bins than `max_bins` where a bin would hold less than 100 kept pieces, so that
    shares are not mere noise, but at least 4.
    """
    if run.ledger is None or len(run.ledger.pieces) == 0:
        return None
    pieces = run.ledger.pieces
    step = pieces["step"].to_numpy()
    first, last = int(step.min()), int(step.max())
    num_kept = int(np.count_nonzero(pieces["kept"].to_numpy()))
    num_bins = min(max_bins, last - first + 1, max(4, num_kept // 100))
    edges = np.linspace(first, last + 1, num_bins + 1)
    names = ("sample_id", "length", "kept", "score")
    return Pieces(
        step=step,
        bin_of=np.minimum((step - first) * num_bins // (last + 1 - first), num_bins - 1),
        bin_tokens=run.tokens_at((edges[:-1] + edges[1:]) / 2 - 1),
        votes=rows_of(pieces["votes"]),
        states=rows_of(pieces["states"]),
        **{name: pieces[name].to_numpy() for name in names},
    )


def rows_of(column: "pyarrow.ChunkedArray") -> Array:
    """Turn a list column whose lists are equally long into [n, k] (k = 0 included)."""
    import pyarrow.compute as pc

    flat = pc.list_flatten(column).to_numpy()
    return flat.reshape(len(column), -1) if len(flat) else np.empty((len(column), 0), flat.dtype)


def mixture(pieces: Pieces, labels: Array, names: tuple[str, ...]) -> Mixture:
    """Share out the tokens of pieces over labels [n]; pieces with a label < 0 are left out."""
    known = labels >= 0
    pieces, labels = pieces.take(np.flatnonzero(known)), labels[known]
    offered = _tokens_by(pieces, labels, len(names))
    chosen = np.flatnonzero(pieces.kept)
    kept = _tokens_by(pieces.take(chosen), labels[chosen], len(names))
    return Mixture(
        names=names,
        tokens=pieces.bin_tokens,
        offered=_shares(offered),
        kept=_shares(kept),
        offered_overall=_shares(offered.sum(0, keepdims=True))[0],
        kept_overall=_shares(kept.sum(0, keepdims=True))[0],
    )


def choose_examples(pieces: Pieces, kept: bool, num: int, seed: int = 0) -> Array:
    """Return rows of `num` pieces drawn at random from the last third, one a document, by score.

    Deterministic for a seed; pieces of fewer than 32 tokens are left out if there are others.
    """
    late = pieces.step >= np.quantile(pieces.step, 2 / 3)
    rows = np.flatnonzero(late & (pieces.kept == kept))
    long = rows[pieces.length[rows] >= 32]
    rows = long if len(long) >= num else rows
    rows = np.random.default_rng([seed, int(kept)]).permutation(rows)
    _, first = np.unique(pieces.sample_id[rows], return_index=True)
    rows = rows[np.sort(first)[:num]]
    return rows[np.argsort(-pieces.score[rows], kind="stable")]


def _tokens_by(pieces: Pieces, labels: Array, num_states: int) -> Array:
    """Return tokens [B, S]."""
    cell = pieces.bin_of * num_states + labels
    size = pieces.num_bins * num_states
    return np.bincount(cell, weights=pieces.length, minlength=size).reshape(-1, num_states)


def _shares(tokens: Array) -> Array:
    total = tokens.sum(1, keepdims=True)
    return np.divide(tokens, total, out=np.full(tokens.shape, np.nan), where=total > 0)
