# SPDX-License-Identifier: Apache-2.0
"""The Python face of the native document_scores: allocate, hand over views, call once a part."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from .. import _native
from .tables import AgentTables, DocumentScores, NgramModel, new_scores

Run: TypeAlias = Callable[[int, int], None]
Share: TypeAlias = Callable[[Run], None]


def document_scores_native(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
    share: Share | None = None,
) -> DocumentScores:
    """Score documents on the CPU; arguments as in document_scores, already checked."""
    scores = new_scores(tokens, cu_seqlens, model.num_heads, agents.num_agents)
    views = (
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
    )

    def run(first: int, last: int) -> None:
        _native.document_scores(*views, first, last)

    if share is None:
        run(0, len(cu_seqlens) - 1)
    else:
        share(run)
    return scores
