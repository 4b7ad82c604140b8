# SPDX-License-Identifier: Apache-2.0
# Triton types a kernel's arguments at launch.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""document_scores as one fused Triton kernel: a program for each document.

Sums are integers and fp32 steps follow the reference one by one, so the bits are the
reference's; the launch forbids fused multiply-add. Mathematics: docs/ops/document_scores.md.

Legend: T tokens of a block, D columns of a block, H heads, A agents, S states; o_ offsets,
m_ masks, b_ block values.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..hashing_kernel import absorb, finish, start_state
from .tables import AgentTables, DocumentScores, NgramModel, new_scores

MAX_HEADS = 128
"""Heads the kernel serves: all values of a document stay in registers."""


@triton.jit
def bag_columns(
    tokens, table, begin, length, bucket_mask, o_d,
    D: tl.constexpr, ORDERS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sum columns o_d of the rows of a document's n-grams: [BLOCK_D] int64."""
    o_t = tl.arange(0, BLOCK_T)
    b_bag = tl.zeros([BLOCK_T, BLOCK_D], tl.int32)
    for i_t in range(0, length, BLOCK_T):
        b_state = start_state(BLOCK_T)
        for order in tl.static_range(1, 4):
            o_word = i_t + o_t + (order - 1)
            m_t = o_word < length
            b_word = tl.load(tokens + begin + o_word, mask=m_t, other=0)
            b_state = absorb(b_state, b_word.to(tl.uint32))
            if (ORDERS >> order) & 1 == 1:
                o_row = (finish(b_state) & bucket_mask).to(tl.int64) * D
                m_row = m_t[:, None] & (o_d < D)[None, :]
                p_row = table + o_row[:, None] + o_d[None, :]
                b_bag += tl.load(p_row, mask=m_row, other=0).to(tl.int32)
    return tl.sum(b_bag.to(tl.int64), axis=0)


@triton.jit
def pick_state(
    b_value, o_h, kind, first, num_states, stored, p_edges,
    S: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """State of one agent: stored, the number of edges <= a value, or the first largest head."""
    value = tl.sum(tl.where(o_h == first, b_value, 0.0), axis=0)
    o_s = tl.arange(0, BLOCK_S)
    b_edge = tl.load(p_edges + o_s, mask=o_s < S - 1, other=float("inf"))
    above = tl.sum(((o_s < S - 1) & (b_edge <= value)).to(tl.int32), axis=0)
    m_h = (o_h >= first) & (o_h < first + num_states)
    largest = tl.max(tl.where(m_h, b_value, float("-inf")), axis=0)
    best = tl.min(tl.where(m_h & (b_value == largest), o_h - first, num_states - 1), axis=0)
    binned = tl.minimum(above, num_states - 1)
    return tl.where(kind == 0, stored, tl.where(kind == 1, binned, best))


@triton.jit
def document_scores_fwd_kernel(
    tokens, cu_seqlens, table, heads, bias, scale,
    kind, first_head, num_states, edges, memory, theta, stored_states,
    values, states, votes, total,
    bucket_mask, H,
    D: tl.constexpr, A: tl.constexpr, S: tl.constexpr,
    ORDERS: tl.constexpr, HAS_STORED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Score the document of this program; ORDERS has bit k set for n-grams of k tokens."""
    i_n = tl.program_id(0).to(tl.int64)
    begin = tl.load(cu_seqlens + i_n)
    length = (tl.load(cu_seqlens + i_n + 1) - begin).to(tl.int32)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    b_sum = tl.zeros([BLOCK_H], tl.int64)
    for i_d in range(0, D, BLOCK_D):
        o_d = i_d + tl.arange(0, BLOCK_D)
        b_bag = bag_columns(
            tokens, table, begin, length, bucket_mask, o_d, D, ORDERS, BLOCK_T, BLOCK_D
        )
        p_head = heads + o_h.to(tl.int64)[:, None] * D + o_d[None, :]
        b_head = tl.load(p_head, mask=m_h[:, None] & (o_d < D)[None, :], other=0)
        b_sum += tl.sum(b_head.to(tl.int64) * b_bag[None, :], axis=1)

    count = length.to(tl.int64) * 0
    for order in tl.static_range(1, 4):
        if (ORDERS >> order) & 1 == 1:
            count += tl.maximum(length - (order - 1), 0)
    count = tl.maximum(count, 1)
    b_sum += tl.load(bias + o_h, mask=m_h, other=0).to(tl.int64) * count
    b_value = b_sum.to(tl.float32) * tl.load(scale + o_h, mask=m_h, other=0.0)
    b_value = tl.div_rn(b_value, tl.zeros([BLOCK_H], tl.float32) + count.to(tl.float32))
    tl.store(values + i_n * H + o_h, b_value, mask=m_h)

    b_total = 0.0
    for i_a in tl.static_range(A):
        stored = -1
        if HAS_STORED:
            stored = tl.load(stored_states + i_n * A + i_a)
        num = tl.load(num_states + i_a)
        state = pick_state(
            b_value, o_h, tl.load(kind + i_a), tl.load(first_head + i_a), num, stored,
            edges + i_a * (S - 1), S, BLOCK_S,
        )  # fmt: skip
        is_state = (state >= 0) & (state < num)
        vote = tl.load(memory + i_a * S + state, mask=is_state, other=float("nan"))
        tl.store(states + i_n * A + i_a, state)
        tl.store(votes + i_n * A + i_a, vote)
        b_total = b_total + tl.load(theta + i_a) * vote
    tl.store(total + i_n, b_total)


def document_scores_fwd(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
) -> DocumentScores:
    """Launch the kernel; arguments as in document_scores, already checked."""
    if model.num_heads > MAX_HEADS:
        raise ValueError(
            f"the model has {model.num_heads} heads, the kernel serves {MAX_HEADS}; "
            "score on the CPU, or split the heads over two models"
        )
    n, num_heads = len(cu_seqlens) - 1, model.num_heads
    scores = new_scores(tokens, cu_seqlens, num_heads, agents.num_agents)
    if n == 0:
        return scores
    document_scores_fwd_kernel[(n,)](
        tokens, cu_seqlens, model.table, model.heads, model.bias, model.scale,
        agents.kind, agents.first_head, agents.num_states,
        agents.edges, agents.memory, agents.theta,
        agents.kind if stored_states is None else stored_states,
        scores.values, scores.states, scores.votes, scores.total,
        model.table.shape[0] - 1, num_heads,
        HAS_STORED=stored_states is not None,
        enable_fp_fusion=False,
        **launch_shape(model, agents),
    )  # fmt: skip
    return scores


def launch_shape(model: NgramModel, agents: AgentTables) -> dict[str, int]:
    """Constants of the kernel that follow from the tables' shapes (the same on every device)."""
    dim, max_states = model.table.shape[1], agents.memory.shape[1]
    block_heads = max(16, triton.next_power_of_2(model.num_heads))
    return {
        "D": dim,
        "A": agents.num_agents,
        "S": max_states,
        "ORDERS": sum(1 << order for order in model.orders),
        "BLOCK_T": 64,
        "BLOCK_D": min(64, triton.next_power_of_2(dim)),
        "BLOCK_H": block_heads,
        "BLOCK_S": max(2, triton.next_power_of_2(max_states)),
        "num_warps": 8 if block_heads > 32 else 4,
    }
