# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""gather_documents as two Triton kernels: place the documents, then copy tile by tile.

A tile of the output finds its first document by a search over the new borders, reads what its
documents have for it and is written once, whole and aligned. Mathematics:
docs/ops/gather_documents.md.

Legend: T tokens of a tile, K chosen documents of a slot; o_ offsets, m_ masks, b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..architecture import INTERPRETER, architecture
from .packing import Chosen, Layout, new_outputs

PLACE = {INTERPRETER: {"BLOCK_K": 8, "num_warps": 4}, 80: {"BLOCK_K": 512, "num_warps": 4}}
COPY = {
    INTERPRETER: {"BLOCK_T": 64, "SEARCH": 4, "num_warps": 4},
    80: {"BLOCK_T": 2048, "SEARCH": 128, "num_warps": 4},
}
"""Tokens of a tile (16 a thread: a uint16 tile is written 16 bytes at a time), and how many borders
one step of the search reads; from compute capability 8.0 on the same."""


@triton.jit(do_not_specialize=["n", "K", "limit", "stride"])
def gather_documents_place_kernel(
    cu_seqlens, indices, num_chosen, new_cu, source, n, K, limit, stride, capacity,
    HAS_COUNT: tl.constexpr, IS_CUT: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Place the documents of a slot one after the other: new borders [K+1], sources [K]."""
    i_s = tl.program_id(0).to(tl.int64)
    count = K
    if HAS_COUNT:
        count = tl.minimum(tl.load(num_chosen + i_s), K)
    total = i_s * 0
    last = i_s * 0
    tl.store(new_cu + i_s * (K + 1), 0)
    for i_k in range(0, K, BLOCK_K):
        o_k = i_k + tl.arange(0, BLOCK_K)
        b_index = tl.load(indices + i_s * K + o_k, mask=o_k < count, other=-1).to(tl.int64)
        b_document = b_index + i_s * stride
        m_document = (b_index >= 0) & (b_index < limit) & (b_document < n)
        b_begin = tl.load(cu_seqlens + b_document, mask=m_document, other=0)
        b_length = tl.load(cu_seqlens + b_document + 1, mask=m_document, other=0) - b_begin
        b_stop = total + tl.cumsum(b_length, axis=0)
        if IS_CUT:
            b_new = tl.minimum(b_stop, capacity)
        else:
            # Ends never descend, so whatever follows one that does not fit does not fit either.
            fits = b_stop <= capacity
            last = tl.maximum(last, tl.max(tl.where(fits, b_stop, 0), axis=0))
            b_new = tl.where(fits, b_stop, last)
        tl.store(new_cu + i_s * (K + 1) + 1 + o_k, b_new.to(tl.int32), mask=o_k < K)
        tl.store(source + i_s * K + o_k, b_begin, mask=o_k < K)
        total += tl.sum(b_length, axis=0)


@triton.jit
def count_ended(p_end, start, K, SEARCH: tl.constexpr):
    """Count the documents of a slot that end at or before a token, SEARCH borders a step."""
    o_probe = tl.arange(0, SEARCH) + 1
    low = start * 0
    width = start * 0 + K
    while width > 0:
        step = (width + SEARCH - 1) // SEARCH
        o_k = low + o_probe * step - 1
        b_end = tl.load(p_end + o_k, mask=o_k < K, other=0x7FFFFFFF)
        low += tl.sum((b_end <= start).to(tl.int32), axis=0) * step
        width = tl.minimum(step - 1, K - low)
    return low


@triton.jit(do_not_specialize=["K", "pad", "num_tiles"])
def gather_documents_fwd_kernel(
    tokens, new_cu, source, out, positions, K, capacity, row_tokens, pad, num_tiles,
    HAS_POSITIONS: tl.constexpr, BLOCK_T: tl.constexpr, SEARCH: tl.constexpr,
):  # fmt: skip
    """Write one tile of a slot: documents, then padding."""
    i_s = tl.program_id(0).to(tl.int64) // num_tiles
    start = (tl.program_id(0) % num_tiles) * BLOCK_T
    p_cu = new_cu + i_s * (K + 1)
    total = tl.load(p_cu + K)
    stop = tl.minimum(start + BLOCK_T, total)
    o_t = start + tl.arange(0, BLOCK_T)
    b_token = (tl.zeros([BLOCK_T], tl.int64) + pad).to(out.dtype.element_ty)
    b_first = tl.zeros([BLOCK_T], tl.int32) + total
    i_k = count_ended(p_cu + 1, start, K, SEARCH)
    begin = tl.load(p_cu + i_k)
    while begin < stop:
        end = tl.load(p_cu + i_k + 1)
        p_token = tokens + tl.load(source + i_s * K + i_k)
        m_t = (o_t >= begin) & (o_t < end)
        b_read = tl.load(p_token + (o_t - begin), mask=m_t, other=0)
        b_token = tl.where(m_t, b_read.to(out.dtype.element_ty), b_token)
        b_first = tl.where(m_t, begin, b_first)
        begin = end
        i_k += 1
    o_out = i_s * capacity + o_t
    tl.store(out + o_out, b_token, mask=o_t < capacity)
    if HAS_POSITIONS:
        b_position = o_t - tl.maximum(b_first, o_t - o_t % row_tokens)
        tl.store(positions + o_out, b_position.to(tl.int64), mask=o_t < capacity)


def gather_documents_fwd(chosen: Chosen, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernels; arguments checked. Returns tokens, cu_seqlens, positions."""
    tokens, cu_seqlens, positions = new_outputs(chosen, layout)
    num_slots, most = chosen.indices.shape
    if num_slots == 0:
        return tokens, cu_seqlens, positions
    row = architecture(tokens.device, COPY)
    source = torch.empty(num_slots, most, dtype=torch.int64, device=tokens.device)
    num_documents, size = len(chosen.cu_seqlens) - 1, layout.capacity_tokens
    gather_documents_place_kernel[(num_slots,)](
        chosen.cu_seqlens, chosen.indices,
        chosen.indices if chosen.num_chosen is None else chosen.num_chosen,
        cu_seqlens, source, num_documents, most,
        chosen.documents_per_slot or num_documents, chosen.documents_per_slot, size,
        HAS_COUNT=chosen.num_chosen is not None, IS_CUT=layout.is_cut, **PLACE[row],
    )  # fmt: skip
    num_tiles = triton.cdiv(size, COPY[row]["BLOCK_T"])
    if num_tiles == 0:
        return tokens, cu_seqlens, positions
    gather_documents_fwd_kernel[(num_slots * num_tiles,)](
        chosen.tokens, cu_seqlens, source, tokens, positions,
        most, size, layout.row_tokens, layout.pad, num_tiles,
        HAS_POSITIONS=layout.has_positions, **COPY[row],
    )  # fmt: skip
    return tokens, cu_seqlens, positions
