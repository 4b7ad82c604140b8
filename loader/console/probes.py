# SPDX-License-Identifier: Apache-2.0
"""The rewards of one refresh, checked: what the update rules read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import AgentError


@dataclass(frozen=True, eq=False)
class Credit:
    """Probes and their rewards.

    Args:
        ids: [n] int64 sample ids.
        states: [n, A] int32.
        weights: [n] float64, omega = pool share / probe share of the probe's cell; positive.
        rewards: [n] float64, higher = training on the probe helps more.
        agent_of: [n] int32, whose probe it is (published mode), or None: everybody's.
    """

    ids: npt.NDArray[np.int64]
    states: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    agent_of: npt.NDArray[np.int32] | None = None

    def check(self, refresh: int, num_states: tuple[int, ...]) -> None:
        """Raise AgentError where the probes do not fit each other or the agents."""
        num = self.ids.shape[0] if self.ids.ndim == 1 else -1
        shapes = {"weights": self.weights.shape, "rewards": self.rewards.shape}
        if self.agent_of is not None:
            shapes["agent_of"] = self.agent_of.shape
        where = f"refresh {refresh}"
        if num < 1:
            raise AgentError(f"{where}: no probes to credit (ids {self.ids.shape})")
        if self.states.shape != (num, len(num_states)):
            raise AgentError(
                f"{where}: states {self.states.shape} for {num} probes, {len(num_states)} agents"
            )
        for name, shape in shapes.items():
            if shape != (num,):
                raise AgentError(f"{where}: {name} {shape} for {num} probes")
        self._check_values(where, num_states)

    def _check_values(self, where: str, num_states: tuple[int, ...]) -> None:
        self._refuse(
            ~np.isfinite(self.rewards),
            f"{where}: rewards are not finite",
            "look at the loss of these documents and at the gradients' scale",
        )
        self._refuse(
            ~(np.isfinite(self.weights) & (self.weights > 0)),
            f"{where}: weights are not finite and positive",
            "draw the probes with moot.loader.probes.stratify",
        )
        outside = (self.states < 0) | (self.states >= np.asarray(num_states))
        self._refuse(
            outside.any(axis=1), f"{where}: states out of range", "fit the agents on this corpus"
        )
        if self.agent_of is not None:
            self._refuse(
                (self.agent_of < 0) | (self.agent_of >= len(num_states)),
                f"{where}: agent_of out of range",
                f"there are {len(num_states)} agents",
            )

    def _refuse(self, wrong: npt.NDArray[np.bool_], what: str, advice: str) -> None:
        if wrong.any():
            named = ", ".join(str(each) for each in sorted(self.ids[wrong].tolist())[:8])
            raise AgentError(f"{what} for {int(wrong.sum())} probes (ids {named}); {advice}")


def standardise(
    rewards: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], clip: float | None
) -> npt.NDArray[np.float64]:
    """Turn rewards into standard deviations from their weighted mean.

    Args:
        rewards: [n] float64.
        weights: [n] float64, positive.
        clip: Cut at this many standard deviations, then standardise again; None: no cut.

    Returns:
        [n] float64, weighted mean 0 and variance 1; all zero where the rewards are equal.
        Every sum rounds once, so the order of the probes does not matter.
    """
    scores = _standardise_once(rewards, weights)
    if clip is None:
        return scores
    return _standardise_once(np.clip(scores, -clip, clip), weights)


def _standardise_once(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    mass = math.fsum(weights.tolist())
    mean = math.fsum((weights * values).tolist()) / mass
    centred = values - mean
    variance = math.fsum((weights * centred * centred).tolist()) / mass
    # A variance of rounding errors only is none.
    if variance <= (1e-12 * max(abs(mean), float(np.abs(values).max()))) ** 2:
        return np.zeros_like(values)
    return centred / math.sqrt(variance)
