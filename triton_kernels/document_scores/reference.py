# SPDX-License-Identifier: Apache-2.0
"""document_scores in plain torch: the specification that kernel and native routine reproduce.

An n-gram of order k starts at every token that has k - 1 followers in its document. Its bucket
is the hash of its tokens, first to last, modulo the number of buckets. Sums are exact integers;
each fp32 step that follows is one correctly rounded operation in the order written here.
"""

import torch
from torch import Tensor

from ..hashing import HASH_START, absorb, finish
from .tables import ARGMAX, BINNED, AgentTables, DocumentScores, NgramModel


def document_scores_reference(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
) -> DocumentScores:
    """Score documents; arguments as in document_scores, already checked."""
    bag, count = ngram_bag(tokens, cu_seqlens, model)
    values = head_values(bag, count, model)
    states = agent_states(values, agents, stored_states)
    votes, total = weigh(states, agents)
    return DocumentScores(values=values, states=states, votes=votes, total=total)


def ngram_bag(tokens: Tensor, cu_seqlens: Tensor, model: NgramModel) -> tuple[Tensor, Tensor]:
    """Sum the table rows of each document's n-grams.

    Returns:
        bag [n, D] int64 and count [n] int64, the number of n-grams.
    """
    lengths = cu_seqlens.diff()
    document = torch.repeat_interleave(lengths)
    words = tokens[cu_seqlens[0] : cu_seqlens[-1]].to(torch.int64)
    followers = cu_seqlens[1:][document] - cu_seqlens[0] - torch.arange(1, len(words) + 1).to(words)
    bag = torch.zeros(len(lengths), model.table.shape[1], dtype=torch.int64, device=words.device)
    count = torch.zeros_like(lengths)
    state = torch.full_like(words, HASH_START)
    for order in range(1, max(model.orders) + 1):
        state = absorb(state, words.roll(1 - order))
        if order not in model.orders:
            continue
        start = followers >= order - 1
        bucket = finish(state[start]) & (model.table.shape[0] - 1)
        bag.index_add_(0, document[start], model.table[bucket].to(torch.int64))
        count += (lengths - order + 1).clamp(min=0)
    return bag, count


def head_values(bag: Tensor, count: Tensor, model: NgramModel) -> Tensor:
    """Take bags to the heads' values [n, H] float32; a document without n-grams gets the bias."""
    weighed = count.clamp(min=1)
    product = (bag[:, None, :] * model.heads.to(torch.int64)).sum(-1)
    total = product + weighed[:, None] * model.bias.to(torch.int64)
    return total.to(torch.float32) * model.scale / weighed[:, None].to(torch.float32)


def agent_states(values: Tensor, agents: AgentTables, stored_states: Tensor | None) -> Tensor:
    """Label each document once for each agent: [n, A] int32."""
    columns = []
    settings = (agents.kind.tolist(), agents.first_head.tolist(), agents.num_states.tolist())
    for agent, (kind, head, num_states) in enumerate(zip(*settings, strict=True)):
        if kind == BINNED:
            above = values[:, head, None] >= agents.edges[agent]
            state = above.sum(-1).clamp(max=num_states - 1)
        elif kind == ARGMAX:
            state = first_argmax(values[:, head : head + num_states])
        else:
            assert stored_states is not None
            state = stored_states[:, agent]
        columns.append(state.to(torch.int32))
    shape = (len(values), agents.num_agents)
    return torch.stack(columns, 1) if columns else values.new_empty(shape, dtype=torch.int32)


def first_argmax(values: Tensor) -> Tensor:
    """Position of the largest value in each row, the first one on a tie: [n] int64."""
    best, position = values[:, 0], torch.zeros_like(values[:, 0], dtype=torch.int64)
    for column in range(1, values.shape[1]):
        better = values[:, column] > best
        best = torch.where(better, values[:, column], best)
        position = torch.where(better, column, position)
    return position


def weigh(states: Tensor, agents: AgentTables) -> tuple[Tensor, Tensor]:
    """Look up votes [n, A] and sum theta * vote over agents, left to right from 0.0: [n]."""
    votes = agents.memory.gather(1, states.t().to(torch.int64)).t().contiguous()
    total = votes.new_zeros(len(votes))
    for agent in range(agents.num_agents):
        total = total + agents.theta[agent] * votes[:, agent]
    return votes, total
