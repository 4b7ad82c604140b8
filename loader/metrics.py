# SPDX-License-Identifier: Apache-2.0
"""What a loader did since it was last asked, as one flat dict of scalars.

Names are slash-grouped with the unit in brackets. Two questions must be answered at a glance: is
data the bottleneck (`data/wait(%)`), and what is being selected (`select/`, `agent/` and, for
stored labels, `mix/`: the share of kept tokens).
"""

import time
from collections import deque

import numpy as np

from .agents import AgentSet
from .prefetch import ShardCache
from .steps import Step

_SCORES_KEPT = 64  # batches whose scores make the percentiles


class Meter:
    """Counts what is delivered; `read` returns rates since the last read."""

    def __init__(self, cache: ShardCache, agents: AgentSet | None) -> None:
        self._cache = cache
        self._agents = agents.agents if agents is not None else ()
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._batches = self._tokens = self._pieces = self._offered = self._offered_tokens = 0
        self._wait_s = self._select_s = 0.0
        self._scores: deque[np.ndarray] = deque(maxlen=_SCORES_KEPT)
        self._room = 0
        self._mix = [np.zeros(agent.num_states) for agent in self._agents]
        self._fetched = (self._cache.fetched_bytes, self._cache.hits, self._cache.misses)

    def delivered(self, step: Step, wait_s: float) -> None:
        """Count one batch that the consumer waited `wait_s` seconds for."""
        self._batches += 1
        self._pieces += len(step.kept.candidate)
        self._tokens += int(step.kept.length.sum())
        self._offered += len(step.candidates.length)
        self._offered_tokens += int(step.candidates.length.sum())
        self._room += step.room
        self._wait_s += wait_s
        self._select_s += step.select_s
        if step.selection is None or step.scores is None:
            return
        self._scores.append(step.selection.scores.numpy().reshape(-1))
        states = step.scores.states.numpy()[step.kept.candidate]
        for position, shares in enumerate(self._mix):
            np.add.at(shares, states[:, position], step.kept.length)

    def read(self) -> dict[str, float]:
        """Return the metrics and start counting anew."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        fetched, hits, misses = self._fetched
        hits, misses = self._cache.hits - hits, self._cache.misses - misses
        metrics = {
            "data/wait(s)": self._wait_s,
            "data/wait(%)": 100 * self._wait_s / elapsed,
            "data/tokens_per_s": self._tokens / elapsed,
            "data/samples": float(self._pieces),
            "data/padding(%)": 100 * (1 - self._tokens / self._room) if self._room else 0.0,
            "data/pool_fill": self._cache.fill,
            "io/bytes_per_s": (self._cache.fetched_bytes - fetched) / elapsed,
            "io/cache_hit(%)": 100 * hits / max(hits + misses, 1),
            "select/kept(%)": 100 * self._tokens / max(self._offered_tokens, 1),
            "select/latency(ms)": 1000 * self._select_s / max(self._batches, 1),
        }
        if self._scores:
            p50, p90 = np.percentile(np.concatenate(self._scores), [50, 90])
            metrics |= {"select/score_p50": float(p50), "select/score_p90": float(p90)}
        for agent, shares in zip(self._agents, self._mix, strict=True):
            if agent.is_stored and self._batches:
                names = zip(agent.state_names, shares / shares.sum(), strict=True)
                metrics |= {f"mix/{name}/share": float(share) for name, share in names}
        self._reset()
        return metrics
