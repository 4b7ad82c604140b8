# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""Influence through the head as Triton kernels: two matrix products inside one online softmax.

A program takes a tile of tokens through one split of the vocabulary. Each tile of it is multiplied
with the head and with the direction; a token keeps its largest logit, its sum of exponentials and
the sum of exponentials times slopes. A second kernel puts a token's splits together in order.
Neither logits nor slopes are ever written. Mathematics: docs/ops/head_influence.md.

Legend: T tokens, V vocabulary, H width, S splits; z logits, u slopes; o_ offsets, p_ pointers,
b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..architecture import architecture
from ..vocabulary_kernel import (
    COMBINE_TOKENS,
    capped,
    combine_constants,
    dots_at_targets,
    is_tiled,
    operand,
    product_constants,
    tile,
    token_tile_and_split,
)

# bytes of an element: (tokens, vocabulary, width, warps, stages, tiles a split). The split is
# fixed: a token's bits must not depend on how many others there are. Two sums of products stand
# in registers: the tiles are half as wide as those of sequence_loss.
WIDE_TILES = {4: (64, 32, 32, 8, 3, 64), 8: (32, 16, 16, 4, 2, 128)}
TILES = {
    0: {2: (32, 32, 16, 4, 1, 2), 4: (32, 32, 16, 4, 1, 2), 8: (32, 32, 16, 4, 1, 2)},
    80: {2: (128, 64, 32, 8, 4, 32), **WIDE_TILES},
}
TILES_BY_DESCRIPTOR = {
    0: (32, 32, 16, 4, 1, 2),
    90: (128, 128, 64, 8, 4, 16),
    100: (128, 128, 64, 8, 4, 16),
    120: (128, 64, 64, 8, 3, 32),
}


