# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""The kept candidates of a row in one launch, without an order: a program holds a whole row.

The first candidate that does not fit is found by halving the range of scores, then, where scores
tie, of hashes; each step asks how many candidates and tokens lie below, in one sum. Everything
before it is kept.

Legend: C candidates of a row; o_ offsets, m_ masks, b_ values.
"""

import triton
import triton.language as tl

from .scoring_kernel import ABSENT, hash_id, score_tile

COUNT_SHIFT = tl.constexpr(44)
ONE = tl.constexpr(1 << 44)
TOKENS = tl.constexpr((1 << 44) - 1)
"""A weight holds a count above its tokens: 2**13 candidates of below 2**31 tokens fit under it."""
GREATEST = tl.constexpr((1 << 63) - 1)
LOWEST = tl.constexpr(-(1 << 31))
MAX_CANDIDATES = 1 << 13


@triton.jit
def fits(weight, max_count, budget_tokens):
    """Whether a sum of weights is within both limits."""
    tokens = weight & TOKENS
    return ((weight >> COUNT_SHIFT) <= max_count) & (tokens <= budget_tokens)


@triton.jit
def weigh(b_value, p_length, top):
    """Weight of the candidates of values up to one that only open candidates have.

    The lengths are read again each time, from the nearest cache: to hold them costs registers.
    """
    m_value = b_value <= top
    b_weight = tl.load(p_length, mask=m_value, other=0).to(tl.int64) + ONE
    return tl.sum(tl.where(m_value, b_weight, 0), axis=0)


@triton.jit
def narrow(b_value, high, p_length, base, max_count, budget_tokens):
    """Halve the range of values down to one value, or one candidate, that is the first not to fit.

    Open candidates have values up to high, all others higher ones; base is the weight of those
    kept before. Returns the range that holds the misfit, the weight of what lies before, and
    whether there is none.
    """
    low = tl.min(b_value, axis=0)
    # Weights of what lies before low, and of what lies up to high.
    below = base
    above = base + weigh(b_value, p_length, high)
    has_room = fits(above, max_count, budget_tokens)
    while (low < high) & (((above - below) >> COUNT_SHIFT) > 1) & (has_room == 0):
        middle = (low & high) + ((low ^ high) >> 1)  # cannot overflow
        weight = base + weigh(b_value, p_length, middle)
        has_passed = fits(weight, max_count, budget_tokens)
        low = tl.where(has_passed, middle + 1, low)
        high = tl.where(has_passed, high, middle)
        below = tl.where(has_passed, weight, below)
        above = tl.where(has_passed, above, weight)
    return low, high, below, has_room


@triton.jit
def tie_of(ids, p_row, o_c, b_open, seed_state):
    """Hashes of open candidates as int64; others have a greater value."""
    b_id = tl.load(ids + p_row + o_c, mask=b_open, other=0)
    return tl.where(b_open, hash_id(b_id, seed_state).to(tl.int64), GREATEST)


@triton.jit(do_not_specialize=["seed_state", "max_count", "budget_tokens"])
def select_kept_kernel(
    votes, theta, shift, scale, ids, lengths, order, num_kept, scores,
    seed_state, temperature, max_count, budget_tokens, C,
    A: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Keep a row's candidates; order takes their positions, ascending, then the first misfit."""
    i_row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    p_row = i_row * C
    p_length = lengths + p_row + o_c
    # Scored by parts, which `order` holds in between: a whole row's noise at once spills registers.
    for i_c in range(0, C, BLOCK_I):
        o_i = i_c + tl.arange(0, BLOCK_I)
        _, b_score, b_key, _ = score_tile(
            votes, theta, shift, scale, ids, lengths, i_row, o_i, seed_state, temperature,
            C, A, HAS_NOISE,
        )  # fmt: skip
        tl.store(scores + p_row + o_i, b_score, mask=o_i < C)
        tl.store(order + p_row + o_i, (b_key >> 32).to(tl.int32), mask=o_i < C)
    tl.debug_barrier()
    b_high = tl.load(order + p_row + o_c, mask=o_c < C, other=ABSENT)
    high = tl.max(tl.where(b_high < ABSENT, b_high, LOWEST), axis=0)
    low, high, weight, has_room = narrow(
        b_high, high, p_length, i_row * 0, max_count, budget_tokens
    )
    low = tl.where(has_room, ABSENT, low)
    b_kept = b_high < low
    b_open = (b_high >= low) & (b_high <= high)
    num_open = tl.sum(b_open.to(tl.int32), axis=0)
    if num_open > 1:  # scores tie
        b_tie = tie_of(ids, p_row, o_c, b_open, seed_state)
        high_tie = tl.max(tl.where(b_open, b_tie, -1), axis=0)
        low_tie, high_tie, weight, has_room = narrow(
            b_tie, high_tie, p_length, weight, max_count, budget_tokens
        )
        b_kept = b_kept | (b_tie < low_tie)
        b_open = b_open & (b_tie >= low_tie) & (b_tie <= high_tie)
        num_open = tl.sum(b_open.to(tl.int32), axis=0)
    misfit = num_open * 0 + C
    while num_open > 0:  # once, but for candidates whose hashes tie too: by id and position
        b_id = tl.load(ids + p_row + o_c, mask=b_open, other=0)
        least = tl.min(tl.where(b_open, b_id, GREATEST), axis=0)
        place = tl.min(tl.where(b_open & (b_id == least), o_c, C), axis=0)
        weight += tl.load(lengths + p_row + place).to(tl.int64) + ONE
        passed = fits(weight, max_count, budget_tokens).to(tl.int32)
        b_kept = b_kept | (tl.where(o_c == place, passed, 0) > 0)
        b_open = b_open & (o_c != place)
        misfit = tl.where(passed > 0, C, place)
        num_open = (num_open - 1) * passed
    num = tl.sum(b_kept.to(tl.int32), axis=0)
    tl.store(order + p_row + tl.cumsum(b_kept.to(tl.int32), axis=0) - 1, o_c, mask=b_kept)
    b_rest = tl.where(o_c == num, tl.where(misfit < C, misfit, -1), -1)
    tl.store(order + p_row + o_c, b_rest, mask=(o_c >= num) & (o_c < C))
    tl.store(num_kept + i_row, num)
