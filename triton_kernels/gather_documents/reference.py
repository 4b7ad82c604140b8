# SPDX-License-Identifier: Apache-2.0
"""gather_documents in plain torch: the specification that kernel and native routine reproduce."""

import torch
from torch import Tensor

from .packing import Chosen, Layout


def gather_documents_reference(chosen: Chosen, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Pack documents; arguments checked. Returns tokens, cu_seqlens, positions."""
    begin, cu = place(chosen, layout)
    size, device = layout.capacity_tokens, cu.device
    at = torch.arange(size, device=device).expand(len(cu), size).contiguous()
    entry = torch.searchsorted(cu[:, 1:].contiguous(), at, right=True)
    first = cu.gather(1, entry)  # behind the last document: where padding begins
    source = torch.where(at < cu[:, -1:], begin.gather(1, entry) + at - first, len(chosen.tokens))
    pad = torch.full((1,), layout.pad, dtype=torch.int64, device=device)
    tokens = torch.cat([chosen.tokens.to(torch.int64), pad])[source].to(layout.dtype)
    positions = at - torch.maximum(first, at - at % layout.row_tokens)
    wanted = positions if layout.has_positions else positions.new_empty(len(cu), 0)
    return tokens, cu.to(torch.int32), wanted


def place(chosen: Chosen, layout: Layout) -> tuple[Tensor, Tensor]:
    """Where each entry's document begins, and where it is placed: two [S, K+1] int64.

    The entry behind the last one begins nowhere.
    """
    num_slots, most = chosen.indices.shape
    device = chosen.indices.device
    entry = torch.arange(most, device=device)
    count = most if chosen.num_chosen is None else chosen.num_chosen[:, None]
    first = torch.arange(num_slots, device=device)[:, None] * chosen.documents_per_slot
    is_used = (chosen.indices >= 0) & (entry < count)
    document = torch.where(is_used, chosen.indices + first, 0)
    borders = torch.cat([chosen.cu_seqlens, chosen.cu_seqlens[-1:]])  # for no document at all
    begin = borders[document]
    length = torch.where(is_used, borders[document + 1] - begin, 0)
    zero = length.new_zeros(num_slots, 1)
    cu = torch.cat([zero, length.cumsum(1)], dim=1)
    if layout.is_cut:
        cu = cu.clamp(max=layout.capacity_tokens)
    else:
        fits = cu <= layout.capacity_tokens
        cu = torch.where(fits, cu, torch.where(fits, cu, 0).amax(1, keepdim=True))
    return torch.cat([begin, zero], dim=1), cu
