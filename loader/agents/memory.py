# SPDX-License-Identifier: Apache-2.0
"""An agent's memory: one number a state, moved by the rewards of probes in that state.

`MovingAverage` is Eq 4-5 of the published method, `DiscountedMean` the default. Both hold plain
Python floats and reduce with `math.fsum`, which rounds once: the result does not depend on the
order of the probes, bit for bit.
Source: docs/console.md, "Memory".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class StateMeans:
    """What one refresh saw of each state of one agent.

    Args:
        mean: [n_a] weighted mean of the values in the state; 0.0 where nothing was seen.
        number: [n_a] effective number of probes, (sum omega)^2 / sum omega^2; 0.0 if unseen.
    """

    mean: list[float]
    number: list[float]


def state_means(
    states: npt.NDArray[np.int32],
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    num_states: int,
) -> StateMeans:
    """Average values by state.

    Args:
        states: [n] int32 in [0, num_states).
        values: [n] float64.
        weights: [n] float64, positive.
        num_states: n_a.
    """
    mean, number = [], []
    for state in range(num_states):
        chosen = states == state
        if not chosen.any():
            mean.append(0.0)
            number.append(0.0)
            continue
        omega = weights[chosen]
        mass = math.fsum(omega.tolist())
        mean.append(math.fsum((omega * values[chosen]).tolist()) / mass)
        number.append(mass * mass / math.fsum((omega * omega).tolist()))
    return StateMeans(mean, number)


class MovingAverage:
    """Memory of the published method: w_j <- (1 - eta) w_j + eta R_j (Eq 5).

    A state without a probe in this refresh keeps its memory; the paper does not say.
    """

    def __init__(self, values: list[float], eta: float) -> None:
        self.values = [float(value) for value in values]
        self._eta = eta

    def observe(self, seen: StateMeans) -> None:
        """Take in one refresh."""
        self.values = [
            (1.0 - self._eta) * value + self._eta * mean if number > 0 else value
            for value, mean, number in zip(self.values, seen.mean, seen.number, strict=True)
        ]


class DiscountedMean:
    """Memory of the default mode: a discounted mean, shrunk towards zero where little was seen.

    With S_j the discounted sum of n_j R_j and N_j that of n_j over the refreshes so far, the value
    is S_j / (N_j + shrink): the discounted mean S_j / N_j times N_j / (N_j + shrink).
    """

    def __init__(self, num_states: int, discount: float, shrink: float) -> None:
        self.sums = [0.0] * num_states
        self.numbers = [0.0] * num_states
        self._discount = discount
        self._shrink = shrink

    def observe(self, seen: StateMeans) -> None:
        """Take in one refresh."""
        self.sums = [
            self._discount * total + number * mean
            for total, mean, number in zip(self.sums, seen.mean, seen.number, strict=True)
        ]
        self.numbers = [
            self._discount * total + number
            for total, number in zip(self.numbers, seen.number, strict=True)
        ]

    def values(self) -> list[float]:
        """Return the shrunk mean of every state, in standard deviations of the reward."""
        return [
            total / (number + self._shrink) if number > 0 else 0.0
            for total, number in zip(self.sums, self.numbers, strict=True)
        ]
