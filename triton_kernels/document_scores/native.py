# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native document_scores: allocate, hand over views, call once."""

from torch import Tensor

from .. import _native
from .tables import AgentTables, DocumentScores, NgramModel, new_scores


def document_scores_native(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
) -> DocumentScores:
    """Score documents on the CPU; arguments as in document_scores, already checked."""
    scores = new_scores(tokens, cu_seqlens, model.num_heads, agents.num_agents)
    _native.document_scores(
        tokens.numpy(),
        cu_seqlens.numpy(),
        _native.NgramModel(
            model.table.numpy(),
            model.heads.numpy(),
            model.bias.numpy(),
            model.scale.numpy(),
            sum(1 << order for order in model.orders),
        ),
        _native.AgentTables(
            agents.kind.numpy(),
            agents.first_head.numpy(),
            agents.num_states.numpy(),
            agents.edges.numpy(),
            agents.memory.numpy(),
            agents.theta.numpy(),
        ),
        None if stored_states is None else stored_states.numpy(),
        _native.ScoreOutput(
            scores.values.numpy(), scores.states.numpy(), scores.votes.numpy(), scores.total.numpy()
        ),
        0,
        len(cu_seqlens) - 1,
    )
    return scores
