# SPDX-License-Identifier: Apache-2.0
"""Kept pieces, packed into rows of `row_tokens` tokens by one native call.

A segment is a run of tokens of one piece in one row; it starts where `position_ids` is 0, and its
first label is -100, because nothing before it may predict it. Labels are unshifted: the model
shifts. Padding is a segment of its own. `tokens` are as stored; the wide fields are made in the
same call, or, for a batch that is to cross a bus, on the other side of it by `expand`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .. import _core
from ..errors import ShardError

PAD = 0
IGNORED = -100  # the label where nothing may be predicted
FIELDS = ("tokens", "input_ids", "labels", "position_ids", "cu_seqlens")
_WIDE = np.dtype(np.int64)

Empty = Callable[[tuple[int, int], np.dtype], tuple[torch.Tensor, np.ndarray]]


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

    @property
    def tokens(self) -> int:
        """The tokens that the local batch has room for."""
        return self.rows * self.row_tokens


@dataclass(slots=True)  # made once a batch: a frozen one takes five times as long to make
class Kept:
    """Which candidates are trained on, and where: [k] int64 each.

    `candidate` indexes the step's candidates, `target` is the first token's place in the local
    batch, ascending; `length` may be shorter than the candidate where the last piece was cut.
    """

    candidate: np.ndarray
    target: np.ndarray
    length: np.ndarray


@dataclass(slots=True)
class Placement:
    """Pieces to pack: elements [offset, offset + length) of row `row` of table `table`.

    `table` and `row` are [k] int32, `offset`, `length` and `target` [k] int64; targets ascend.
    """

    table: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    target: np.ndarray

    def only(self, chosen: np.ndarray) -> "Placement":
        """Return some of the pieces, ascending."""
        parts = (self.table, self.row, self.offset, self.length, self.target)
        return Placement(*(part[chosen] for part in parts))


def keep_within(
    chosen: np.ndarray, slot: np.ndarray, lengths: np.ndarray, layout: BatchLayout
) -> Kept:
    """Place chosen candidates one after the other in their slot, cut to the slot's budget.

    Args:
        chosen: [k] int64 candidates, slot after slot, in order of placing.
        slot: [k] int64, the local slot of each, ascending.
        lengths: [m] int64, the length of every candidate.
        layout: The shape of the local batch.
    """
    length = lengths[chosen]
    end = np.cumsum(length)
    begin = end - length
    first = np.searchsorted(slot, slot)  # of its slot
    before = begin[first] if len(first) else begin
    target = np.minimum(begin - before, layout.slot_tokens)
    length = np.minimum(end - before, layout.slot_tokens) - target
    fits = length > 0
    return Kept(chosen[fits], (target + slot * layout.slot_tokens)[fits], length[fits])


def make_batch(
    tables: Sequence[_core.Elements],
    pieces: Placement,
    layout: BatchLayout,
    fields: Sequence[str],
    empty: Empty,
    token_dtype: np.dtype,
) -> dict[str, torch.Tensor]:
    """Pack pieces.

    Args:
        tables: Where the tokens lie, counted by `pieces.table`.
        pieces: What to place where.
        layout: The shape of the local batch.
        fields: Names out of `FIELDS`.
        empty: Gives uninitialised memory of a shape and dtype: a tensor, and the same flat.
        token_dtype: The type of `tokens`.

    Returns:
        `tokens` [rows, row_tokens] of `token_dtype`; `input_ids`, `labels`, `position_ids`: [rows,
        row_tokens] int64. `cu_seqlens`: [segments + 1] int32, the segment borders of the flattened
        batch, padding included as segments.

    Raises:
        ShardError: A piece leaves its sample, or a type cannot hold its tokens.
    """
    shape = (layout.rows, layout.row_tokens)
    batch: dict[str, torch.Tensor] = {}
    flat: dict[str, np.ndarray] = {}
    for name in fields:
        if name != "cu_seqlens":
            dtype = token_dtype if name == "tokens" else _WIDE
            batch[name], flat[name] = empty(shape, dtype)
    if "cu_seqlens" in fields and "position_ids" not in flat:
        flat["position_ids"] = np.empty(layout.tokens, _WIDE)
    _pack(tables, pieces, layout, flat)
    if "cu_seqlens" in fields:
        borders = np.append(np.flatnonzero(flat["position_ids"] == 0), layout.tokens)
        batch["cu_seqlens"] = torch.from_numpy(borders.astype(np.int32))
    return batch


def make_narrow(
    tables: Sequence[_core.Elements],
    pieces: Placement,
    layout: BatchLayout,
    empty: Empty,
    token_dtype: np.dtype,
) -> dict[str, torch.Tensor]:
    """Pack pieces into no more than what `expand` needs.

    Takes and raises what `make_batch` does.

    Returns:
        `tokens` [rows, row_tokens] of `token_dtype`. `segments` [2, n + 1] int32: the borders of
        the n segments in the flattened batch, and for each whether it is padding.
    """
    tokens, flat = empty((layout.rows, layout.row_tokens), token_dtype)
    _pack(tables, pieces, layout, {"tokens": flat})
    end = pieces.target + pieces.length
    row_ends = np.arange(0, layout.tokens + 1, layout.row_tokens)
    borders = np.unique(np.concatenate((row_ends, pieces.target, end)))
    piece = np.searchsorted(pieces.target, borders, side="right") - 1
    ends = np.append(end, 0)  # -1, before the first piece, finds the last element
    segments, flat = empty((2, len(borders)), np.dtype(np.int32))
    flat[:] = np.concatenate((borders, borders >= ends[piece]))
    return {"tokens": tokens, "segments": segments}


def expand(
    tokens: torch.Tensor, segments: torch.Tensor, fields: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Make the fields of `make_batch`, bit for bit, from what `make_narrow` gave.

    On the device that holds the tensors, in its current stream, without waiting for it.
    """
    borders, is_padding = segments[0], segments[1].to(torch.bool)
    num = tokens.numel()
    segment = torch.repeat_interleave(borders.diff().to(torch.int64), output_size=num)
    positions = torch.arange(num, device=tokens.device) - borders[segment]
    ids = tokens.to(torch.int64)
    is_ignored = (positions == 0) | is_padding[segment]
    made = {
        "tokens": tokens,
        "input_ids": ids,
        "labels": ids.masked_fill(is_ignored.view_as(ids), IGNORED),
        "position_ids": positions.view_as(ids),
        "cu_seqlens": borders,
    }
    return {name: made[name] for name in fields}


def _pack(
    tables: Sequence[_core.Elements],
    pieces: Placement,
    layout: BatchLayout,
    flat: dict[str, np.ndarray],
) -> None:
    try:
        _core.pack(
            tables,
            pieces.table,
            pieces.row,
            pieces.offset,
            pieces.length,
            pieces.target,
            layout.row_tokens,
            PAD,
            layout.tokens,
            **flat,
        )
    except _core.ShardFault as error:
        raise ShardError(str(error)) from None
