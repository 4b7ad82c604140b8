# SPDX-License-Identifier: Apache-2.0
"""The default updates: one shared probe sample, memories in one unit, theta on the simplex.

Each agent is credited with its advantage: would following it, as its memory stood before these
rewards, have improved the reward? Invariant under reward -> a * reward + b with a > 0.
Source: docs/console.md, "The default updates".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..agents import AgentSet, DiscountedMean, StateMeans, state_means
from .config import ConsoleConfig
from .mappings import log_prior_odds, theta_of
from .probes import Credit, standardise


class DefaultUpdates:
    """Memories and theta of the default mode."""

    def __init__(self, config: ConsoleConfig, agents: AgentSet) -> None:
        self._config = config
        self._agents = agents
        self._pool = [share.tolist() for share in agents.pool_frequencies()]
        self._log_odds = log_prior_odds(config, agents)
        self._means = [
            DiscountedMean(num, config.discount, config.shrink) for num in agents.num_states
        ]
        self._first_theta = theta_of(config, agents)
        self._gains = [0.0] * len(self._means)
        self._advantages = [0.0] * len(self._means)
        self._errors = [0.0] * len(self._means)

    @property
    def memory(self) -> list[list[float]]:
        """Each agent's log prior odds plus its shrunk discounted mean, by state."""
        return [
            [prior + value for prior, value in zip(odds, mean.values(), strict=True)]
            for odds, mean in zip(self._log_odds, self._means, strict=True)
        ]

    @property
    def theta(self) -> list[float]:
        """Each agent's weight: theta_0 exp(gain), on the simplex."""
        top = max(self._gains)
        raw = [
            first * math.exp(gain - top)
            for first, gain in zip(self._first_theta, self._gains, strict=True)
        ]
        total = math.fsum(raw)
        return [value / total for value in raw]

    def update(self, credit: Credit) -> None:
        """Take in the rewards of one refresh; `agent_of` is not looked at."""
        scores = standardise(credit.rewards, credit.weights, self._config.clip)
        before = self.memory
        for agent, mean in enumerate(self._means):
            seen = state_means(
                credit.states[:, agent], scores, credit.weights, len(self._pool[agent])
            )
            advantage, error = measure_advantage(
                self._pool[agent], before[agent], seen, self._config.tau
            )
            self._advantages[agent], self._errors[agent] = advantage, error
            if not self._config.freeze_theta:
                step = self._config.step_size * shrunk(advantage, error)
                self._gains[agent] = self._config.theta_discount * self._gains[agent] + step
            mean.observe(seen)

    def normalisation(self) -> tuple[list[float], list[float], float]:
        """Return shift, scale and temperature (`score_scale`)."""
        return score_scale(self._agents, self.memory, self.theta, self._config.spread_temperature)

    def metrics(self) -> dict[str, float]:
        """Return advantage and its standard error, by agent, of the last refresh."""
        values = {}
        for agent, name in enumerate(self._agents.names):
            values[f"advantage/{name}"] = self._advantages[agent]
            values[f"advantage_error/{name}"] = self._errors[agent]
        return values

    def state(self) -> dict[str, Any]:
        """Return everything that moves, as plain values."""
        return {
            "sums": [list(mean.sums) for mean in self._means],
            "numbers": [list(mean.numbers) for mean in self._means],
            "gains": list(self._gains),
            "advantages": list(self._advantages),
            "errors": list(self._errors),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`'s values."""
        for mean, sums, numbers in zip(self._means, state["sums"], state["numbers"], strict=True):
            mean.sums = [float(value) for value in sums]
            mean.numbers = [float(value) for value in numbers]
        self._gains = [float(value) for value in state["gains"]]
        self._advantages = [float(value) for value in state["advantages"]]
        self._errors = [float(value) for value in state["errors"]]


def tilted(pool: list[float], memory: list[float], tau: float) -> list[float]:
    """Return the shares p'_j ~ p_j exp(w_j / tau) that following a memory would give."""
    top = max(value for share, value in zip(pool, memory, strict=True) if share > 0)
    raw = [
        share * math.exp((value - top) / tau) if share > 0 else 0.0
        for share, value in zip(pool, memory, strict=True)
    ]
    total = math.fsum(raw)
    return [value / total for value in raw]


def measure_advantage(
    pool: list[float], memory: list[float], seen: StateMeans, tau: float
) -> tuple[float, float]:
    """Measure what following a memory would have gained.

    Args:
        pool: [n_a] share of each state in the pool.
        memory: [n_a] as it stood before this refresh.
        seen: Standardised rewards by state; a state without a probe counts as the pool's mean.
        tau: Temperature of the tilt.

    Returns:
        The advantage sum_j (p'_j - p_j) R_j and its standard error under noise of unit variance,
        both in standard deviations of the reward.
    """
    moves = [new - old for new, old in zip(tilted(pool, memory, tau), pool, strict=True)]
    advantage = math.fsum(move * mean for move, mean in zip(moves, seen.mean, strict=True))
    variance = math.fsum(
        move * move / number for move, number in zip(moves, seen.number, strict=True) if number > 0
    )
    return advantage, math.sqrt(variance)


def shrunk(advantage: float, error: float) -> float:
    """Shrink an advantage by its own uncertainty: A * A^2 / (A^2 + error^2)."""
    squared = advantage * advantage
    return advantage * squared / (squared + error * error) if squared > 0 else 0.0


def score_scale(
    agents: AgentSet, memory: list[list[float]], theta: list[float], temperature: float
) -> tuple[list[float], list[float], float]:
    """Choose how votes enter the score.

    Shift is each memory's mean over the pool, so that a positive vote means "better than the pool".
    Scale is the number of agents for all of them: with theta uniform the score is then the plain
    sum of the agents' votes, the additive estimate of a document's standardised reward, and does
    not weaken as agents are added. No agent is brought to unit spread on its own: the
    spread of a memory is its evidence. The temperature is in standard deviations of the score over
    the pool's cells, so that selection is as sharp with three agents as with ten.

    Returns:
        shift [A], scale [A] and the absolute Gumbel temperature.
    """
    shift = [
        math.fsum(share * value for share, value in zip(pool.tolist(), values, strict=True))
        for pool, values in zip(agents.pool_frequencies(), memory, strict=True)
    ]
    scale = [float(len(memory))] * len(memory)
    votes = np.zeros(len(agents.pool_share))
    for agent, values in enumerate(memory):
        chosen = np.asarray(values)[agents.pool_states[:, agent]]
        votes += theta[agent] * ((chosen - shift[agent]) * scale[agent])
    share = agents.pool_share
    mean = math.fsum((share * votes).tolist())
    variance = math.fsum((share * (votes - mean) ** 2).tolist())
    return shift, scale, temperature * math.sqrt(variance)
