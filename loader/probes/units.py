# SPDX-License-Identifier: Apache-2.0
"""Fixed probes of each unit, whose losses a schedule learns from.

Drawn by the seed alone, so they are the same for the whole run, on every rank and after a resume.
They are documents of the stream: a loss on them says how far a unit is learnt, not how well the
model generalises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..batches import Place, gather_candidates
from ..prefetch import Source


@dataclass(frozen=True)
class UnitProbes:
    """Documents of every unit, unit after unit.

    Attributes:
        unit: [n] int64, ascending.
        tokens: [T] int64, one document behind the other.
        cu_seqlens: [n + 1] int64.
        sample_id: [n] int64.
    """

    unit: np.ndarray
    tokens: np.ndarray
    cu_seqlens: np.ndarray
    sample_id: np.ndarray


def draw_unit_probes(source: Source, num: int, max_tokens: int, seed: int) -> UnitProbes:
    """Draw up to `num` documents of each unit, the first `max_tokens` tokens of each."""
    documents = _documents(source)
    parts = []
    for unit, counts in enumerate(documents):
        ends = np.cumsum(counts)
        rng = np.random.default_rng([seed, unit, 2])
        nth = np.sort(rng.choice(int(ends[-1]), min(num, int(ends[-1])), replace=False))
        shard = np.searchsorted(ends, nth, side="right")
        parts.append(np.stack([np.full(len(nth), unit), shard, nth - (ends - counts)[shard]]))
    unit, shard, nth = np.concatenate(parts, axis=1)
    row = nth if source.units is None else source.units.rows.locate(shard, unit, nth)
    length = np.minimum(source.lengths(shard, row), max_tokens)
    found = gather_candidates(
        source.cache.get,
        source.column,
        np.zeros(len(unit), np.int64),
        Place(shard, row, np.zeros(len(unit), np.int64), length),
        source.corpus.first_sample,
        source.token_dtype,
    )
    return UnitProbes(unit, found.tokens.astype(np.int64), found.start, found.sample_id)


def _documents(source: Source) -> np.ndarray:
    """Return how many documents of each unit each shard holds: [U, n] int64."""
    if source.units is not None:
        return source.units.rows.samples
    samples, first = source.samples_per_shard, source.corpus.first_shard
    stream = np.searchsorted(first, np.arange(len(samples)), side="right") - 1
    return np.where(stream == np.arange(len(first) - 1)[:, None], samples, 0)
