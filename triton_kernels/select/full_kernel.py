# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""The order of a row of few candidates in one launch: a rank is the number of candidates before.

Counted tile by tile, with no sort and no pass between: O(C**2) a row.

Legend: C candidates of a row, I and J candidates of a tile; o_ offsets, m_ masks, b_ values.
"""

import triton
import triton.language as tl

from .scoring_kernel import is_before, score_tile


@triton.jit(do_not_specialize=["seed_state", "max_count", "budget_tokens"])
def select_fwd_kernel(
    votes, theta, shift, scale, ids, lengths, order, num_kept, scores,
    seed_state, temperature, max_count, budget_tokens, C,
    A: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """Rank candidates [i*BLOCK_I, (i+1)*BLOCK_I) of a row; num_kept starts at 0."""
    i_row = tl.program_id(0).to(tl.int64)
    o_i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    m_i = o_i < C
    i_length, i_score, i_key, i_id = score_tile(
        votes, theta, shift, scale, ids, lengths, i_row, o_i, seed_state, temperature,
        C, A, HAS_NOISE,
    )  # fmt: skip
    tl.store(scores + i_row * C + o_i, i_score, mask=m_i)
    b_rank = tl.zeros([BLOCK_I], tl.int32)
    b_tokens = i_length.to(tl.int64)
    for i_j in range(0, C, BLOCK_J):
        o_j = i_j + tl.arange(0, BLOCK_J)
        j_length, j_score, j_key, j_id = score_tile(
            votes, theta, shift, scale, ids, lengths, i_row, o_j, seed_state, temperature,
            C, A, HAS_NOISE,
        )  # fmt: skip
        # What lies beyond the row is absent and behind all of it, so it comes before nothing.
        before = is_before(
            j_key[None, :], j_id[None, :], o_j[None, :], i_key[:, None], i_id[:, None], o_i[:, None]
        )
        b_rank += tl.sum(before.to(tl.int32), axis=1)
        b_add = tl.where(before, tl.maximum(j_length, 0)[None, :], 0)
        b_tokens += tl.sum(b_add.to(tl.int64), axis=1)
    tl.store(order + i_row * C + b_rank, o_i, mask=m_i)
    is_kept = m_i & (i_length >= 0) & (b_rank < max_count) & (b_tokens <= budget_tokens)
    tl.atomic_add(num_kept + i_row, tl.sum(is_kept.to(tl.int32), axis=0), sem="relaxed")
