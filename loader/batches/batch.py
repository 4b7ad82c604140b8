# SPDX-License-Identifier: Apache-2.0
"""Kept pieces, packed into rows of `row_tokens` tokens.

The pieces of a slot stand one after the other in the slot's rows; one that crosses the end of a row
goes on in the next as a segment of its own. A segment starts where `position_ids` is 0; its first
label is -100, because nothing before it may predict it. Labels are unshifted: the model shifts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .._core import pack

PAD = 0
FIELDS = ("input_ids", "labels", "position_ids", "cu_seqlens")


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """The local batch: `slots` slots of `rows_per_slot` rows of `row_tokens` tokens."""

    slots: int
    rows_per_slot: int
    row_tokens: int

    @property
    def slot_tokens(self) -> int:
        """The token budget of a slot."""
        return self.rows_per_slot * self.row_tokens

    @property
    def rows(self) -> int:
        """The rows of the local batch."""
        return self.slots * self.rows_per_slot


@dataclass(frozen=True)
class Kept:
    """Which candidates are trained on, and where: [k] int64 each.

    `candidate` indexes the step's candidates, `target` is the first token's place in the local
    batch, `length` may be shorter than the candidate where the last piece was cut to fit.
    """

    candidate: np.ndarray
    target: np.ndarray
    length: np.ndarray


def keep_within(slots: Sequence[np.ndarray], lengths: np.ndarray, layout: BatchLayout) -> Kept:
    """Place chosen candidates one after the other in their slot, cut to the slot's budget.

    Args:
        slots: For each local slot the indices of its chosen candidates, in order of placing.
        lengths: [m] int64, the length of every candidate.
        layout: The shape of the local batch.
    """
    candidate, target, length = [], [], []
    for slot, chosen in enumerate(slots):
        ends = np.minimum(np.cumsum(lengths[chosen]), layout.slot_tokens)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        fits = ends > starts
        candidate.append(chosen[fits])
        target.append(starts[fits] + slot * layout.slot_tokens)
        length.append((ends - starts)[fits])
    return Kept(*(np.concatenate(part).astype(np.int64) for part in (candidate, target, length)))


def make_batch(
    tokens: np.ndarray, start: np.ndarray, kept: Kept, layout: BatchLayout, fields: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Pack kept pieces.

    Args:
        tokens: The candidates' tokens, one after the other.
        start: [m + 1] int64, where each candidate begins.
        kept: What to place where.
        layout: The shape of the local batch.
        fields: Names out of `FIELDS`.

    Returns:
        `input_ids`, `labels`, `position_ids`: [rows, row_tokens] int64. `cu_seqlens`: [segments +
        1] int32, the segment borders of the flattened batch, padding included as segments.
    """
    names = FIELDS[:3]
    size = layout.rows * layout.row_tokens
    flat = {name: np.empty(size, dtype=np.int64) for name in names}
    source = start[kept.candidate]
    pack(
        tokens,
        source,
        kept.target,
        kept.length,
        layout.row_tokens,
        PAD,
        *(flat[name] for name in names),
    )
    shape = (layout.rows, layout.row_tokens)
    batch = {name: torch.from_numpy(flat[name]).view(shape) for name in names if name in fields}
    if "cu_seqlens" in fields:
        borders = np.append(np.flatnonzero(flat["position_ids"] == 0), size)
        batch["cu_seqlens"] = torch.from_numpy(borders.astype(np.int32))
    return batch
