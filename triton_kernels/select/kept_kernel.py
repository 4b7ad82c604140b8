# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""The kept candidates of a row in one launch, without an order: a program holds a whole row.

The first candidate that does not fit is found by halving: the range of scores, then, where scores
tie, of hashes, then of ids; each step asks how many candidates and tokens lie below, in one sum.
Everything before it is kept.

Legend: C candidates of a row; o_ offsets, m_ masks, b_ values.
"""

import triton
import triton.language as tl

from .scoring_kernel import score_tile

COUNT_SHIFT = tl.constexpr(44)
ONE = tl.constexpr(1 << 44)
TOKENS = tl.constexpr((1 << 44) - 1)
"""A weight holds a count above its tokens: 2**13 candidates of below 2**31 tokens fit under it."""
GREATEST = tl.constexpr((1 << 63) - 1)
LEAST = tl.constexpr(-(1 << 63))
MAX_CANDIDATES = 1 << 13


@triton.jit
def fits(weight, max_count, budget_tokens):
    """Whether a sum of weights is within both limits."""
    tokens = weight & TOKENS
    return ((weight >> COUNT_SHIFT) <= max_count) & (tokens <= budget_tokens)


@triton.jit
def narrow(b_value, b_open, b_weight, base, max_count, budget_tokens):
    """Halve the range of int64 values down to the first one, or candidate, that does not fit.

    Open candidates are undecided; base is the weight of those kept before. Returns which are kept
    now, which stay open, and the new base.
    """
    low = tl.min(tl.where(b_open, b_value, GREATEST), axis=0)
    high = tl.max(tl.where(b_open, b_value, LEAST), axis=0)
    # Weights of what lies before low, and of what lies up to high: the first misfit is between.
    below = base
    above = base + tl.sum(tl.where(b_open, b_weight, 0), axis=0)
    has_room = fits(above, max_count, budget_tokens)
    while (low < high) & (((above - below) >> COUNT_SHIFT) > 1) & (has_room == 0):
        middle = (low & high) + ((low ^ high) >> 1)  # cannot overflow
        b_sum = tl.where(b_open & (b_value <= middle), b_weight, 0)
        weight = base + tl.sum(b_sum, axis=0)
        has_passed = fits(weight, max_count, budget_tokens)
        low = tl.where(has_passed, middle + 1, low)
        high = tl.where(has_passed, high, middle)
        below = tl.where(has_passed, weight, below)
        above = tl.where(has_passed, above, weight)
    # Numbers, not flags: the interpreter loses the type of a scalar flag that meets a block.
    room = has_room.to(tl.int32)
    b_kept = b_open & (tl.where(b_value < low, 1, room) > 0)
    b_left = b_open & (tl.where((b_value >= low) & (b_value <= high), 1 - room, 0) > 0)
    return b_kept, b_left, tl.where(has_room, above, below)


@triton.jit
def count(b_flag):
    """Number of true flags."""
    return tl.sum(b_flag.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["seed_state", "max_count", "budget_tokens"])
def select_kept_kernel(
    votes, theta, shift, scale, ids, lengths, order, num_kept, scores,
    seed_state, temperature, max_count, budget_tokens, C,
    A: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Keep a row's candidates; order takes their positions, ascending, then the first misfit."""
    i_row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    b_length, b_score, b_key, b_id = score_tile(
        votes, theta, shift, scale, ids, lengths, i_row, o_c, seed_state, temperature,
        C, A, HAS_NOISE,
    )  # fmt: skip
    tl.store(scores + i_row * C + o_c, b_score, mask=o_c < C)
    b_weight = b_length.to(tl.int64) + ONE
    b_kept, b_open, base = narrow(
        b_key, b_length >= 0, b_weight, i_row * 0, max_count, budget_tokens
    )
    if count(b_open) > 1:  # scores and hashes tie; the ids are read again, to hold no registers
        b_again = tl.load(ids + i_row * C + o_c, mask=o_c < C, other=0)
        b_more, b_open, base = narrow(b_again, b_open, b_weight, base, max_count, budget_tokens)
        b_kept = b_kept | b_more
        if count(b_open) > 1:
            b_sum = base + tl.cumsum(tl.where(b_open, b_weight, 0), axis=0)
            b_more = b_open & fits(b_sum, max_count, budget_tokens)
            b_kept = b_kept | b_more
            b_open = b_open & (b_more == 0)
    misfit = tl.min(tl.where(b_open, o_c, C), axis=0)
    num = count(b_kept)
    p_order = order + i_row * C
    tl.store(p_order + tl.cumsum(b_kept.to(tl.int32), axis=0) - 1, o_c, mask=b_kept)
    b_rest = tl.where(o_c == num, tl.where(misfit < C, misfit, -1), -1)
    tl.store(p_order + o_c, b_rest, mask=(o_c >= num) & (o_c < C))
    tl.store(num_kept + i_row, num)
