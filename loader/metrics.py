# SPDX-License-Identifier: Apache-2.0
"""What a loader did since it was last asked, as one flat dict of scalars.

Names are slash-grouped with the unit in brackets. Two questions must be answered at a glance: is
data the bottleneck (`data/wait(%)`), and what is being selected (`select/`, `agent/` and, for
stored labels, `mix/`: the share of kept tokens). Every queue and stage has its depth, its wait and
its counts: `data/` the batches, `cache/` the shards in memory, `io/` the store.
"""

import time
from collections import deque

import numpy as np

from .agents import AgentSet
from .prefetch import Source
from .steps import Step

_SCORES_KEPT = 64  # batches whose scores make the percentiles
_WAITS_KEPT = 1024  # batches whose waits make the percentile
_NOW = ("in_flight", "fill")  # counters of the cache that say how things stand


class Meter:
    """Counts what is delivered; `read` returns rates since the last read."""

    def __init__(self, source: Source, agents: AgentSet | None) -> None:
        self._source = source
        self._agents = agents.agents if agents is not None else ()
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._batches = self._tokens = self._pieces = self._offered_tokens = self._room = 0
        self._wait_s = self._select_s = 0.0
        self._waits: deque[float] = deque(maxlen=_WAITS_KEPT)
        self._scores: deque[np.ndarray] = deque(maxlen=_SCORES_KEPT)
        self._mix = [np.zeros(agent.num_states) for agent in self._agents]
        self._cache = self._source.cache.counters()
        self._store = self._source.corpus.stores.counters()
        self._disk = self._source.disk.counters() if self._source.disk is not None else {}

    def delivered(self, step: Step, wait_s: float) -> None:
        """Count one batch that the consumer waited `wait_s` seconds for."""
        tokens = step.num_tokens
        self._batches += 1
        self._pieces += len(step.kept.candidate)
        self._tokens += tokens
        self._room += step.room
        self._wait_s += wait_s
        self._waits.append(wait_s)
        if step.states is not None:
            self._count_mix(step.states[step.kept.candidate], step.kept.length)
        if step.selection is None or step.scores is None:
            self._offered_tokens += tokens
            return
        self._offered_tokens += int(step.candidates.length.sum())
        self._select_s += step.select_s
        self._scores.append(step.selection.scores.numpy().reshape(-1))
        self._count_mix(step.scores.states.numpy()[step.kept.candidate], step.kept.length)

    def _count_mix(self, states: np.ndarray, length: np.ndarray) -> None:
        for position, shares in enumerate(self._mix):
            shares += np.bincount(states[:, position], length, len(shares))

    def read(self) -> dict[str, float]:
        """Return the metrics and start counting anew."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        metrics = {
            "data/wait(s)": self._wait_s,
            "data/wait(%)": 100 * self._wait_s / elapsed,
            "data/wait_p99(s)": float(np.percentile(self._waits, 99)) if self._waits else 0.0,
            "data/tokens_per_s": self._tokens / elapsed,
            "data/samples": float(self._pieces),
            "data/padding(%)": 100 * (1 - self._tokens / self._room) if self._room else 0.0,
            "data/pool_fill": self._source.cache.fill,
            "select/kept(%)": 100 * self._tokens / max(self._offered_tokens, 1),
            "select/latency(ms)": 1000 * self._select_s / max(self._batches, 1),
        }
        metrics |= self._shard_metrics() | self._store_metrics(elapsed)
        if self._source.disk is not None:
            now = self._source.disk.counters()
            metrics |= {f"disk/{name}": value - self._disk[name] for name, value in now.items()}
        if self._scores:
            p50, p90 = np.percentile(np.concatenate(self._scores), [50, 90])
            metrics |= {"select/score_p50": float(p50), "select/score_p90": float(p90)}
        for agent, shares in zip(self._agents, self._mix, strict=True):
            if agent.is_stored and self._batches:
                names = zip(agent.state_names, shares / shares.sum(), strict=True)
                metrics |= {f"mix/{name}/share": float(share) for name, share in names}
        self._reset()
        return metrics

    def _shard_metrics(self) -> dict[str, float]:
        now = self._source.cache.counters()
        since = {n: float(v if n in _NOW else v - self._cache[n]) for n, v in now.items()}
        asked = max(since["hits"] + since["misses"], 1)
        return {
            "io/cache_hit(%)": 100 * since["hits"] / asked,
            "io/unverified_bytes": since["unverified_bytes"],
            "cache/wait(s)": since["wait_s"],
            "cache/fetch(s)": since["fetch_s"],
            "cache/in_flight": since["in_flight"],
            "cache/evictions": since["evictions"],
            "cache/quarantined": since["quarantined"],
            "cache/substituted": since["substituted"],
        }

    def _store_metrics(self, elapsed: float) -> dict[str, float]:
        now = self._source.corpus.stores.counters()
        since = {name: value - self._store.get(name, 0.0) for name, value in now.items()}
        metrics = {f"io/{name}": value for name, value in since.items() if name != "bytes"}
        return {"io/bytes_per_s": since.get("bytes", 0.0) / elapsed} | metrics
