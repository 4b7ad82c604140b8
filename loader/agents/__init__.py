# SPDX-License-Identifier: Apache-2.0
"""Agents: who labels a document, with which states, and how a memory over states moves.

One file an agent (quality, domain, topic); `info` is what they have in common, `agent_set` the set
that belongs to a corpus, `memory` the two ways of remembering rewards by state.
"""

from .agent_set import AgentSet
from .domain import stored_domain
from .info import AgentInfo, bin_scores
from .memory import DiscountedMean, MovingAverage, StateMeans, state_means
from .quality import QUALITY_EDGES, inline_quality, quality_states, stored_quality
from .topic import inline_topic, stored_topic

__all__ = [
    "QUALITY_EDGES",
    "AgentInfo",
    "AgentSet",
    "DiscountedMean",
    "MovingAverage",
    "StateMeans",
    "bin_scores",
    "inline_quality",
    "inline_topic",
    "quality_states",
    "state_means",
    "stored_domain",
    "stored_quality",
    "stored_topic",
]
