# SPDX-License-Identifier: Apache-2.0
"""The topic agent: the largest of a classifier's heads, inline, or a stored topic number."""

from __future__ import annotations

from collections.abc import Sequence

from .info import AgentInfo


def stored_topic(names: Sequence[str], column: str = "topic") -> AgentInfo:
    """Describe the topic agent that reads the topic's number from a column of integers."""
    return AgentInfo(
        name="topic",
        num_states=len(names),
        state_names=tuple(names),
        kind="stored",
        column=column,
    )


def inline_topic(first_head: int, names: Sequence[str]) -> AgentInfo:
    """Describe the topic agent that takes the largest of len(names) heads from first_head on."""
    return AgentInfo(
        name="topic",
        num_states=len(names),
        state_names=tuple(names),
        kind="argmax",
        first_head=first_head,
    )
