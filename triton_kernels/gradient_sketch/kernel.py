# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""gradient_sketch as two Triton kernels: chunks of a document, then their sum in order.

A chunk is `BLOCK_T` tokens counted from the document's first, so its bits do not depend on the
neighbours. A program reads its tokens' activations and output gradients once, projects both and
writes the product of the projections. Chunk c of document i stands in slot
cu[i] // BLOCK_T + i + c: slots never collide, there are T // BLOCK_T + N of them, and the launch
needs to know nothing else of the lengths. Mathematics: docs/ops/gradient_sketch.md.

Legend: T tokens, IN inputs, OUT outputs, P and Q their ranks, D a width, R a rank, N documents;
o_ offsets, m_ masks, p_ pointers, b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..architecture import architecture

MAX_RANK = 64
SEARCH = 128
"""Documents that one step of the search reads."""
BLOCK_SUM, SUM_WARPS = 512, 4

RAGGED = 1
"""Stands for two bytes an element, rows no multiple of 16: their elements load one by one."""

TILES = {
    # architecture: bytes of an element: (tokens, features, warps, stages)
    0: dict.fromkeys((RAGGED, 2, 4), (32, 16, 4, 1)),
    80: {RAGGED: (64, 32, 8, 2), 2: (128, 64, 8, 3), 4: (32, 32, 8, 2)},
    90: {RAGGED: (64, 32, 8, 2), 2: (128, 64, 8, 4), 4: (32, 32, 8, 2)},
    100: {RAGGED: (64, 32, 8, 2), 2: (128, 64, 8, 4), 4: (32, 32, 8, 2)},
    120: {RAGGED: (64, 32, 8, 2), 2: (128, 64, 8, 3), 4: (32, 32, 8, 2)},
}
DOUBLE = (16, 16, 8, 2)
"""The tile of fp64, which is for checks, on every architecture."""


@triton.jit
def last_started(cu_seqlens, i_s, T, N, BLOCK_T: tl.constexpr, SEARCH: tl.constexpr):
    """Return the last document whose first slot is not behind i_s, or -1."""
    o_probe = tl.arange(0, SEARCH) + 1
    low = i_s * 0
    width = i_s * 0 + N
    while width > 0:
        step = (width + SEARCH - 1) // SEARCH
        o_n = low + o_probe * step - 1
        b_begin = tl.load(cu_seqlens + o_n, mask=o_n < N, other=0)
        b_slot = tl.minimum(tl.maximum(b_begin, 0), T) // BLOCK_T + o_n
        low += tl.sum(((b_slot <= i_s) & (o_n < N)).to(tl.int32), axis=0) * step
        width = tl.minimum(step - 1, N - low)
    return low - 1


