# SPDX-License-Identifier: Apache-2.0
"""Opening what a loader reads, and the plan by which a state is known to belong to it."""

import hashlib
import json
from typing import Any

from .agents import AgentSet
from .config import LoaderConfig
from .corpus import Corpus, open_corpus
from .order import Order, SlotLayout
from .prefetch import ShardCache, Source
from .shards import fetch_shard
from .storage import open_store


def open_source(url: str, config: LoaderConfig) -> Source:
    """Open a corpus with its order and its shard cache."""
    corpus = open_corpus(url, config.storage_options)
    order = Order(
        corpus.samples_per_shard,
        seed=config.seed,
        window_shards=config.window_shards,
        shuffle=config.shuffle,
    )
    cache = ShardCache(
        corpus.shards,
        lambda info: fetch_shard(corpus.store, info),
        budget_bytes=config.budget_bytes,
        num_threads=config.fetch_threads,
    )
    try:
        return Source(corpus, config.column, order, cache)
    except BaseException:
        cache.close()
        corpus.close()
        raise


def load_agents(url: str, config: LoaderConfig) -> AgentSet | None:
    """Load the agents of a console: those given, or those beside the corpus."""
    if config.console is None:
        return None
    if isinstance(config.agents, AgentSet):
        return config.agents
    where = config.agents or url.rstrip("/").rsplit("/", 1)[0]
    store = open_store(where.removesuffix("/agents.safetensors"), config.storage_options)
    try:
        return AgentSet.load(store)
    finally:
        store.close()


def make_plan(
    config: LoaderConfig, layout: SlotLayout, corpus: Corpus, agents: AgentSet | None
) -> dict[str, Any]:
    """Return what must be equal for a state to mean the same batches."""
    names = ("seed", "shuffle", "window_shards", "batch_rows", "seq_len", "column")
    plan: dict[str, Any] = {name: getattr(config, name) for name in names}
    plan |= {
        "index": _digest([repr(info) for info in corpus.shards]),
        "num_slots": layout.num_slots,
        "lanes": layout.lanes,
        "num_candidates": layout.num_candidates,
        "console": None,
    }
    if config.console is not None and agents is not None:
        plan["console"] = config.console.to_dict()
        plan["num_probes"] = config.num_probes
        model = [getattr(agents.model, name).numpy().tobytes().hex() for name in ("heads", "bias")]
        infos = [agent.to_dict() for agent in agents.agents]
        plan["agents"] = _digest([*model, json.dumps(infos, sort_keys=True)])
    return json.loads(json.dumps(plan))  # as a state that was saved reads


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
