# SPDX-License-Identifier: Apache-2.0
"""The console: takes the rewards of probes, moves memories and theta, publishes policies by step.

Refresh r = 1, 2, ... is due when r * U training steps are done; its policy selects the batches from
step r * U + policy_lag on. Which policy a batch gets depends on its step alone. The order of the
probes in a credit does not matter, bit for bit; no clock and no random numbers are used.
Knows agents and numbers; no I/O, no model. One thread credits; `settled` and `policy` may be asked
from any.
Source: docs/console.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..agents import AgentSet
from ..errors import StateError
from .config import ConsoleConfig
from .default import DefaultUpdates
from .fixed import FixedUpdates
from .policy import Policy, PolicyTimeline
from .probes import Credit
from .published import PublishedUpdates

_LATE_REFRESHES = 16
"""Skipped refreshes whose rewards are still taken; bounds the state."""


class Updates(Protocol):
    """What a mode implements."""

    @property
    def theta(self) -> list[float]:
        """[A] agents' weights."""
        ...

    @property
    def memory(self) -> list[list[float]]:
        """[A] lists, one number a state."""
        ...

    def update(self, credit: Credit) -> None:
        """Take in the rewards of one refresh."""
        ...

    def normalisation(self) -> tuple[list[float], list[float], float]:
        """Return shift [A], scale [A] and temperature of the policy to publish."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return numbers of the last refresh."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that moves, as plain values."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`'s values."""
        ...


_UPDATES: dict[str, Callable[[ConsoleConfig, AgentSet], Updates]] = {
    "default": DefaultUpdates,
    "published": PublishedUpdates,
    "fixed": FixedUpdates,
}


