# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""ngram_log_ratio as one Triton kernel: a program for each document, several for few documents.

Sums are int64 and rounded once, so the bits are the reference's however the work is split.

Legend: T tokens of a block; o_ offsets, m_ masks, b_ block values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..hashing_kernel import absorb, finish, start_state
from .tables import STEP

BLOCK_T, NUM_WARPS = 256, 4
WANTED_PROGRAMS = 1024
"""Documents below this number are split, so that a large GPU has work for all its processors."""


@triton.jit
def ngram_log_ratio_fwd_kernel(
    tokens, cu_seqlens, table, out, bucket_mask,
    STEP: tl.constexpr, ORDERS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Sum blocks i_s, i_s + SPLITS, ... of a document; out is float64, or int64 if it is split."""
    i_n = tl.program_id(0).to(tl.int64)
    i_s = tl.program_id(1)
    begin = tl.load(cu_seqlens + i_n)
    length = (tl.load(cu_seqlens + i_n + 1) - begin).to(tl.int32)
    o_t = tl.arange(0, BLOCK_T)
    b_sum = tl.zeros([BLOCK_T], tl.int64)
    for i_t in range(i_s * BLOCK_T, length, SPLITS * BLOCK_T):
        b_state = start_state(BLOCK_T)
        for order in tl.static_range(1, 4):
            o_word = i_t + o_t + (order - 1)
            m_t = o_word < length
            b_word = tl.load(tokens + begin + o_word, mask=m_t, other=0)
            b_state = absorb(b_state, b_word.to(tl.uint32))
            if (ORDERS >> order) & 1 == 1:
                o_row = (finish(b_state) & bucket_mask).to(tl.int64)
                b_sum += tl.load(table + o_row, mask=m_t, other=0).to(tl.int64)
    total = tl.sum(b_sum, axis=0)
    if SPLITS == 1:
        tl.store(out + i_n, total.to(tl.float64) * STEP)
    else:
        tl.store(out + i_n * SPLITS + i_s, total)


def ngram_log_ratio_fwd(tokens: Tensor, cu_seqlens: Tensor, table: Tensor, orders: int) -> Tensor:
    """Launch the kernel; arguments as in ngram_log_ratio, already checked."""
    n = len(cu_seqlens) - 1
    splits = num_splits(n, len(tokens))
    dtype = torch.float64 if splits == 1 else torch.int64
    out = torch.empty(n, splits, dtype=dtype, device=tokens.device)
    if n > 0:
        ngram_log_ratio_fwd_kernel[(n, splits)](
            tokens, cu_seqlens, table, out, len(table) - 1,
            STEP=STEP, ORDERS=orders, SPLITS=splits, BLOCK_T=BLOCK_T, num_warps=NUM_WARPS,
        )  # fmt: skip
    return out.view(n) if splits == 1 else out.sum(1).to(torch.float64).mul_(STEP)


def num_splits(num_documents: int, num_tokens: int) -> int:
    """Return how many programs share a document: a power of two, so that few kernels are compiled.

    Follows from shapes alone, because lengths lie on the device.
    """
    most = min(triton.cdiv(WANTED_PROGRAMS, max(num_documents, 1)), num_tokens // BLOCK_T)
    return 1 << max(min(most, 64).bit_length() - 1, 0)
