# SPDX-License-Identifier: Apache-2.0
"""What gather_documents reads and returns.

Legend: T tokens, n documents, S slots, K chosen documents a slot at most, L tokens of a slot.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOKEN_DTYPES = (torch.uint16, torch.int32, torch.int64)
MAX_TOKENS = (1 << 31) - 1


@dataclass(frozen=True)
class Chosen:
    """The documents and which of them are wanted, checked.

    Args:
        tokens: [T] uint16, int32 or int64.
        cu_seqlens: [n+1] int64.
        indices: [S, K] int32; negative: nothing.
        num_chosen: [S] int32, how many entries of a slot count; None: all.
        documents_per_slot: Document of entry i in slot s is s * documents_per_slot + i.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    indices: Tensor
    num_chosen: Tensor | None
    documents_per_slot: int


@dataclass(frozen=True)
class Layout:
    """How documents become slots.

    Args:
        capacity_tokens: L.
        row_tokens: Positions restart at its multiples; divides L.
        pad: What stands behind the last document.
        is_cut: Whether the document that passes the end is cut; else it is left out.
        dtype: Of the packed tokens.
        has_positions: Whether positions are wanted.
    """

    capacity_tokens: int
    row_tokens: int
    pad: int
    is_cut: bool
    dtype: torch.dtype
    has_positions: bool


@dataclass(frozen=True)
class PackedDocuments:
    """The result of gather_documents.

    Args:
        tokens: [S, L] of the wanted dtype.
        cu_seqlens: [S, K+1] int32; entry k of slot s is tokens[s, cu[s, k]:cu[s, k+1]], what lies
            from cu[s, K] on is padding. A document that was not placed is empty.
        position_ids: [S, L] int64, 0 where a document, a row or the padding starts; None unless
            wanted.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    position_ids: Tensor | None


def new_outputs(chosen: Chosen, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate tokens, cu_seqlens and positions; the last has no column where unwanted."""
    num_slots, most = chosen.indices.shape
    device, size = chosen.tokens.device, layout.capacity_tokens
    positions = size if layout.has_positions else 0
    return (
        torch.empty(num_slots, size, dtype=layout.dtype, device=device),
        torch.empty(num_slots, most + 1, dtype=torch.int32, device=device),
        torch.empty(num_slots, positions, dtype=torch.int64, device=device),
    )
