# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native gather_documents: allocate, hand over views, call once."""

from torch import Tensor

from .. import _native
from .packing import Chosen, Layout, new_outputs


def gather_documents_native(chosen: Chosen, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Pack documents on the CPU; arguments checked. Returns tokens, cu_seqlens, positions."""
    tokens, cu_seqlens, positions = new_outputs(chosen, layout)
    _native.gather_documents(
        chosen.tokens.numpy(),
        _native.ChosenDocuments(
            chosen.cu_seqlens.numpy(),
            chosen.indices.numpy(),
            None if chosen.num_chosen is None else chosen.num_chosen.numpy(),
            chosen.documents_per_slot,
        ),
        _native.PackRule(layout.row_tokens, layout.pad, layout.is_cut),
        tokens.numpy(),
        cu_seqlens.numpy(),
        positions.numpy(),
        0,
        len(tokens),
    )
    return tokens, cu_seqlens, positions
