# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""What is read once and summed: dots of rows (norms, embeddings) and the sums of documents.

A row's dot and a document's sum take the same steps wherever the row or the document stands.
Mathematics: docs/ops/ghost_influence.md.

Legend: T tokens, D width, V vocabulary, L layers; o_ offsets, m_ masks, p_ pointers, b_ values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T, BLOCK_D, ROW_WARPS = 16, 256, 4
BLOCK_SUM, SUM_WARPS = 512, 4


@triton.jit
def row_dot_fwd_kernel(
    x, y, rows, scale, bias, out, T, D, V,
    HAS_X: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write out[t] = y_t . (x_t * scale + bias), x_t = x[rows[t]] where HAS_ROWS."""
    dtype: tl.constexpr = out.dtype.element_ty
    o_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = o_t < T
    b_row = o_t.to(tl.int64)
    m_row = m_t
    if HAS_ROWS:
        b_row = tl.load(rows + o_t, mask=m_t, other=0).to(tl.int64)
        m_row = m_t & (b_row >= 0) & (b_row < V)
    b_sum = tl.zeros([BLOCK_T, BLOCK_D], dtype)
    for i_d in range(0, D, BLOCK_D):
        o_d = i_d + tl.arange(0, BLOCK_D)
        m_d = o_d < D
        b_factor = tl.zeros([BLOCK_T, BLOCK_D], dtype)
        if HAS_X:
            p_x = x + b_row[:, None] * D + o_d[None, :]
            b_factor = tl.load(p_x, mask=m_row[:, None] & m_d[None, :], other=0.0).to(dtype)
        if HAS_SCALE:
            b_factor *= tl.load(scale + o_d, mask=m_d, other=0.0).to(dtype)[None, :]
        if HAS_BIAS:
            b_factor += tl.load(bias + o_d, mask=m_d, other=0.0).to(dtype)[None, :]
        p_y = y + o_t.to(tl.int64)[:, None] * D + o_d[None, :]
        b_sum += b_factor * tl.load(p_y, mask=m_t[:, None] & m_d[None, :], other=0.0).to(dtype)
    b_dot = tl.sum(b_sum, axis=1)
    # A row that is not there must not pass for a score; the CPU path raises.
    tl.store(out + o_t, tl.where(m_row, b_dot, float("nan")), mask=m_t)


@triton.jit(do_not_specialize=["L"])
def document_sums_kernel(partials, cu_seqlens, out, T, L, BLOCK_T: tl.constexpr):
    """Write the fp64 sum of one document's partials: over the layers, then over its tokens.

    Lane j adds tokens j, j + BLOCK_T, ... counted from the document's first; then the lanes are
    added in a tree.
    """
    i_n = tl.program_id(0).to(tl.int64)
    begin = tl.maximum(tl.load(cu_seqlens + i_n), 0)
    length = (tl.minimum(tl.load(cu_seqlens + i_n + 1), T) - begin).to(tl.int32)
    b_sum = tl.zeros([BLOCK_T], tl.float64)
    for i_t in range(0, length, BLOCK_T):
        o_t = i_t + tl.arange(0, BLOCK_T)
        p_t = partials + begin + o_t
        b_token = tl.zeros([BLOCK_T], tl.float64)
        for _ in range(L):
            b_token += tl.load(p_t, mask=o_t < length, other=0.0).to(tl.float64)
            p_t += T
        b_sum += b_token
    tl.store(out + i_n, tl.sum(b_sum, axis=0))


def scale_influence_fwd(
    normalised: Tensor, output_grads: Tensor, direction: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Launch the kernel; arguments as in scale_influence, already checked."""
    out = _new_partials(output_grads, output_grads.dtype)
    if direction is None and bias is None:
        return out.zero_()
    num_tokens, width = output_grads.shape
    if num_tokens == 0:
        return out
    row_dot_fwd_kernel[(triton.cdiv(num_tokens, BLOCK_T),)](
        normalised.contiguous(), output_grads.contiguous(), normalised,
        out if direction is None else direction.contiguous(),
        out if bias is None else bias.contiguous(), out, num_tokens, width, 0,
        HAS_X=direction is not None, HAS_ROWS=False,
        HAS_SCALE=direction is not None, HAS_BIAS=bias is not None,
        BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, num_warps=ROW_WARPS,
    )  # fmt: skip
    return out


def embedding_influence_fwd(tokens: Tensor, output_grads: Tensor, direction: Tensor) -> Tensor:
    """Launch the kernel; arguments as in embedding_influence, already checked."""
    out = _new_partials(output_grads, torch.promote_types(output_grads.dtype, direction.dtype))
    num_tokens, width = output_grads.shape
    if num_tokens == 0:
        return out
    row_dot_fwd_kernel[(triton.cdiv(num_tokens, BLOCK_T),)](
        direction.contiguous(), output_grads.contiguous(), tokens.contiguous(), out, out,
        out, num_tokens, width, len(direction),
        HAS_X=True, HAS_ROWS=True, HAS_SCALE=False, HAS_BIAS=False,
        BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D, num_warps=ROW_WARPS,
    )  # fmt: skip
    return out


def document_sums_fwd(partials: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Launch the kernel; partials [L, T], cu_seqlens int64."""
    num_documents = len(cu_seqlens) - 1
    out = torch.empty(num_documents, dtype=torch.float64, device=partials.device)
    if num_documents == 0:
        return out
    num_layers, num_tokens = partials.shape
    document_sums_kernel[(num_documents,)](
        partials.contiguous(), cu_seqlens.contiguous(), out, num_tokens, num_layers,
        BLOCK_T=BLOCK_SUM, num_warps=SUM_WARPS,
    )  # fmt: skip
    return out


def _new_partials(output_grads: Tensor, dtype: torch.dtype) -> Tensor:
    """One number a token, fp32 or better."""
    wide = torch.promote_types(dtype, torch.float32)
    return torch.empty(len(output_grads), dtype=wide, device=output_grads.device)