@triton.jit
def project(
    x, projection, o_t, m_t, o_r, D, R,
    IS_EVEN: tl.constexpr, UPCAST: tl.constexpr, dtype: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Return rows o_t of x times the projection, [BLOCK_T, BLOCK_R] of the inputs' dtype."""
    o_d = tl.arange(0, BLOCK_D)
    m_r = o_r < R
    p_x = x + o_t[:, None] * D + o_d[None, :]
    p_r = projection + o_d[:, None] * R + o_r[None, :]
    b_sum = tl.zeros([BLOCK_T, BLOCK_R], dtype)
    for i_d in range(0, D, BLOCK_D):
        m_x, m_p = m_t[:, None], m_r[None, :]
        if not IS_EVEN:
            m_x = m_x & (o_d < D - i_d)[None, :]
            m_p = m_p & (o_d < D - i_d)[:, None]
        b_x = tl.load(p_x, mask=m_x, other=0.0)
        b_r = tl.load(p_r, mask=m_p, other=0.0)
        if UPCAST:
            b_x, b_r = b_x.to(tl.float32), b_r.to(tl.float32)
        b_sum = tl.dot(b_x, b_r, b_sum, input_precision="ieee", out_dtype=dtype)
        p_x += BLOCK_D
        p_r += BLOCK_D * R
    # No mask here: tokens of the next document and ranks past R were read as zeros, and on Hopper
    # a select on the accumulators makes the compiler wait for every single product.
    if UPCAST:
        return b_sum
    return b_sum.to(x.dtype.element_ty)


@triton.jit(do_not_specialize=["N"])
def gradient_sketch_fwd_kernel(
    activations, output_grads, input_projection, output_projection, cu_seqlens, partials,
    T, N, IN, OUT, P, Q,
    EVEN_IN: tl.constexpr, EVEN_OUT: tl.constexpr, UPCAST: tl.constexpr, SEARCH: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Write partials[slot] = sum over the tokens of one chunk of (b_t Q) (a_t P)^T."""
    dtype: tl.constexpr = partials.dtype.element_ty
    i_s = tl.program_id(0)
    i_n = last_started(cu_seqlens, i_s, T, N, BLOCK_T, SEARCH)
    begin = tl.load(cu_seqlens + i_n, mask=i_n >= 0, other=0)
    begin = tl.minimum(tl.maximum(begin, 0), T)
    end = tl.minimum(tl.load(cu_seqlens + i_n + 1, mask=i_n >= 0, other=0), T)
    first = begin + (i_s - begin // BLOCK_T - i_n) * BLOCK_T
    if first >= end:
        return
    o_t = first + tl.arange(0, BLOCK_T)
    m_t = o_t < end
    o_p, o_q = tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_Q)
    b_right = project(
        activations, input_projection, o_t, m_t, o_p, IN, P,
        EVEN_IN, UPCAST, dtype, BLOCK_T, BLOCK_D, BLOCK_P,
    )  # fmt: skip
    b_left = project(
        output_grads, output_projection, o_t, m_t, o_q, OUT, Q,
        EVEN_OUT, UPCAST, dtype, BLOCK_T, BLOCK_D, BLOCK_Q,
    )  # fmt: skip
    b_sketch = tl.dot(tl.trans(b_left), b_right, input_precision="ieee", out_dtype=dtype)
    p_out = partials + i_s.to(tl.int64) * P * Q + o_q[:, None] * P + o_p[None, :]
    tl.store(p_out, b_sketch, mask=(o_q < Q)[:, None] & (o_p < P)[None, :])


@triton.jit
def gradient_sketch_combine_kernel(
    partials, cu_seqlens, out, T, SIZE, BLOCK_T: tl.constexpr, BLOCK_SUM: tl.constexpr
):
    """Write out[i] = sum of document i's chunks in order, in fp64."""
    i_n = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BLOCK_SUM + tl.arange(0, BLOCK_SUM)
    m_e = o_e < SIZE
    begin = tl.minimum(tl.maximum(tl.load(cu_seqlens + i_n), 0), T)
    length = tl.minimum(tl.load(cu_seqlens + i_n + 1), T) - begin
    b_sum = tl.zeros([BLOCK_SUM], tl.float64)
    p_e = partials + (begin // BLOCK_T + i_n) * SIZE + o_e
    for _ in range(0, length.to(tl.int32), BLOCK_T):
        b_sum += tl.load(p_e, mask=m_e, other=0.0).to(tl.float64)
        p_e += SIZE
    tl.store(out + i_n * SIZE + o_e, b_sum.to(out.dtype.element_ty), mask=m_e)


def gradient_sketch_fwd(
    activations: Tensor,
    output_grads: Tensor,
    input_projection: Tensor,
    output_projection: Tensor,
    cu_seqlens: Tensor,
) -> Tensor:
    """Launch the kernels; arguments as in gradient_sketch, already checked."""
    (num_tokens, outputs), inputs = output_grads.shape, activations.shape[1]
    rank_in, rank_out = input_projection.shape[1], output_projection.shape[1]
    if max(rank_in, rank_out) > MAX_RANK:
        raise ValueError(
            f"the projections have ranks {rank_in} and {rank_out}, the kernel serves {MAX_RANK}; "
            "take implementation='reference'"
        )
    dtype, device, num_documents = output_grads.dtype, output_grads.device, len(cu_seqlens) - 1
    wide = torch.promote_types(dtype, torch.float32)
    out = torch.empty(num_documents, rank_out, rank_in, dtype=wide, device=device)
    if num_documents == 0:
        return out
    row = architecture(device, TILES)
    shape = constants(row, dtype, (inputs, outputs), (rank_in, rank_out))
    slots = num_tokens // shape["BLOCK_T"] + num_documents
    partials = torch.empty(slots, rank_out, rank_in, dtype=wide, device=device)
    gradient_sketch_fwd_kernel[(slots,)](
        activations.to(dtype).contiguous(), output_grads.contiguous(),
        input_projection.to(dtype).contiguous(), output_projection.to(dtype).contiguous(),
        cu_seqlens.contiguous(), partials,
        num_tokens, num_documents, inputs, outputs, rank_in, rank_out, **shape,
    )  # fmt: skip
    size = rank_in * rank_out
    gradient_sketch_combine_kernel[(num_documents, triton.cdiv(size, BLOCK_SUM))](
        partials, cu_seqlens.contiguous(), out, num_tokens, size,
        BLOCK_T=shape["BLOCK_T"], BLOCK_SUM=BLOCK_SUM, num_warps=SUM_WARPS,
    )  # fmt: skip
    return out


def constants(
    row: int, dtype: torch.dtype, widths: tuple[int, int], ranks: tuple[int, int]
) -> dict[str, int]:
    """Return the kernel's constants for one row of `TILES`; inputs before outputs in pairs."""
    is_ragged = dtype.itemsize == 2 and any(size % 16 for size in widths)
    kind = RAGGED if is_ragged else dtype.itemsize
    tile = DOUBLE if dtype == torch.float64 else TILES[row][kind]
    block_t, block_d, num_warps, num_stages = tile
    block_p, block_q = (max(16, triton.next_power_of_2(rank)) for rank in ranks)
    return {
        "EVEN_IN": widths[0] % block_d == 0,
        "EVEN_OUT": widths[1] % block_d == 0,
        "UPCAST": row == 0 and dtype == torch.bfloat16,
        "SEARCH": SEARCH,
        "BLOCK_T": block_t,
        "BLOCK_D": block_d,
        "BLOCK_P": block_p,
        "BLOCK_Q": block_q,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }
