# SPDX-License-Identifier: Apache-2.0
"""The domain agent: one state a source of the corpus, read from a stored column."""

from __future__ import annotations

from collections.abc import Sequence

from .info import AgentInfo


def stored_domain(names: Sequence[str], column: str = "domain") -> AgentInfo:
    """Describe the domain agent.

    Args:
        names: Domains in the order of their numbers in the column.
        column: Column of unsigned integers, one a document.
    """
    return AgentInfo(
        name="domain",
        num_states=len(names),
        state_names=tuple(names),
        kind="stored",
        column=column,
    )
