# SPDX-License-Identifier: Apache-2.0
"""Nothing moves: theta and memories are given. A static threshold is one agent with theta 1."""

from __future__ import annotations

from typing import Any

from ..agents import AgentSet
from ..errors import StateError
from .config import ConsoleConfig
from .default import score_scale
from .mappings import memory_of, theta_of
from .probes import Credit


class FixedUpdates:
    """Given memories and theta."""

    def __init__(self, config: ConsoleConfig, agents: AgentSet) -> None:
        self._config = config
        self._agents = agents
        self.theta = theta_of(config, agents)
        self.memory = memory_of(config, agents, default=lambda num: 0.0)

    def update(self, credit: Credit) -> None:
        """Refuse: there is nothing to update."""
        del credit
        raise StateError("mode 'fixed' takes no credit; use mode 'default' or draw no probes")

    def normalisation(self) -> tuple[list[float], list[float], float]:
        """Return shift, scale and temperature as in the default mode."""
        return score_scale(self._agents, self.memory, self.theta, self._config.spread_temperature)

    def metrics(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing: the configuration is the state."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Do nothing."""
        del state
