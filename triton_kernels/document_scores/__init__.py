# SPDX-License-Identifier: Apache-2.0
"""document_scores: what the agents think of each document, from its tokens alone.

Native C++ on the CPU, one fused Triton kernel on CUDA, plain torch as the specification; all
give the same bits. Mathematics and cost: docs/ops/document_scores.md.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from ..registry import register
from .reference import document_scores_reference
from .tables import (
    ARGMAX,
    BINNED,
    STORED,
    AgentTables,
    DocumentScores,
    NgramModel,
    check_tensor,
    new_scores,
)

if TYPE_CHECKING:
    from .native import Share

__all__ = ["AgentTables", "DocumentScores", "NgramModel", "document_scores"]

TOKEN_DTYPES = (torch.uint16, torch.int32, torch.int64)
MAX_TOKENS = 1 << 29
"""Tokens a call; the kernel's int32 partial sums cannot overflow below it."""


def document_scores(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None = None,
    *,
    implementation: Implementation = "auto",
    share: "Share | None" = None,
) -> DocumentScores:
    """Score packed documents: n-gram bag, heads, states, votes and their theta-weighted total.

    A document's scores depend on its own tokens only.

    Args:
        tokens: [T] uint16, int32 or int64; the low 32 bits of a token count.
        cu_seqlens: [n+1] int64, not descending, within [0, T]; document i is
            tokens[cu_seqlens[i]:cu_seqlens[i+1]]. It need not start at 0 nor end at T.
        model: The n-gram model, on the device of the tokens.
        agents: The agents' tables, on the device of the tokens.
        stored_states: [n, A] int32; read for agents of kind 0 only, there in [0, num_states).
        implementation: "auto" takes the kernel on CUDA and the native routine on the CPU;
            "triton" on CPU tensors needs TRITON_INTERPRET=1.
        share: How threads of the caller's share the native routine's work: called once, with a
            function that scores the documents [first, last) without the GIL, in the thread that
            calls it. It returns when every document has been scored, once each. None, and every
            other implementation: one call.

    Returns:
        DocumentScores of new tensors; votes[i, a] = memory[a, states[i, a]].

    Raises:
        ValueError: A shape, dtype, device or (on the CPU) content that does not fit. On CUDA
            contents are not looked at; there a stored state out of range makes the vote NaN.

    Source: docs/ops/document_scores.md.
    """
    _check(tokens, cu_seqlens, model, agents, stored_states)
    name = choose(implementation, tokens.device)
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_contents(tokens, cu_seqlens, model, agents, stored_states)
        if name == "native":  # the op would take the tables apart and check them again
            from .native import document_scores_native

            return document_scores_native(
                tokens, cu_seqlens, model, agents, stored_states, share
            )
    return DocumentScores(
        *_OP(
            tokens, cu_seqlens,
            model.table, model.heads, model.bias, model.scale, model.orders,
            agents.kind, agents.first_head, agents.num_states,
            agents.edges, agents.memory, agents.theta,
            stored_states, implementation,
        )
    )  # fmt: skip


def _run(*values: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score by the implementation that is named last; the registered op's flat arguments."""
    tokens, cu_seqlens, table, heads, bias, scale, orders, *rest = values
    model = NgramModel(table, heads, bias, scale, tuple(orders))
    agents, stored_states = AgentTables(*rest[:6]), rest[6]
    name = choose(rest[7], tokens.device)
    if name == "reference":
        run = document_scores_reference
    elif name == "native":
        from .native import document_scores_native as run
    else:
        from .kernel import document_scores_fwd as run
    scores = run(tokens, cu_seqlens, model, agents, stored_states)
    return scores.values, scores.states, scores.votes, scores.total


def _fake(*values: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Empty results."""
    tokens, cu_seqlens, heads, memory = values[0], values[1], values[3], values[11]
    scores = new_scores(tokens, cu_seqlens, len(heads), len(memory))
    return scores.values, scores.states, scores.votes, scores.total


_OP = register(
    "document_scores(Tensor tokens, Tensor cu_seqlens, Tensor table, Tensor heads, Tensor bias, "
    "Tensor scale, int[] orders, Tensor kind, Tensor first_head, Tensor num_states, Tensor edges, "
    "Tensor memory, Tensor theta, Tensor? stored_states, str implementation) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _check(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
) -> None:
    """Raise ValueError for shapes, dtypes and devices that do not fit."""
    if not isinstance(tokens, Tensor) or tokens.dtype not in TOKEN_DTYPES:
        have = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens are {have}; they must be a uint16, int32 or int64 tensor")
    check_tensor("tokens", tokens, tokens.dtype, (None,))
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"{len(tokens)} tokens in one call; pass at most {MAX_TOKENS} at a time")
    check_tensor("cu_seqlens", cu_seqlens, torch.int64, (None,))
    if len(cu_seqlens) < 1:
        raise ValueError("cu_seqlens is empty; it has one entry more than there are documents")
    given = {"cu_seqlens": cu_seqlens, "model": model.table, "agents": agents.memory}
    if stored_states is not None:
        shape = (len(cu_seqlens) - 1, agents.num_agents)
        check_tensor("stored_states", stored_states, torch.int32, shape)
        given["stored_states"] = stored_states
    for name, tensor in given.items():
        if tensor.device != tokens.device:
            raise ValueError(
                f"{name} lies on {tensor.device}, tokens on {tokens.device}; move them to one"
            )


def _check_contents(
    tokens: Tensor,
    cu_seqlens: Tensor,
    model: NgramModel,
    agents: AgentTables,
    stored_states: Tensor | None,
) -> None:
    """Raise ValueError for offsets, heads or states out of range; looks at the data."""
    descends = bool((cu_seqlens[1:] < cu_seqlens[:-1]).any())
    if descends or cu_seqlens[0] < 0 or cu_seqlens[-1] > len(tokens):
        raise ValueError(
            f"cu_seqlens must not descend and must lie within [0, {len(tokens)}], the tokens; "
            f"it runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}"
        )
    settings = (agents.kind.tolist(), agents.first_head.tolist(), agents.num_states.tolist())
    for agent, (kind, head, num_states) in enumerate(zip(*settings, strict=True)):
        needed = {STORED: 0, BINNED: 1, ARGMAX: num_states}[kind]
        if needed and not 0 <= head <= model.num_heads - needed:
            raise ValueError(
                f"agent {agent} reads heads [{head}, {head + needed}); "
                f"the model has {model.num_heads}"
            )
        if kind == STORED:
            _check_stored(stored_states, agent, num_states)


def _check_stored(stored_states: Tensor | None, agent: int, num_states: int) -> None:
    """Raise ValueError unless the agent's stored states are there and in range."""
    if stored_states is None:
        raise ValueError(f"agent {agent} reads stored states; pass stored_states int32 [n, A]")
    column = stored_states[:, agent]
    wrong = ((column < 0) | (column >= num_states)).nonzero()
    if len(wrong):
        document = int(wrong[0])
        raise ValueError(
            f"stored_states[{document}, {agent}] is {int(column[document])}; "
            f"agent {agent} has states [0, {num_states}): label the corpus again"
        )
