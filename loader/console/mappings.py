# SPDX-License-Identifier: Apache-2.0
"""Settings by agent's name turned into lists in voting order, each name and length checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..agents import AgentSet
from ..errors import ConfigError
from .config import ConsoleConfig


def theta_of(config: ConsoleConfig, agents: AgentSet) -> list[float]:
    """Return the first theta; an agent that a given theta leaves out has 0."""
    if config.theta is None:
        return [1.0 / len(agents.names)] * len(agents.names)
    _check_names("theta", config.theta, agents)
    theta = [float(config.theta.get(name, 0.0)) for name in agents.names]
    if not all(math.isfinite(value) for value in theta):
        raise ConfigError(f"theta is {dict(config.theta)}, must be finite")
    if config.mode != "default":
        return theta
    total = math.fsum(theta)
    if min(theta) <= 0:
        raise ConfigError(
            f"theta is {dict(config.theta)}; mode 'default' needs a positive one for every agent "
            f"({', '.join(agents.names)})"
        )
    return [value / total for value in theta]


def memory_of(
    config: ConsoleConfig, agents: AgentSet, default: Callable[[int], float]
) -> list[list[float]]:
    """Return the given memories; an agent left out has default(num_states) in every state."""
    given = config.memory or {}
    _check_names("memory", given, agents)
    memories = []
    for name, num in zip(agents.names, agents.num_states, strict=True):
        values = _row("memory", name, given.get(name, [default(num)] * num), num)
        memories.append(values)
    return memories


def log_prior_odds(config: ConsoleConfig, agents: AgentSet) -> list[list[float]]:
    """Return log(wanted share / pool share) by agent and state; 0 where the pool has none."""
    given = config.prior or {}
    _check_names("prior", given, agents)
    odds = []
    for name, pool in zip(agents.names, agents.pool_frequencies(), strict=True):
        if name not in given:
            odds.append([0.0] * len(pool))
            continue
        wanted = _row("prior", name, given[name], len(pool))
        if min(wanted) <= 0:
            raise ConfigError(f"prior of {name!r} is {wanted}, every share must be > 0")
        total = math.fsum(wanted)
        odds.append([
            math.log(share / total / here) if here > 0 else 0.0
            for share, here in zip(wanted, pool.tolist(), strict=True)
        ])
    return odds


def _check_names(setting: str, given: Mapping[str, Any], agents: AgentSet) -> None:
    unknown = sorted(set(given) - set(agents.names))
    if unknown:
        raise ConfigError(
            f"{setting} names {', '.join(unknown)}; the agents are {', '.join(agents.names)}"
        )


def _row(setting: str, name: str, values: Sequence[float], num: int) -> list[float]:
    row = [float(value) for value in values]
    if len(row) != num or not all(math.isfinite(value) for value in row):
        raise ConfigError(f"{setting} of {name!r} is {row}, must be {num} finite numbers")
    return row
