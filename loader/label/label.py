# SPDX-License-Identifier: Apache-2.0
"""`moot label`: what the fitted agents say of every document, stored beside the shards.

A document is labelled whole, where inline labels are made of each piece of it. States are binned as
they are inline: `document_scores` makes both. Source: docs/console.md, "Stored labels".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from ...triton_kernels import document_scores
from ..agents import AgentSet
from ..corpus import LabelPlan, open_corpus, write_labels
from ..shards import Shard, gather

TOKENS = "tokens"

Progress = Callable[[int, int], None]


def label_corpus(
    url: str,
    agents: AgentSet,
    *,
    num_threads: int = 4,
    progress: Progress | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Store the agents' states, lengths and hashes of every document in labels.parquet.

    Args:
        url: The shards; they are all read, and verified.
        agents: Their names are the label columns.
        num_threads: Shards labelled at a time.
        progress: Called with the shards done and their number.
        options: As for `open_store`.

    Raises:
        AgentError: A stored agent's column is missing or holds no states.
        ConfigError, StorageError, ShardError: The shards cannot be read, or labels not be written.
    """
    plan = LabelPlan(
        label=lambda shard: label_shard(shard, agents),
        states={agent.name: agent.state_names for agent in agents.agents},
    )
    corpus = open_corpus(url, options)
    try:
        write_labels(corpus, plan, num_threads=num_threads, progress=progress)
    finally:
        corpus.close()


def label_shard(shard: Shard, agents: AgentSet) -> dict[str, np.ndarray]:
    """Return each agent's states of a shard's documents: uint8 or uint16 [samples]."""
    num = shard.num_samples
    lengths = shard.lengths(TOKENS).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.empty(int(start[-1]), np.int64)
    rows, zeros = np.arange(num, dtype=np.int32), np.zeros(num, np.int64)
    gather([shard], TOKENS, np.zeros(num, np.int32), rows, zeros, lengths, tokens)
    stored = {name: shard.scalars(name) for name in agents.columns}
    memory = np.zeros((len(agents.agents), agents.num_states_max), np.float32)
    scores = document_scores(
        torch.from_numpy(tokens),
        torch.from_numpy(start),
        agents.model,
        agents.tables(memory, np.zeros(len(agents.agents))),
        torch.from_numpy(agents.stored_states(stored, num)),
    )
    states = scores.states.numpy()
    return {
        agent.name: states[:, place].astype(np.uint8 if agent.num_states <= 256 else np.uint16)
        for place, agent in enumerate(agents.agents)
    }
