# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""select as one fused Triton kernel: a program for each tile of a row's candidates.

A candidate's rank is the number of candidates before it, counted tile by tile: O(C**2) a row
with no sort and no pass between. Counts are integers and fp32 steps follow the reference one by
one, so the bits are the reference's; the launch forbids fused multiply-add.

Legend: C candidates of a row, I and J candidates of a tile; o_ offsets, m_ masks, b_ values.
"""

import torch
import triton
import triton.language as tl

from ..hashing import seed_state
from ..hashing_kernel import absorb, finish
from .candidates import Candidates, Rule, Selection

BLOCK_I, BLOCK_J, NUM_WARPS = 64, 16, 4


@triton.jit
def log_fp32(x):
    """Natural logarithm of positive normal float32, step by step as in reference.py."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    mantissa = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    power = exponent.to(tl.float32)
    s = tl.div_rn(mantissa - 1.0, mantissa + 1.0)
    square = s * s
    series = square * (1.0 / 9.0) + (1.0 / 7.0)
    series = square * series + (1.0 / 5.0)
    series = square * (square * series + (1.0 / 3.0))
    twice = s + s
    return power * 0.693359375 + (power * -0.00021219444 + (twice * series + twice))


@triton.jit
def gumbel(tie):
    """Standard Gumbel noise of a hash."""
    bits = (finish(tie + 0x2545F491) >> 9).to(tl.int32)
    uniform = (bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -log_fp32(-log_fp32(uniform))


@triton.jit
def score_tile(
    votes, theta, shift, scale, ids, lengths, i_row, o_c, seed_state, temperature,
    C, A: tl.constexpr, HAS_NOISE: tl.constexpr,
):  # fmt: skip
    """Score candidates o_c of a row; returns length, score, tie and id, blank where absent."""
    m_c = o_c < C
    o_place = i_row * C + o_c
    b_length = tl.load(lengths + o_place, mask=m_c, other=-1)
    b_id = tl.load(ids + o_place, mask=m_c, other=0)
    b_score = tl.zeros_like(b_length).to(tl.float32)
    for i_a in tl.static_range(A):
        b_vote = tl.load(votes + o_place * A + i_a, mask=m_c, other=0.0)
        b_vote = (b_vote - tl.load(shift + i_a)) * tl.load(scale + i_a)
        b_score = b_score + tl.load(theta + i_a) * b_vote
    b_state = tl.zeros_like(b_length).to(tl.uint32) + seed_state.to(tl.uint32, bitcast=True)
    b_tie = finish(absorb(absorb(b_state, b_id.to(tl.uint32)), (b_id >> 32).to(tl.uint32)))
    if HAS_NOISE:
        b_score = b_score + temperature * gumbel(b_tie)
    is_present = b_length >= 0
    b_score = tl.where(is_present, b_score, float("-inf"))
    return b_length, b_score, tl.where(is_present, b_tie, 0), tl.where(is_present, b_id, 0)


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
    i_length, i_score, i_tie, i_id = score_tile(
        votes, theta, shift, scale, ids, lengths, i_row, o_i, seed_state, temperature,
        C, A, HAS_NOISE,
    )  # fmt: skip
    tl.store(scores + i_row * C + o_i, i_score, mask=m_i)
    # A NaN would give several candidates one rank and leave entries of order unwritten.
    i_key = tl.where(i_score == i_score, i_score, float("-inf"))[:, None]
    i_absent = (i_length < 0).to(tl.int32)
    b_rank = tl.zeros([BLOCK_I], tl.int32)
    b_tokens = i_length.to(tl.int64)
    for i_j in range(0, C, BLOCK_J):
        o_j = i_j + tl.arange(0, BLOCK_J)
        j_length, j_score, j_tie, j_id = score_tile(
            votes, theta, shift, scale, ids, lengths, i_row, o_j, seed_state, temperature,
            C, A, HAS_NOISE,
        )  # fmt: skip
        j_key = tl.where(j_score == j_score, j_score, float("-inf"))[None, :]
        j_absent = (j_length < 0).to(tl.int32)
        before = o_j[None, :] < o_i[:, None]
        same_id = j_id[None, :] == i_id[:, None]
        before = (j_id[None, :] < i_id[:, None]) | (same_id & before)
        same_tie = j_tie[None, :] == i_tie[:, None]
        before = (j_tie[None, :] < i_tie[:, None]) | (same_tie & before)
        before = (j_key > i_key) | ((j_key == i_key) & before)
        same_kind = j_absent[None, :] == i_absent[:, None]
        before = (j_absent[None, :] < i_absent[:, None]) | (same_kind & before)
        before = before & (o_j < C)[None, :]
        b_rank += tl.sum(before.to(tl.int32), axis=1)
        b_add = tl.where(before & (j_absent == 0)[None, :], j_length[None, :], 0)
        b_tokens += tl.sum(b_add.to(tl.int64), axis=1)
    tl.store(order + i_row * C + b_rank, o_i, mask=m_i)
    is_kept = m_i & (i_absent == 0) & (b_rank < max_count) & (b_tokens <= budget_tokens)
    tl.atomic_add(num_kept + i_row, tl.sum(is_kept.to(tl.int32), axis=0), sem="relaxed")


def select_fwd(candidates: Candidates, rule: Rule) -> Selection:
    """Launch the kernel; arguments as in select, already checked."""
    num_rows, num_candidates, num_agents = candidates.votes.shape
    device = candidates.votes.device
    selection = Selection(
        order=torch.empty(num_rows, num_candidates, dtype=torch.int32, device=device),
        num_kept=torch.zeros(num_rows, dtype=torch.int32, device=device),
        scores=torch.empty(num_rows, num_candidates, dtype=torch.float32, device=device),
    )
    if num_rows == 0 or num_candidates == 0:
        return selection
    select_fwd_kernel[(num_rows, triton.cdiv(num_candidates, BLOCK_I))](
        candidates.votes, candidates.theta, candidates.shift, candidates.scale,
        candidates.ids, candidates.lengths,
        selection.order, selection.num_kept, selection.scores,
        signed_state(rule.seed), rule.temperature,
        min(rule.max_count, num_candidates), rule.budget_tokens, num_candidates,
        A=num_agents, HAS_NOISE=rule.temperature != 0.0,
        BLOCK_I=BLOCK_I, BLOCK_J=BLOCK_J, num_warps=NUM_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return selection


def signed_state(seed: int) -> int:
    """State of the hash after the seed as a signed 32-bit number: always one argument type."""
    state = seed_state(seed)
    return state - (1 << 32) if state >= 1 << 31 else state
