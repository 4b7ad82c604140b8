# SPDX-License-Identifier: Apache-2.0
"""Which pieces are fitted on, which say when to stop, and which only the report sees.

Whole sources (a package, a site) stay on one side where the corpus names enough of them, else whole
documents: the pieces of one document are never on two sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import AgentError
from .pieces import Pieces

MIN_DOCUMENTS = 10  # below this no split leaves something to fit on, to stop by and to report on
MIN_SOURCES = 20  # below this a few sources would decide everything
TRAIN, STOP, HELDOUT = 0, 1, 2


@dataclass(frozen=True)
class Splits:
    """Positions of pieces, [m] int64 each, disjoint by `unit` ("source" or "document")."""

    train: np.ndarray
    stop: np.ndarray
    heldout: np.ndarray
    unit: str


def split_pieces(pieces: Pieces, heldout_share: float, seed: int) -> Splits:
    """Split corpus and reference pieces alike.

    Args:
        pieces: to split.
        heldout_share: share of pieces held out, and as many again to stop by; nearly met.
        seed: of the choice.

    Raises:
        AgentError: fewer than ten documents of either kind.
    """
    rng = np.random.default_rng([seed, 2])
    sides = [pieces.is_reference == is_reference for is_reference in (False, True)]
    for side, name in zip(sides, ("training", "reference"), strict=True):
        num_documents = len(np.unique(pieces.document_id[side]))
        if num_documents < MIN_DOCUMENTS:
            raise AgentError(
                f"the {name} set gave {num_documents} documents with text, and fitting needs at "
                f"least {MIN_DOCUMENTS}: build a larger corpus (`moot corpus`) or a larger "
                "reference set"
            )
    has_sources = all(len(np.unique(pieces.source_id[side])) >= MIN_SOURCES for side in sides)
    unit_id = pieces.source_id if has_sources else pieces.document_id
    part = np.zeros(len(pieces), dtype=np.int64)
    for side in sides:
        part[side] = _assign(unit_id[side], heldout_share, rng)
    train, stop, heldout = (np.flatnonzero(part == number) for number in (TRAIN, STOP, HELDOUT))
    return Splits(train, stop, heldout, "source" if has_sources else "document")


def _assign(unit_id: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Give whole units to each part; a unit too large for a small part stays in training."""
    _, unit, sizes = np.unique(unit_id, return_inverse=True, return_counts=True)
    wanted = max(1.0, share * len(unit_id))
    part_of = np.full(len(sizes), TRAIN)
    # Smallest first where nothing else fits, so that no part is ever empty.
    smallest = np.argsort(sizes, kind="stable")[:2]
    part_of[smallest] = (STOP, HELDOUT)
    filled = {STOP: sizes[smallest[0]], HELDOUT: sizes[smallest[1]]}
    for number in rng.permutation(len(sizes)):
        if part_of[number] != TRAIN:
            continue
        part = STOP if filled[STOP] <= filled[HELDOUT] else HELDOUT
        if filled[part] + sizes[number] <= wanted:
            part_of[number] = part
            filled[part] += sizes[number]
    return part_of[unit]