class Console:
    """Credits agents and publishes policies.

    Args:
        config: Settings.
        agents: The agents of the corpus.

    Raises:
        ConfigError: A setting names an agent that does not exist, or has the wrong length.
    """

    def __init__(self, config: ConsoleConfig, agents: AgentSet) -> None:
        self.config = config
        self.agents = agents
        self._updates: Updates = _UPDATES[config.mode](config, agents)
        refresh_steps = None if config.mode == "fixed" else config.refresh_steps
        self._refresh_steps = refresh_steps
        self._timeline = PolicyTimeline(self._policy(0, 0), refresh_steps, config.policy_lag)
        self._reward_mean = 0.0
        self._num_probes = 0
        self._skipped: list[int] = []
        self._num_skipped = 0

    @property
    def version(self) -> int:
        """Number of refreshes credited."""
        return self._timeline.latest.version

    @property
    def latest(self) -> Policy:
        """The newest policy, in force or not yet."""
        return self._timeline.latest

    def refresh_due(self, step: int) -> int | None:
        """Return the refresh that is due when `step` training steps are done, or None."""
        if self._refresh_steps is None or step <= 0 or step % self._refresh_steps:
            return None
        refresh = step // self._refresh_steps
        is_open = refresh > self.version or refresh in self._skipped
        return refresh if is_open else None

    def settled(self, step: int) -> bool:
        """Whether every refresh effective at or before `step` has been credited."""
        return self._timeline.wanted_version(step) <= self.version

    def next_policy_step(self, step: int) -> int | None:
        """Return the first step behind `step` at which another policy may be in force, or None."""
        if self._refresh_steps is None:
            return None
        return self._timeline.effective_step(self._timeline.wanted_version(step) + 1)

    def awaited(self, step: int) -> int | None:
        """Return the first refresh that `step` depends on and that is not credited, or None."""
        return None if self.settled(step) else self.version + 1

    def skip(self, step: int) -> None:
        """Go on without the refreshes that `step` awaits: the policy before them stays in force.

        The choice of documents then depends on when rewards arrive; each skip is counted in
        `metrics`. Rewards that come late still move memories and theta, into the next version.
        """
        while not self.settled(step):
            refresh = self.version + 1
            effective = self._timeline.effective_step(refresh)
            self._timeline.publish(
                replace(self._timeline.latest, version=refresh, effective_step=effective)
            )
            self._skipped = [*self._skipped, refresh][-_LATE_REFRESHES:]
            self._num_skipped += 1

    def policy(self, step: int) -> Policy:
        """Return the policy in force for the batch of `step` (0-based: steps done before it).

        Raises:
            StateError: A refresh it depends on has not been credited (`settled` is False), or the
                step lies more than a refresh interval before the last refresh.
        """
        return self._timeline.at(step)

    def credit(
        self,
        refresh: int,
        ids: npt.ArrayLike,
        states: npt.ArrayLike,
        weights: npt.ArrayLike,
        rewards: npt.ArrayLike,
        agent_of: npt.ArrayLike | None = None,
    ) -> Policy:
        """Credit the agents with one refresh's rewards and publish the next policy.

        Args:
            refresh: 1, 2, ... in order.
            ids: [n] int64 sample ids; errors name them.
            states: [n, A] int32.
            weights: [n] float64 omega, positive; not looked at in published mode.
            rewards: [n] float64, higher = training on the probe helps more.
            agent_of: [n] int32, whose probe it is; needed in published mode only.

        Returns:
            The policy, effective at refresh * U + policy_lag; after `skip` the one in force,
            since late rewards wait for the next version.

        Raises:
            StateError: The refresh was credited before, or an earlier one was not.
            AgentError: Rewards are not finite, or the probes do not fit the agents.
        """
        self._check_turn(refresh)
        credit = Credit(
            ids=np.asarray(ids, dtype=np.int64),
            states=np.asarray(states, dtype=np.int32),
            weights=np.asarray(weights, dtype=np.float64),
            rewards=np.asarray(rewards, dtype=np.float64),
            agent_of=None if agent_of is None else np.asarray(agent_of, dtype=np.int32),
        )
        credit.check(refresh, self.agents.num_states)
        self._updates.update(credit)
        self._num_probes = len(credit.ids)
        self._reward_mean = math.fsum(credit.rewards.tolist()) / self._num_probes
        if refresh in self._skipped:
            self._skipped = [each for each in self._skipped if each != refresh]
            return self._timeline.latest
        policy = self._policy(refresh, self._timeline.effective_step(refresh))
        self._timeline.publish(policy)
        return policy

    def metrics(self) -> dict[str, float]:
        """Return one flat dict: version, theta, spread of the memories, the last refresh."""
        latest = self._timeline.latest
        values = {
            "console/version": float(latest.version),
            "console/temperature": latest.temperature,
            "console/reward_mean": self._reward_mean,
            "console/num_probes": float(self._num_probes),
            "console/num_skipped": float(self._num_skipped),
        }
        pools = self.agents.pool_frequencies()
        memories = self._updates.memory
        for agent, name in enumerate(self.agents.names):
            values[f"agent/{name}/weight"] = self._updates.theta[agent]
            values[f"agent/{name}/spread"] = _spread(memories[agent], pools[agent].tolist())
        return values | {f"console/{key}": value for key, value in self._updates.metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON-able values; its size does not grow with steps."""
        return {
            "mode": self.config.mode,
            "refresh_steps": self.config.refresh_steps,
            "policy_lag": self.config.policy_lag,
            "agents": [[agent.name, agent.num_states] for agent in self.agents.agents],
            "updates": self._updates.state(),
            "policies": self._timeline.state(),
            "reward_mean": self._reward_mean,
            "num_probes": self._num_probes,
            "skipped": list(self._skipped),
            "num_skipped": self._num_skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a saved state.

        Raises:
            StateError: It is none, or belongs to other agents, another mode or another rhythm of
                refreshes.
        """
        if not isinstance(state, Mapping):
            raise StateError("the state is of a run without a console: resume without one")
        here = self.state_dict()
        for key in ("mode", "refresh_steps", "policy_lag", "agents"):
            if state.get(key) != here[key]:
                raise StateError(
                    f"the saved console has {key} {state.get(key)}, this one {here[key]}; resume "
                    "with the settings and agents of the saved run"
                )
        missing = set(here) - set(state)
        if missing:
            raise StateError(f"the saved console lacks {sorted(missing)}; it is not a whole state")
        self._updates.load(state["updates"])
        self._timeline.load(state["policies"])
        self._reward_mean = float(state["reward_mean"])
        self._num_probes = int(state["num_probes"])
        self._skipped = [int(refresh) for refresh in state["skipped"]]
        self._num_skipped = int(state["num_skipped"])

    def _check_turn(self, refresh: int) -> None:
        if self._refresh_steps is None:
            raise StateError("mode 'fixed' takes no credit; use mode 'default' or draw no probes")
        if refresh in self._skipped:
            return
        if refresh <= self.version:
            raise StateError(
                f"refresh {refresh} comes late or twice: {self.version} refreshes have been "
                "credited already; credit each refresh once, in order"
            )
        if refresh != self.version + 1:
            raise StateError(
                f"refresh {refresh} comes before refresh {self.version + 1}; credit them in order"
            )

    def _policy(self, version: int, effective_step: int) -> Policy:
        shift, scale, temperature = self._updates.normalisation()
        rows = self._updates.memory
        memory = np.zeros((len(rows), self.agents.num_states_max), dtype=np.float32)
        for agent, row in enumerate(rows):
            memory[agent, : len(row)] = row
        return Policy(
            version=version,
            effective_step=effective_step,
            theta=np.array(self._updates.theta, dtype=np.float32),
            memory=memory,
            shift=np.array(shift, dtype=np.float32),
            scale=np.array(scale, dtype=np.float32),
            temperature=temperature,
        )


def _spread(memory: list[float], pool: list[float]) -> float:
    """Standard deviation of a memory over the pool: how much the agent has to say."""
    mean = math.fsum(share * value for share, value in zip(pool, memory, strict=True))
    return math.sqrt(
        math.fsum(share * (value - mean) ** 2 for share, value in zip(pool, memory, strict=True))
    )
