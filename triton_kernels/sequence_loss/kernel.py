# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""Token losses as Triton kernels: the matrix product with the head inside an online logsumexp.

A program takes a tile of tokens through one split of the vocabulary, tile by tile, and keeps each
token's largest logit and its sum of exponentials; a second kernel puts a token's splits together
in order. Logits exist in registers only. Mathematics: docs/ops/sequence_loss.md.

Legend: T tokens, V vocabulary, H width, S splits; o_ offsets, m_ masks, p_ pointers, b_ values.
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
# fixed: a token's bits must not depend on how many others there are.
WIDE_TILES = {4: (64, 64, 32, 8, 3, 32), 8: (32, 32, 16, 4, 3, 64)}
TILES = {
    0: {2: (32, 32, 16, 4, 1, 2), 4: (32, 32, 16, 4, 1, 2), 8: (32, 32, 16, 4, 1, 2)},
    80: {2: (128, 128, 32, 8, 4, 16), **WIDE_TILES},
}
TILES_BY_DESCRIPTOR = {
    0: (32, 32, 16, 4, 1, 2),
    90: (128, 256, 64, 8, 4, 8),
    100: (128, 256, 64, 8, 4, 8),
    120: (128, 128, 64, 8, 3, 16),
}
"""A descriptor takes few registers: a tile twice as wide does not spill."""


@triton.jit
def sequence_loss_fwd_kernel(
    hidden, weight, maxima, sums, T, V,
    H: tl.constexpr, SOFTCAP: tl.constexpr, TILED: tl.constexpr, UPCAST: tl.constexpr,
    SWIZZLE: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write maxima[s, t], the largest logit of split s, and sums[s, t] = sum exp(z - maximum).

    H is a constant: rows are then known to start at multiples of 16 bytes, where they do.
    """
    num_s = tl.cdiv(V, SPLIT * BLOCK_V)
    i_t, i_s = token_tile_and_split(tl.program_id(0), tl.cdiv(T, BLOCK_T), num_s, SWIZZLE)
    dtype: tl.constexpr = maxima.dtype.element_ty
    b_max = tl.full([BLOCK_T], float("-inf"), dtype)
    b_sum = tl.zeros([BLOCK_T], dtype)
    first = i_s * SPLIT * BLOCK_V
    for i_v in range(first, tl.minimum(first + SPLIT * BLOCK_V, V), BLOCK_V):
        b_z = tl.zeros([BLOCK_T, BLOCK_V], dtype)
        for i_h in range(0, H, BLOCK_H):
            b_x = tile(hidden, i_t * BLOCK_T, i_h, T, H, TILED, UPCAST, BLOCK_T, BLOCK_H)
            b_w = tile(weight, i_v, i_h, V, H, TILED, UPCAST, BLOCK_V, BLOCK_H)
            b_z = tl.dot(b_x, b_w.T, b_z, input_precision="ieee", out_dtype=dtype)
        if SOFTCAP > 0:
            b_z = capped(b_z, SOFTCAP)
        # Masked last: whatever the cap makes of a column past V, it adds nothing.
        b_z = tl.where((i_v + tl.arange(0, BLOCK_V) < V)[None, :], b_z, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_z, axis=1))
        b_sum = b_sum * tl.exp(b_max - b_new) + tl.sum(tl.exp(b_z - b_new[:, None]), axis=1)
        b_max = b_new
    o_t = i_t * BLOCK_T + tl.arange(0, BLOCK_T)
    p_out = i_s.to(tl.int64) * T + o_t
    tl.store(maxima + p_out, b_max, mask=o_t < T)
    tl.store(sums + p_out, b_sum, mask=o_t < T)


@triton.jit(do_not_specialize=["S", "V"])
def sequence_loss_combine_kernel(
    maxima, sums, hidden, weight, targets, reference, losses, S, T, V,
    HAS_REFERENCE: tl.constexpr, H: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write losses[t] = logsumexp - target logit - reference: the splits in order, in fp64."""
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
    p_row = o_t.to(tl.int64)
    for _ in range(S):
        b_share = tl.exp(tl.load(maxima + p_row, mask=m_t, other=0.0) - b_max)
        b_sum += (b_share * tl.load(sums + p_row, mask=m_t, other=0.0)).to(tl.float64)
        p_row += T
    b_z = dots_at_targets(hidden, weight, o_t, b_y, m_y, H, dtype, BLOCK_T, BLOCK_H)
    if SOFTCAP > 0:
        b_z = capped(b_z, SOFTCAP)
    b_loss = (b_max.to(tl.float64) - b_z.to(tl.float64)) + tl.log(b_sum.to(dtype)).to(tl.float64)
    if HAS_REFERENCE:
        b_loss -= tl.load(reference + o_t, mask=m_y, other=0.0).to(tl.float64)
    # A target that is not there must not pass for a loss; the CPU path raises.
    b_loss = tl.where(m_y, b_loss, tl.where(b_y < 0, 0.0, float("nan")))
    tl.store(losses + o_t, b_loss.to(dtype), mask=m_t)


def token_losses_fwd(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    reference_losses: Tensor | None,
    softcap: float,
) -> Tensor:
    """Launch the two kernels; arguments as in token_losses, already checked."""
    (num_tokens, width), vocabulary = hidden.shape, len(head_weight)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(num_tokens, dtype=wide, device=hidden.device)
    if num_tokens == 0:
        return losses
    hidden = hidden.contiguous()
    weight = head_weight.to(hidden.dtype).contiguous()
    row = architecture(hidden.device, TILES_BY_DESCRIPTOR | TILES)
    shape = constants(row, hidden.dtype, width, softcap, is_tiled(row, hidden, weight))
    block_t, block_v, block_h = shape["BLOCK_T"], shape["BLOCK_V"], shape["BLOCK_H"]
    num_splits = triton.cdiv(vocabulary, shape["SPLIT"] * block_v)
    maxima, sums = torch.empty(2, num_splits, num_tokens, dtype=wide, device=hidden.device)
    sequence_loss_fwd_kernel[(triton.cdiv(num_tokens, block_t) * num_splits,)](
        operand(hidden, block_t, block_h, shape["TILED"]),
        operand(weight, block_v, block_h, shape["TILED"]),
        maxima, sums, num_tokens, vocabulary, **shape,
    )  # fmt: skip
    sequence_loss_combine_kernel[(triton.cdiv(num_tokens, COMBINE_TOKENS),)](
        maxima, sums, hidden, weight, targets.contiguous(),
        losses if reference_losses is None else reference_losses.contiguous(),
        losses, num_splits, num_tokens, vocabulary,
        HAS_REFERENCE=reference_losses is not None,
        **combine_constants(hidden.dtype, width, softcap),
    )  # fmt: skip
    return losses


def constants(row: int, dtype: torch.dtype, width: int, softcap: float, tiled: bool) -> dict:
    """Return the kernel's constants on an architecture, given as a row of the tables."""
    pointers = TILES[80 if row >= 80 else 0][dtype.itemsize]
    chosen = TILES_BY_DESCRIPTOR[row] if tiled else pointers
    return product_constants(chosen, row, dtype, width, softcap, tiled)
