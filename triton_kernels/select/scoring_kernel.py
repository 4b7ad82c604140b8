# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""Scores and sort keys of candidates as Triton functions; reference.py is the specification.

A key is an int64 that ascends in order of preference: the score, turned into an integer that falls
as it rises, above the hash. Absent candidates have the greatest key of all and count as id 0, so
that among them the position decides; those over their group's quota lie right below.

Legend: C candidates of a row; o_ offsets, m_ masks, b_ values.
"""

import triton
import triton.language as tl

from ..hashing_kernel import absorb, finish

ABSENT = tl.constexpr(0x7FFFFFFF)
"""High half of an absent candidate's key; the worst score, -inf, has 0x7F800000."""
OVER_QUOTA = tl.constexpr(0x7FFFFFFE)
ABSENT_KEY = tl.constexpr(0x7FFFFFFF << 32)
OVER_QUOTA_KEY = tl.constexpr(0x7FFFFFFE << 32)


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
def hash_id(b_id, seed_state):
    """Hash of ids under the seed whose state is given: uint32."""
    b_state = tl.zeros_like(b_id).to(tl.uint32) + seed_state.to(tl.uint32, bitcast=True)
    return finish(absorb(absorb(b_state, b_id.to(tl.uint32)), (b_id >> 32).to(tl.uint32)))


@triton.jit
def make_key(b_score, b_tie, is_present):
    """Sort key; 0.0 equals -0.0, a NaN is the worst score."""
    b_score = tl.where(b_score == b_score, b_score, float("-inf"))
    bits = tl.where(b_score == 0.0, 0.0, b_score).to(tl.int32, bitcast=True)
    falling = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) ^ -1
    b_high = tl.where(is_present, falling, ABSENT).to(tl.int64)
    return (b_high << 32) | tl.where(is_present, b_tie, 0).to(tl.int64)


@triton.jit
def score_tile(
    votes, theta, shift, scale, ids, lengths, i_row, o_c, seed_state, temperature,
    C, A: tl.constexpr, HAS_NOISE: tl.constexpr,
):  # fmt: skip
    """Score candidates o_c of a row; returns length, score, key and id, blank where absent."""
    m_c = o_c < C
    o_place = i_row * C + o_c
    b_length = tl.load(lengths + o_place, mask=m_c, other=-1)
    b_id = tl.load(ids + o_place, mask=m_c, other=0)
    b_score = tl.zeros_like(b_length).to(tl.float32)
    for i_a in tl.static_range(A):
        b_vote = tl.load(votes + o_place * A + i_a, mask=m_c, other=0.0)
        b_vote = (b_vote - tl.load(shift + i_a)) * tl.load(scale + i_a)
        b_score = b_score + tl.load(theta + i_a) * b_vote
    b_tie = hash_id(b_id, seed_state)
    if HAS_NOISE:
        b_score = b_score + temperature * gumbel(b_tie)
    is_present = b_length >= 0
    b_score = tl.where(is_present, b_score, float("-inf"))
    b_key = make_key(b_score, b_tie, is_present)
    return b_length, b_score, b_key, tl.where(is_present, b_id, 0)


@triton.jit
def is_before(a_key, a_id, a_place, b_key, b_id, b_place):
    """Whether a candidate comes before another."""
    before = (a_id < b_id) | ((a_id == b_id) & (a_place < b_place))
    return (a_key < b_key) | ((a_key == b_key) & before)
