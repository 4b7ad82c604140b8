# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""The order of a row of any length in two levels: tiles are sorted, then a rank is summed.

A candidate's rank in its row is the number of candidates before it in each tile, found by halving.
With BY_GROUP the same steps rank candidates within their group and mark those over its quota.

Legend: C candidates of a row, I and J candidates of a tile, G groups; t_ a tile's candidates in
order, o_ offsets, m_ masks, b_ values.
"""

import triton
import triton.language as tl

from .scoring_kernel import ABSENT, ABSENT_KEY, OVER_QUOTA, OVER_QUOTA_KEY, is_before, score_tile


@triton.jit(do_not_specialize=["seed_state"])
def select_score_kernel(
    votes, theta, shift, scale, ids, lengths, keys, scores, seed_state, temperature, C,
    A: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Score candidates [i*BLOCK_C, (i+1)*BLOCK_C) of a row."""
    i_row = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    _, b_score, b_key, _ = score_tile(
        votes, theta, shift, scale, ids, lengths, i_row, o_c, seed_state, temperature,
        C, A, HAS_NOISE,
    )  # fmt: skip
    tl.store(scores + i_row * C + o_c, b_score, mask=o_c < C)
    tl.store(keys + i_row * C + o_c, b_key, mask=o_c < C)


@triton.jit
def load_candidates(keys, ids, lengths, groups, o_place, m_c, BY_GROUP: tl.constexpr):
    """Key, id, tokens that count, and group of candidates; the last of all where masked."""
    b_key = tl.load(keys + o_place, mask=m_c, other=ABSENT_KEY)
    b_high = (b_key >> 32).to(tl.int32)
    b_id = tl.load(ids + o_place, mask=m_c, other=0)
    b_tokens = tl.load(lengths + o_place, mask=m_c & (b_high < OVER_QUOTA), other=0)
    b_group = tl.zeros_like(b_high)
    if BY_GROUP:
        b_group = tl.load(groups + o_place, mask=m_c, other=0x7FFFFFFF)
    return b_key, tl.where(b_high == ABSENT, 0, b_id), b_tokens, b_group


