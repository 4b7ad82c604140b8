# SPDX-License-Identifier: Apache-2.0
"""Probe documents: what the console is shown to learn which agent is right.

A refresh draws a pool of pieces from all over the corpus, labels it as the loader labels
candidates, and takes a stratified sample over the agents' joint cells. Seeded by the refresh
number alone, so every rank draws the same probes, at any time, without moving the cursor.
"""

from dataclasses import dataclass

import numpy as np

from ..agents import AgentSet
from ..batches import Candidates, Place, gather_candidates
from ..console import Policy
from ..errors import ConfigError
from ..prefetch import Source, is_lost
from ..scoring import score
from .stratify import stratify

_POOL_PER_PROBE = 6


@dataclass(frozen=True)
class ProbeBatch:
    """The probes of one refresh.

    `ids` [n] int64 names them; `tokens` [sum of lengths] int64 and `cu_seqlens` [n + 1] int64
    hold them; `sample_id` and `offset` [n] int64 say where they stand; `states` [n, agents]
    int32, `cells` [n] int64, `weights` [n] float64 = pool share / probe share of the probe's
    cell; `agent_of` [n] int32 is the agent that a probe was drawn for (published mode), else
    None.
    """

    refresh: int
    ids: np.ndarray
    tokens: np.ndarray
    cu_seqlens: np.ndarray
    sample_id: np.ndarray
    offset: np.ndarray
    states: np.ndarray
    cells: np.ndarray
    weights: np.ndarray
    agent_of: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """How probes are drawn."""

    num_probes: int
    piece_tokens: int
    seed: int
    mode: str


def draw_probes(
    source: Source, agents: AgentSet, policy: Policy, plan: ProbePlan, refresh: int
) -> ProbeBatch:
    """Draw the probes of a refresh."""
    rng = np.random.default_rng([plan.seed, refresh])
    pool = _draw_pool(source, plan, rng)
    if len(pool.length) < plan.num_probes:
        raise ConfigError(
            f"num_probes is {plan.num_probes}, but only {len(pool.length)} pieces were found in "
            f"the shards of refresh {refresh}: lower num_probes or raise window_shards"
        )
    if source.units is not None:
        states = source.units.states(pool.shard, pool.row)
    else:
        states = score(source, agents, pool, policy).states.numpy()
    cells = agents.cells(states)
    chosen, weights, agent_of = stratify(
        states, cells, plan.num_probes, int(rng.integers(1 << 62)), plan.mode
    )
    length = pool.length[chosen]
    tokens = [pool.tokens[pool.start[i] : pool.start[i + 1]] for i in chosen]
    return ProbeBatch(
        refresh=refresh,
        ids=np.arange(len(chosen), dtype=np.int64),
        tokens=np.concatenate(tokens).astype(np.int64),
        cu_seqlens=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        sample_id=pool.sample_id[chosen],
        offset=pool.offset[chosen],
        states=states[chosen],
        cells=cells[chosen],
        weights=weights,
        agent_of=agent_of,
    )


def _draw_pool(source: Source, plan: ProbePlan, rng: np.random.Generator) -> Candidates:
    """Draw pieces evenly: documents of a few shards, then pieces of those documents."""
    samples = source.samples_per_shard
    num_pieces = plan.num_probes * _POOL_PER_PROBE
    filled = int(np.count_nonzero(samples))
    num_shards = min(2 * source.window_shards, filled)  # fits the budget
    share = samples / samples.sum()
    picked = rng.choice(len(share), size=num_shards, replace=False, p=share)
    weight = samples[picked] / samples[picked].sum()
    shard = np.sort(rng.choice(picked, size=num_pieces, p=weight))
    nth = (rng.random(num_pieces) * samples[shard]).astype(np.int64)
    place = np.unique(np.stack([shard, source.rows(shard, nth)], axis=1), axis=0)
    length = source.lengths(place[:, 0], place[:, 1])
    source.cache.get(np.unique(place[:, 0]).tolist())  # which of them are lost is known then
    length[is_lost(source.lost, place[:, 0])] = 0
    pieces = -(-length // plan.piece_tokens)
    owner = np.repeat(np.arange(len(place)), pieces)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    keep = np.sort(rng.permutation(len(owner))[:num_pieces])
    owner, offset = owner[keep], nth[keep] * plan.piece_tokens
    piece = Place(
        place[owner, 0],
        place[owner, 1],
        offset,
        np.minimum(plan.piece_tokens, length[owner] - offset),
    )
    return gather_candidates(
        source.cache.get,
        source.column,
        np.zeros(len(owner), dtype=np.int64),
        piece,
        source.corpus.first_sample,
        source.token_dtype,
    )