@triton.jit
def head_influence_fwd_kernel(
    hidden, weight, direction, maxima, sums, slopes, T, V,
    H: tl.constexpr, SOFTCAP: tl.constexpr, TILED: tl.constexpr, UPCAST: tl.constexpr,
    SWIZZLE: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write the largest logit of split s, its sum of exp(z - maximum), and that of exp(..) u.

    H is a constant: rows are then known to start at multiples of 16 bytes, where they do.
    """
    num_s = tl.cdiv(V, SPLIT * BLOCK_V)
    i_t, i_s = token_tile_and_split(tl.program_id(0), tl.cdiv(T, BLOCK_T), num_s, SWIZZLE)
    dtype: tl.constexpr = maxima.dtype.element_ty
    b_max = tl.full([BLOCK_T], float("-inf"), dtype)
    b_sum = tl.zeros([BLOCK_T], dtype)
    b_slope = tl.zeros([BLOCK_T], dtype)
    first = i_s * SPLIT * BLOCK_V
    for i_v in range(first, tl.minimum(first + SPLIT * BLOCK_V, V), BLOCK_V):
        b_z = tl.zeros([BLOCK_T, BLOCK_V], dtype)
        b_u = tl.zeros([BLOCK_T, BLOCK_V], dtype)
        for i_h in range(0, H, BLOCK_H):
            b_x = tile(hidden, i_t * BLOCK_T, i_h, T, H, TILED, UPCAST, BLOCK_T, BLOCK_H)
            b_w = tile(weight, i_v, i_h, V, H, TILED, UPCAST, BLOCK_V, BLOCK_H)
            b_g = tile(direction, i_v, i_h, V, H, TILED, UPCAST, BLOCK_V, BLOCK_H)
            b_z = tl.dot(b_x, b_w.T, b_z, input_precision="ieee", out_dtype=dtype)
            b_u = tl.dot(b_x, b_g.T, b_u, input_precision="ieee", out_dtype=dtype)
        if SOFTCAP > 0:
            b_z = capped(b_z, SOFTCAP)
            b_u *= 1.0 - (b_z / SOFTCAP) * (b_z / SOFTCAP)
        # Masked last. The slopes' mask changes no number (exp(z - m) and u are 0 there); without it
        # ptxas settles for 128 registers on sm_100 and spills.
        m_v = (i_v + tl.arange(0, BLOCK_V) < V)[None, :]
        b_z = tl.where(m_v, b_z, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_z, axis=1))
        b_old = tl.exp(b_max - b_new)
        b_exp = tl.exp(b_z - b_new[:, None])
        b_sum = b_sum * b_old + tl.sum(b_exp, axis=1)
        b_slope = b_slope * b_old + tl.sum(tl.where(m_v, b_exp * b_u, 0.0), axis=1)
        b_max = b_new
    o_t = i_t * BLOCK_T + tl.arange(0, BLOCK_T)
    p_out = i_s.to(tl.int64) * T + o_t
    tl.store(maxima + p_out, b_max, mask=o_t < T)
    tl.store(sums + p_out, b_sum, mask=o_t < T)
    tl.store(slopes + p_out, b_slope, mask=o_t < T)


@triton.jit(do_not_specialize=["S", "V"])
def head_influence_combine_kernel(
    maxima, sums, slopes, hidden, weight, direction, targets, influences, losses, S, T, V,
    H: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write both results of each token: the splits in order, in fp64."""
    dtype: tl.constexpr = maxima.dtype.element_ty
    o_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = o_t < T
    b_y = tl.load(targets + o_t, mask=m_t, other=-1)
    m_y = m_t & (b_y >= 0) & (b_y < V)
    b_max = tl.full([BLOCK_T], float("-inf"), dtype)
    p_row = o_t.to(tl.int64)
    for _ in range(S):
        b_max = tl.maximum(b_max, tl.load(maxima + p_row, mask=m_t, other=0.0))
        p_row += T
    b_sum = tl.zeros([BLOCK_T], tl.float64)
    b_slope = tl.zeros([BLOCK_T], tl.float64)
    p_row = o_t.to(tl.int64)
    for _ in range(S):
        b_share = tl.exp(tl.load(maxima + p_row, mask=m_t, other=0.0) - b_max)
        b_sum += (b_share * tl.load(sums + p_row, mask=m_t, other=0.0)).to(tl.float64)
        b_slope += (b_share * tl.load(slopes + p_row, mask=m_t, other=0.0)).to(tl.float64)
        p_row += T
    b_z = dots_at_targets(hidden, weight, o_t, b_y, m_y, H, dtype, BLOCK_T, BLOCK_H)
    b_u = dots_at_targets(hidden, direction, o_t, b_y, m_y, H, dtype, BLOCK_T, BLOCK_H)
    if SOFTCAP > 0:
        b_z = capped(b_z, SOFTCAP)
        b_u *= 1.0 - (b_z / SOFTCAP) * (b_z / SOFTCAP)
    # A target that is not there must not pass for a score; the CPU path raises.
    b_none = tl.where(b_y < 0, 0.0, float("nan"))
    b_influence = b_slope / b_sum - b_u.to(tl.float64)
    b_loss = (b_max.to(tl.float64) - b_z.to(tl.float64)) + tl.log(b_sum.to(dtype)).to(tl.float64)
    tl.store(influences + o_t, tl.where(m_y, b_influence, b_none).to(dtype), mask=m_t)
    tl.store(losses + o_t, tl.where(m_y, b_loss, b_none).to(dtype), mask=m_t)


def token_influences_fwd(
    hidden: Tensor, head_weight: Tensor, direction: Tensor, targets: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    """Launch the two kernels; arguments as in head_influence, already checked."""
    (num_tokens, width), vocabulary = hidden.shape, len(head_weight)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    influences = torch.empty(num_tokens, dtype=wide, device=hidden.device)
    losses = torch.empty_like(influences)
    if num_tokens == 0:
        return influences, losses
    hidden = hidden.contiguous()
    weight = head_weight.to(hidden.dtype).contiguous()
    direction = direction.to(hidden.dtype).contiguous()
    row = architecture(hidden.device, TILES_BY_DESCRIPTOR | TILES)
    tiled = is_tiled(row, hidden, weight, direction)
    shape = constants(row, hidden.dtype, width, softcap, tiled)
    block_t, block_v, block_h = shape["BLOCK_T"], shape["BLOCK_V"], shape["BLOCK_H"]
    num_splits = triton.cdiv(vocabulary, shape["SPLIT"] * block_v)
    partials = torch.empty(3, num_splits, num_tokens, dtype=wide, device=hidden.device)
    head_influence_fwd_kernel[(triton.cdiv(num_tokens, block_t) * num_splits,)](
        operand(hidden, block_t, block_h, tiled), operand(weight, block_v, block_h, tiled),
        operand(direction, block_v, block_h, tiled), *partials, num_tokens, vocabulary, **shape,
    )  # fmt: skip
    head_influence_combine_kernel[(triton.cdiv(num_tokens, COMBINE_TOKENS),)](
        *partials, hidden, weight, direction, targets.contiguous(), influences, losses,
        num_splits, num_tokens, vocabulary, **combine_constants(hidden.dtype, width, softcap),
    )  # fmt: skip
    return influences, losses


def constants(row: int, dtype: torch.dtype, width: int, softcap: float, tiled: bool) -> dict:
    """Return the kernel's constants on an architecture, given as a row of the tables."""
    pointers = TILES[80 if row >= 80 else 0][dtype.itemsize]
    chosen = TILES_BY_DESCRIPTOR[row] if tiled else pointers
    return product_constants(chosen, row, dtype, width, softcap, tiled)
