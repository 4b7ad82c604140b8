# SPDX-License-Identifier: Apache-2.0
"""The mixture: how many documents each stream gives, and from which step on.

Weights are integers, so that every machine draws alike; over as many draws as they sum to, each
stream is drawn exactly its weight. A new mixture takes effect at a stated step and is part of the
state, so that a resumed run replays it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, StateError

_UNIT = 1 << 32  # what fractions of 1 become


def integer_weights(weights: Sequence[float]) -> np.ndarray:
    """Turn weights into integers: those that are whole numbers stay, others are scaled.

    Raises:
        ConfigError: A weight is negative or not finite, or none is above 0.
    """
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ConfigError(f"weights must be numbers from 0 on, one above 0, not {list(weights)}")
    if (values != np.floor(values)).any() or values.max() > _UNIT:
        values = np.round(values / values.sum() * _UNIT)
    return values.astype(np.int64)


class Mixture:
    """The weights of the streams over the steps.

    Args:
        weights: [num_streams], from step 0 on.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._changes: list[tuple[int, np.ndarray]] = [(0, integer_weights(weights))]

    def at(self, step: int) -> np.ndarray:
        """Return the weights of a step: int64 [num_streams]."""
        return next(weights for first, weights in reversed(self._changes) if first <= step)

    def next_change(self, step: int) -> int | None:
        """Return the first step behind `step` at which weights change, None if there is none."""
        return next((first for first, _ in self._changes if first > step), None)

    def starts_at(self, step: int) -> bool:
        """Whether other weights hold from this step on."""
        return step > 0 and any(first == step for first, _ in self._changes)

    def change(self, step: int, weights: Sequence[float]) -> None:
        """Let other weights hold from a step on; later changes that were stated before are dropped.

        Raises:
            ConfigError: There is not one weight a stream, or they cannot be drawn from.
        """
        values = integer_weights(weights)
        if len(values) != len(self._changes[0][1]):
            raise ConfigError(
                f"{len(values)} weights for {len(self._changes[0][1])} streams: give one a stream"
            )
        self._changes = [change for change in self._changes if change[0] < step]
        self._changes.append((step, values))

    def state(self, step: int) -> list[tuple[int, list[int]]]:
        """Return what a run that goes on at `step` needs to know."""
        current = max(first for first, _ in self._changes if first <= step)
        return [(first, weights.tolist()) for first, weights in self._changes if first >= current]

    def loaded(self, state: Any, step: int) -> "Mixture":
        """Return the mixture of a run that goes on at `step` from a state; StateError if it cannot.

        Args:
            state: As `state(step)` returned it.
            step: Where the run goes on.
        """
        num_streams = len(self._changes[0][1])
        try:
            changes = [(first, integer_weights(weights)) for first, weights in state]
            firsts = [first for first, _ in changes]
            are_steps = all(type(first) is int and first >= 0 for first in firsts)
            if not are_steps or sorted(set(firsts)) != firsts or firsts[0] > step:
                raise ValueError(f"changes at steps {firsts}, for step {step}")
        except (TypeError, ValueError, IndexError, ConfigError) as error:
            raise StateError(
                f"the state is damaged (its mixture: {error}): resume from another one"
            ) from error
        if any(len(weights) != num_streams for _, weights in changes):
            raise StateError("the state's mixture is of another number of streams")
        mixture = Mixture(changes[0][1].tolist())
        mixture._changes = changes
        return mixture