@triton.jit
def select_tile_kernel(
    keys, ids, lengths, groups, t_key, t_id, t_place, t_tokens, t_group, C,
    BY_GROUP: tl.constexpr, TILE: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """Put candidates [i*BLOCK_I, (i+1)*BLOCK_I) of a row where they belong in their tile."""
    i_row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK_I
    first = start // TILE * TILE
    stop = tl.minimum(first + TILE, C)
    o_i = start + tl.arange(0, BLOCK_I)
    m_i = o_i < C
    i_key, i_id, i_tokens, i_group = load_candidates(
        keys, ids, lengths, groups, i_row * C + o_i, m_i, BY_GROUP
    )
    b_rank = tl.zeros([BLOCK_I], tl.int32)
    b_tokens = i_tokens.to(tl.int64)
    for i_j in range(first, stop, BLOCK_J):
        o_j = i_j + tl.arange(0, BLOCK_J)
        j_key, j_id, j_tokens, j_group = load_candidates(
            keys, ids, lengths, groups, i_row * C + o_j, o_j < stop, BY_GROUP
        )
        before = is_before(
            j_key[None, :], j_id[None, :], o_j[None, :], i_key[:, None], i_id[:, None], o_i[:, None]
        )
        if BY_GROUP:
            same = j_group[None, :] == i_group[:, None]
            before = (j_group[None, :] < i_group[:, None]) | (same & before)
        b_rank += tl.sum(before.to(tl.int32), axis=1)
        b_tokens += tl.sum(tl.where(before, j_tokens[None, :], 0).to(tl.int64), axis=1)
    o_out = i_row * C + first + b_rank
    tl.store(t_key + o_out, i_key, mask=m_i)
    tl.store(t_id + o_out, i_id, mask=m_i)
    tl.store(t_place + o_out, o_i, mask=m_i)
    tl.store(t_tokens + o_out, b_tokens, mask=m_i)
    if BY_GROUP:
        tl.store(t_group + o_out, i_group, mask=m_i)


@triton.jit
def count_before(
    p_tile, size, t_key, t_id, t_place, t_group, i_key, i_id, i_place, i_group, m_i,
    BY_GROUP: tl.constexpr, IS_START: tl.constexpr, LOG_TILE: tl.constexpr,
):  # fmt: skip
    """Count the candidates of a tile before each of ours, or, IS_START, before its whole group."""
    low = i_place * 0
    for step in tl.static_range(LOG_TILE + 1):
        half = 1 << (LOG_TILE - step)
        o_probe = low + (half - 1)
        m_probe = m_i & (o_probe < size)
        p_probe = p_tile + o_probe
        before = o_probe < 0  # no candidate is before its group's start
        if not IS_START:
            b_key = tl.load(t_key + p_probe, mask=m_probe, other=0)
            m_tie = m_probe & (b_key == i_key)
            b_id = tl.load(t_id + p_probe, mask=m_tie, other=0)
            b_place = tl.load(t_place + p_probe, mask=m_tie, other=0)
            before = is_before(b_key, b_id, b_place, i_key, i_id, i_place)
        if BY_GROUP:
            b_group = tl.load(t_group + p_probe, mask=m_probe, other=0)
            before = (b_group < i_group) | ((b_group == i_group) & before)
        low += tl.where(m_probe & before, half, 0)
    return low


@triton.jit
def tokens_up_to(t_tokens, p_tile, num, m_i):
    """Tokens of a tile's first `num` candidates."""
    return tl.load(t_tokens + p_tile + num - 1, mask=m_i & (num > 0), other=0)


@triton.jit
def rank_in_row(
    t_key, t_id, t_place, t_tokens, t_group, i_row, o_i, C,
    BY_GROUP: tl.constexpr, TILE: tl.constexpr, LOG_TILE: tl.constexpr,
):  # fmt: skip
    """Rank and tokens before each sorted candidate o_i, in its row or in its group."""
    m_i = o_i < C
    p_i = i_row * C + o_i
    i_key = tl.load(t_key + p_i, mask=m_i, other=0)
    i_id = tl.load(t_id + p_i, mask=m_i, other=0)
    i_place = tl.load(t_place + p_i, mask=m_i, other=0)
    i_group = tl.zeros_like(i_place)
    if BY_GROUP:
        i_group = tl.load(t_group + p_i, mask=m_i, other=0)
    b_rank = tl.zeros_like(i_place)
    b_tokens = tl.zeros_like(i_key)
    for first in range(0, C, TILE):
        p_tile = i_row * C + first
        num = count_before(
            p_tile, tl.minimum(C - first, TILE),
            t_key, t_id, t_place, t_group, i_key, i_id, i_place, i_group, m_i,
            BY_GROUP, False, LOG_TILE,
        )  # fmt: skip
        b_rank += num
        b_tokens += tokens_up_to(t_tokens, p_tile, num, m_i)
        if BY_GROUP:
            num = count_before(
                p_tile, tl.minimum(C - first, TILE),
                t_key, t_id, t_place, t_group, i_key, i_id, i_place, i_group, m_i,
                BY_GROUP, True, LOG_TILE,
            )  # fmt: skip
            b_rank -= num
            b_tokens -= tokens_up_to(t_tokens, p_tile, num, m_i)
    return i_key, i_place, i_group, b_rank, b_tokens


@triton.jit
def select_quota_kernel(
    keys, lengths, t_key, t_id, t_place, t_tokens, t_group, group_count, group_tokens, C, G,
    TILE: tl.constexpr, LOG_TILE: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Give a new key to each candidate that is over its group's quota."""
    i_row = tl.program_id(0).to(tl.int64)
    o_i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    i_key, i_place, i_group, b_rank, b_tokens = rank_in_row(
        t_key, t_id, t_place, t_tokens, t_group, i_row, o_i, C, True, TILE, LOG_TILE
    )
    m_i = (o_i < C) & ((i_key >> 32) < OVER_QUOTA) & (i_group >= 0) & (i_group < G)
    b_tokens += tl.load(lengths + i_row * C + i_place, mask=m_i, other=0)
    p_limit = i_row * G + i_group
    is_over = b_rank >= tl.load(group_count + p_limit, mask=m_i, other=0)
    is_over = is_over | (b_tokens > tl.load(group_tokens + p_limit, mask=m_i, other=0))
    b_key = OVER_QUOTA_KEY | (i_key & 0xFFFFFFFF)
    tl.store(keys + i_row * C + i_place, b_key, mask=m_i & is_over)


@triton.jit(do_not_specialize=["max_count", "budget_tokens"])
def select_merge_kernel(
    lengths, t_key, t_id, t_place, t_tokens, order, num_kept, is_kept,
    max_count, budget_tokens, C,
    TILE: tl.constexpr, LOG_TILE: tl.constexpr, BLOCK_I: tl.constexpr, IS_FULL: tl.constexpr,
):  # fmt: skip
    """Write the order of a row, and which candidates are kept; num_kept starts at 0."""
    i_row = tl.program_id(0).to(tl.int64)
    o_i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    m_i = o_i < C
    i_key, i_place, _, b_rank, b_tokens = rank_in_row(
        t_key, t_id, t_place, t_tokens, t_place, i_row, o_i, C, False, TILE, LOG_TILE
    )
    p_place = i_row * C + i_place
    is_open = m_i & ((i_key >> 32) < OVER_QUOTA)
    b_tokens += tl.load(lengths + p_place, mask=is_open, other=0)
    b_kept = is_open & (b_rank < max_count) & (b_tokens <= budget_tokens)
    tl.store(order + i_row * C + b_rank, i_place, mask=m_i)
    tl.atomic_add(num_kept + i_row, tl.sum(b_kept.to(tl.int32), axis=0), sem="relaxed")
    if not IS_FULL:
        tl.store(is_kept + p_place, b_kept.to(tl.int8), mask=m_i)


@triton.jit
def select_compact_kernel(
    keys, full_order, is_kept, num_kept, order, C, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Name the kept candidates of a row: positions ascending, the first misfit, then -1."""
    i_row = tl.program_id(0).to(tl.int64)
    num = tl.load(num_kept + i_row)
    misfit = tl.load(full_order + i_row * C + num, mask=num < C, other=0)
    b_high = tl.load(keys + i_row * C + misfit) >> 32
    misfit = tl.where((num < C) & (b_high < OVER_QUOTA), misfit, -1)
    before = num * 0
    for first in range(0, C, BLOCK_C):
        o_c = first + tl.arange(0, BLOCK_C)
        b_kept = tl.load(is_kept + i_row * C + o_c, mask=o_c < C, other=0).to(tl.int32)
        o_out = before + tl.cumsum(b_kept, axis=0) - 1
        tl.store(order + i_row * C + o_out, o_c, mask=b_kept > 0)
        before += tl.sum(b_kept, axis=0)
        b_rest = tl.where(o_c == num, misfit, -1)
        tl.store(order + i_row * C + o_c, b_rest, mask=(o_c >= num) & (o_c < C))
