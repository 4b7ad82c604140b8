# SPDX-License-Identifier: Apache-2.0
"""Which documents of a pool are probed, and what each stands for.

Default: one shared sample, stratified over the agents' joint cells. A cell's target is half its
share of the pool and half an equal part, so that rare cells are seen and no weight exceeds 2 as
long as a cell has documents enough. Published: for each agent its own sample, even over its states.
A function of (states, seed) alone: one bit stream (PCG64, raw words) and integer arithmetic.
Source: docs/console.md, "Probes"; systematic sampling, Horvitz and Thompson 1952.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

EVEN_PART = 0.5
"""Part of the probes that is spread evenly over the cells; weights stay below 1 / (1 - part)."""

_UNIT_BITS = 30


class ProbeDraw(NamedTuple):
    """The documents drawn.

    `indices` [num] int64 into the pool, `weights` [num] float64, `agent_of` [num] int32 (whose
    probe it is) in published mode, else None.
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    agent_of: npt.NDArray[np.int32] | None


def stratify(
    states: npt.NDArray[np.int32],
    cells: npt.NDArray[np.int64],
    num: int,
    seed: int,
    mode: str = "default",
    mass: npt.NDArray[np.float64] | None = None,
) -> ProbeDraw:
    """Draw probes from a pool of documents.

    Args:
        states: [M, A] int32, the pool's labels; read in published mode.
        cells: [M] int64, the pool's joint cells (`AgentSet.cells`); read otherwise.
        num: Number of probes, exactly so many are drawn.
        seed: Of this refresh; the draw depends on nothing else.
        mode: "published" draws for each agent evenly over its states, a document again only
            when its state has no other left; any other mode draws without repetition over cells.
        mass: [M] float64, how much of the corpus a document stands for; None: all alike.

    Returns:
        ProbeDraw. Default: indices ascending, weight = the cell's share of the pool's mass divided
        by its share of the probes (by its expected share if there are too few probes to cover
        every cell); `sum(weights * x) / num` then estimates the mass-weighted mean over the cells
        of x's mean in each without bias. Every cell is covered if num >= 2 * cells.
        Published: agents one after the other, weights 1.

    Raises:
        ConfigError: Fewer documents than probes, or fewer probes than agents (published).
    """
    if mode == "published":
        return _draw_by_agent(np.asarray(states), num, seed)
    cells = np.asarray(cells)
    if not 1 <= num <= len(cells):
        raise ConfigError(
            f"{num} probes from a pool of {len(cells)} documents; draw at least 1 and at most all, "
            "or enlarge the pool"
        )
    _, cell_of, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    masses = np.ones(len(cells)) if mass is None else np.asarray(mass, dtype=np.float64)
    if masses.shape != cells.shape or not (np.isfinite(masses) & (masses > 0)).all():
        raise ConfigError("mass must be one positive finite number a document")
    share = np.bincount(cell_of, weights=masses) / masses.sum()
    words = np.random.PCG64(seed).random_raw(len(cells) + 1)
    targets = _targets(share, sizes, num)
    counts = _round_systematically(targets, num, int(words[-1]))
    taken = _ranks_within(cell_of, words[:-1]) < counts[cell_of]
    indices = np.flatnonzero(taken).astype(np.int64)
    probe_share = counts / num if (counts > 0).all() else targets / num
    weights = (share / probe_share)[cell_of[indices]]
    return ProbeDraw(indices, weights, None)


def _targets(
    share: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], num: int
) -> npt.NDArray[np.float64]:
    """Expected probes of each cell: part even, part by share, at most the cell's documents."""
    wish = EVEN_PART / len(share) + (1.0 - EVEN_PART) * share
    targets = np.zeros(len(share))
    is_open = np.ones(len(share), dtype=bool)
    while is_open.any():
        left = num - sizes[~is_open].sum()
        targets[is_open] = wish[is_open] * (left / wish[is_open].sum())
        over = is_open & (targets > sizes)
        if not over.any():
            break
        targets[over] = sizes[over]
        is_open &= ~over
    return targets


def _round_systematically(
    targets: npt.NDArray[np.float64], num: int, word: int
) -> npt.NDArray[np.int64]:
    """Round targets to counts that sum to num, each down or up, its target in expectation.

    In units of 2^-30, so that no count is wrong by a rounding of floats.
    """
    units = np.rint(targets * (1 << _UNIT_BITS)).astype(np.int64)
    # The target farthest from an integer takes up what rounding to units lost.
    half = 1 << (_UNIT_BITS - 1)
    fraction = units & ((1 << _UNIT_BITS) - 1)
    units[np.argmin(np.abs(fraction - half))] += (num << _UNIT_BITS) - int(units.sum())
    start = word >> (64 - _UNIT_BITS)
    ends = (np.cumsum(units) + start) >> _UNIT_BITS
    return np.diff(ends, prepend=0)


def _ranks_within(
    group: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Rank each element among its group by key, ties by position: [M] int64 from 0."""
    order = np.lexsort((np.arange(len(group)), keys, group))
    sizes = np.bincount(group)
    first = np.cumsum(sizes) - sizes
    ranks = np.empty(len(group), dtype=np.int64)
    ranks[order] = np.arange(len(group)) - first[group[order]]
    return ranks


def _draw_by_agent(states: npt.NDArray[np.int32], num: int, seed: int) -> ProbeDraw:
    """Draw for each agent, evenly over the states that occur."""
    size, num_agents = states.shape
    if num < num_agents or size < 1:
        raise ConfigError(
            f"{num} probes for {num_agents} agents from {size} documents; published mode needs at "
            "least one probe an agent and one document"
        )
    bits = np.random.PCG64(seed)
    indices, agent_of = [], []
    for agent in range(num_agents):
        quota = num // num_agents + (agent < num % num_agents)
        _, state_of, sizes = np.unique(states[:, agent], return_inverse=True, return_counts=True)
        counts = np.full(len(sizes), quota // len(sizes))
        extra = np.argsort(bits.random_raw(len(sizes)), kind="stable")
        counts[extra[: quota % len(sizes)]] += 1
        members = np.lexsort((bits.random_raw(size), state_of))
        first = np.cumsum(sizes) - sizes
        for state, count in enumerate(counts):
            turn = np.arange(count) % sizes[state]
            indices.append(members[first[state] + turn])
        agent_of.append(np.full(quota, agent, dtype=np.int32))
    chosen = np.concatenate(indices).astype(np.int64)
    return ProbeDraw(chosen, np.ones(num), np.concatenate(agent_of))
