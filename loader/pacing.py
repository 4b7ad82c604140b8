# SPDX-License-Identifier: Apache-2.0
"""The schedule of a loader: its rounds become the weights by which units or streams are drawn.

Units are those of stored labels under a console, whose table gives the budgets, or the streams of a
loader without one. A round's weights are stated before a step of it may be planned; where it is the
console's own mix that holds, nothing is stated, so without influence the stream is bit for bit that
of no schedule. A horizon of a console that learns is the life of one policy, whose table its
budgets are. Source: docs/d3.md, "The schedule".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .config import LoaderConfig
from .console import ConsoleConfig
from .errors import ConfigError, StateError
from .order import Mixture
from .prefetch import Source
from .schedule.config import ScheduleConfig
from .schedule.pacing import integer_counts
from .schedule.schedule import Schedule
from .schedule.streams import schedule_streams
from .steps import BLOCK_STEPS, Step
from .stored import StoredChoice


class Pacer:
    """Paces what a loader draws.

    Args:
        config: Of the loader, with a schedule.
        source: Whose order is paced.
        mixture: What its planner asks for weights.

    Raises:
        ConfigError: It cannot be paced.
    """

    def __init__(
        self, config: LoaderConfig, source: Source, mixture: Mixture | StoredChoice
    ) -> None:
        assert config.schedule is not None
        self._source = source
        self._mixture = mixture
        is_stored = isinstance(mixture, StoredChoice)
        # Units are planned no further than is decided; streams as far as a plan may reach.
        ahead = config.depth + 1 + (0 if is_stored else BLOCK_STEPS)
        self._size = config.schedule.horizon_steps
        if config.schedule.inside == "mixed":
            self._size *= config.batch_rows // source.order.num_strands
        begin = 0
        if isinstance(mixture, StoredChoice) and mixture.console.next_policy_step(0) is not None:
            begin = mixture.console.config.policy_lag
            _check_horizons(config.schedule, mixture.console.config)
        self._own = self._fed(mixture.at(0))
        self.schedule: Schedule = schedule_streams(
            config.schedule,
            config,
            weights=self._own,
            num_strands=source.order.num_strands,
            steps_ahead=ahead,
            begin=begin,
        )
        self._consumed = np.zeros(len(self._own), np.int64)
        self._num_skipped = 0
        self._tell()

    def renew(self, weights: np.ndarray) -> None:
        """Spend by other weights from the next horizon on that is not begun to be planned."""
        self._own = self._fed(weights)
        self.schedule.renew(self._own)

    def observe(
        self,
        round_id: int,
        losses: ArrayLike,
        influence: ArrayLike | None = None,
        error: ArrayLike | None = None,
    ) -> None:
        """Take in what the probes say at the start of a round; see `Schedule.observe`."""
        self._apply(self.schedule.observe(round_id, losses, influence, error))

    def skip(self) -> None:
        """Go on without the losses of the round that is due; counted in `metrics`."""
        self._num_skipped += 1
        self._apply(self.schedule.skip())

    def waits_for(self, step: int) -> int | None:
        """Return the round whose losses must come before a step is planned, or None."""
        return self.schedule.num_observed if step >= self.schedule.decided_until else None

    def delivered(self, step: Step) -> None:
        """Count the documents that begin in a batch."""
        candidates = step.candidates
        new = np.flatnonzero(candidates.offset == 0)
        shards, rows = candidates.shard[new], candidates.row[new]
        if self._source.units is not None:
            units = self._source.units.units_of(shards, rows)
        else:
            first = self._source.corpus.first_shard
            units = np.searchsorted(first, shards, side="right") - 1
        self._consumed += np.bincount(units, minlength=len(self._consumed))

    @property
    def consumed(self) -> list[int]:
        """Documents of each unit that this process has delivered so far."""
        return self._consumed.tolist()

    def metrics(self) -> dict[str, float]:
        """Return the schedule's numbers, planned and consumed shares among them."""
        skipped = {"schedule/skipped": float(self._num_skipped)}
        return self.schedule.metrics(self._consumed) | skipped

    def state(self) -> dict[str, Any]:
        """Return plain values."""
        return {"schedule": self.schedule.state_dict(), "own": self._own}

    def load(self, state: Any, mixture: Mixture | StoredChoice) -> None:
        """Go on from a state, with the mixture that was loaded beside it.

        Raises:
            StateError: It is damaged, or of another schedule.
        """
        if not isinstance(state, Mapping) or set(state) != {"schedule", "own"}:
            raise StateError("the state holds no schedule: resume without one, or from another")
        self.schedule.load_state_dict(state["schedule"])
        self._own = [int(weight) for weight in state["own"]]
        self._mixture = mixture
        self._tell()

    def _apply(self, changes: list[Any]) -> None:
        for change in changes:
            is_own = self.schedule.belief.is_empty and change.weights == self._own
            if isinstance(self._mixture, StoredChoice):
                self._mixture.change(change.step, None if is_own else change.weights)
            else:
                self._mixture.change(change.step, change.weights)
        self._tell()  # what is planned from here on sees the changes

    def _tell(self) -> None:
        if isinstance(self._mixture, StoredChoice):
            self._mixture.decided_until = self.schedule.decided_until

    def _fed(self, weights: np.ndarray) -> list[int]:
        """Leave out units of which a horizon would hold no document."""
        left = weights.astype(np.float64)
        while left.any():
            counts = integer_counts(left / left.sum(), self._size, np.full(len(left), self._size))
            if not ((counts == 0) & (left > 0)).any():
                return np.where(left > 0, weights, 0).tolist()
            left[counts == 0] = 0
        raise ConfigError("a schedule has nothing to pace: no unit is drawn")


def _check_horizons(schedule: ScheduleConfig, console: ConsoleConfig) -> None:
    """Refuse rounds that would be decided before the policy of their horizon is there."""
    lag = schedule.lag_rounds * schedule.round_steps
    if schedule.horizon_steps != console.refresh_steps or lag > console.policy_lag:
        raise ConfigError(
            f"schedule.horizon_steps {schedule.horizon_steps} must be the console's refresh_steps "
            f"{console.refresh_steps}, and lag_rounds * round_steps {lag} at most its policy_lag "
            f"{console.policy_lag}: a horizon spends the budgets of one policy"
        )
