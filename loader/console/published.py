# SPDX-License-Identifier: Apache-2.0
"""The published updates, Eq 4-8 to the letter, so that the paper can be held against the code.

Rewards are taken as they come (the paper's are cosines), each agent is credited on its own probes
only, R_A uses the memory just updated, theta is additive and may leave the simplex. What that does
is written in docs/console.md, "The published method's defects".
Source: Bai et al. 2024, arXiv 2410.08102v3, Eq 4-8 and Algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..agents import AgentSet, MovingAverage, state_means
from ..errors import AgentError
from .config import ConsoleConfig
from .mappings import memory_of, theta_of
from .probes import Credit


class PublishedUpdates:
    """Memories and theta of the published method."""

    def __init__(self, config: ConsoleConfig, agents: AgentSet) -> None:
        self._config = config
        self._num_states = agents.num_states
        self._names = agents.names
        self.theta = theta_of(config, agents)
        self._memories = [
            MovingAverage(values, config.step_size)
            for values in memory_of(config, agents, default=lambda num: 1.0 / num)
        ]
        self._returns = [0.0] * len(self._memories)

    @property
    def memory(self) -> list[list[float]]:
        """Each agent's w, one number a state."""
        return [memory.values for memory in self._memories]

    def update(self, credit: Credit) -> None:
        """Take in the rewards of one refresh.

        Raises:
            AgentError: The probes do not say whose they are.
        """
        if credit.agent_of is None:
            raise AgentError(
                "published mode credits each agent on its own probes; draw them with "
                "stratify(..., mode='published') and hand agent_of on"
            )
        eta = self._config.step_size
        for agent, memory in enumerate(self._memories):
            own = credit.agent_of == agent
            seen = state_means(
                credit.states[own, agent],
                credit.rewards[own],
                np.ones(int(own.sum())),
                self._num_states[agent],
            )  # Eq 4
            memory.observe(seen)  # Eq 5
            products = [w * mean for w, mean in zip(memory.values, seen.mean, strict=True)]
            self._returns[agent] = math.fsum(products) / self._num_states[agent]  # Eq 7
        average = math.fsum(self._returns) / len(self._returns)
        if self._config.freeze_theta:
            return
        self.theta = [
            theta + eta * (value - average)  # Eq 8
            for theta, value in zip(self.theta, self._returns, strict=True)
        ]

    def normalisation(self) -> tuple[list[float], list[float], float]:
        """Return shift, scale and temperature: votes enter as they are, the top is taken (Eq 6)."""
        num = len(self._memories)
        return [0.0] * num, [1.0] * num, 0.0

    def metrics(self) -> dict[str, float]:
        """Return R_A of the last refresh by agent."""
        return {
            f"return/{name}": value for name, value in zip(self._names, self._returns, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """Return everything that moves, as plain values."""
        return {"theta": self.theta, "memory": self.memory, "returns": self._returns}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`'s values."""
        self.theta = [float(value) for value in state["theta"]]
        self._returns = [float(value) for value in state["returns"]]
        for memory, values in zip(self._memories, state["memory"], strict=True):
            memory.values = [float(value) for value in values]
