# SPDX-License-Identifier: Apache-2.0
"""From the console's budgets and probe losses to mixtures that change at stated steps.

A horizon of steps is cut into rounds. At the start of round r the probe losses are handed in; what
they say decides round r + lag_rounds, so a decision never depends on how far batches are made
ahead. All of it is a function of (budgets, settings, what was observed). Suffix N stands for units.
Source: docs/d3.md, "Pacing".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, StateError
from .advantage import Floats, Order, check_finite
from .config import ScheduleConfig
from .edges import EdgeAverage, relative
from .pacing import Belief, Round, believe, integer_counts, no_belief, pace
from .packed import check_keys, damaged, whole
from .regression import Regression


class Change(NamedTuple):
    """From a step on the units are drawn by these weights, whole numbers."""

    step: int
    weights: list[int]


class Schedule:
    """Paces units over horizons.

    Args:
        weights: [N] >= 0, what the console wants of each unit, on any scale: the mixture in force.
        config: How.
        per_step: Documents (or other parts) of a step that counts can tell apart; 1 with
            inside="ordered", where a step is of one unit.
        begin: The step at which the first horizon begins.

    Raises:
        ConfigError: A unit that is wanted would get nothing over the horizon.
    """

    def __init__(
        self, weights: Sequence[int], config: ScheduleConfig, per_step: int = 1, begin: int = 0
    ) -> None:
        self.config = config
        self._begin = begin
        self._per_step = per_step
        if per_step < 1 or (config.inside == "ordered" and per_step != 1):
            raise ConfigError(f"per_step is {per_step}: 1 with inside='ordered', else at least 1")
        self._weights: list[int] = []
        self._take_weights(weights)
        num_units = len(self._weights)
        self._regression = Regression(num_units)
        self._average = EdgeAverage()
        self._belief = no_belief(num_units)
        self._in_force = self._quiet = list(self._weights)
        self._remaining = self.budgets
        self._rounds: list[Round] = []  # decided and not yet observed whole
        self._num_observed = self._num_decided = 0
        self._losses: Floats | None = None
        self._planned = np.zeros(num_units, np.int64)  # over all rounds behind
        for _ in range(config.lag_rounds):
            self._decide()  # nothing is known: the console's mix

    @property
    def budgets(self) -> Order:
        """[N] int64: what a horizon spends of each unit, exactly."""
        size = self.config.horizon_steps * self._per_step
        weights_N = np.array(self._weights, np.float64)
        return integer_counts(weights_N / weights_N.sum(), size, np.full(len(weights_N), size))

    @property
    def belief(self) -> Belief:
        """What is held of the units now."""
        return self._belief

    @property
    def rounds(self) -> list[Round]:
        """The rounds decided, from the one under way on."""
        return list(self._rounds)

    @property
    def num_observed(self) -> int:
        """The rounds observed, and so the one that is due next."""
        return self._num_observed

    @property
    def decided_until(self) -> int:
        """The first step of the first round that is not decided."""
        return self._first_step(self._num_decided)

    def round_due(self, steps_done: int) -> int | None:
        """Return the round that begins after so many steps if its losses are wanted, else None."""
        is_due = steps_done == self._first_step(self._num_observed)
        return self._num_observed if is_due else None

    def renew(self, weights: Sequence[int]) -> None:
        """Spend other budgets from the next horizon that is not begun to be planned.

        Raises:
            ConfigError: As at the beginning, or they are of other units.
        """
        if len(weights) != len(self._weights):
            raise ConfigError(f"{len(weights)} weights for {len(self._weights)} units")
        self._take_weights(weights)

    def observe(
        self,
        round_id: int,
        losses: ArrayLike,
        influence: ArrayLike | None = None,
        error: ArrayLike | None = None,
    ) -> list[Change]:
        """Take in what the probes say at the start of a round, and decide one more round.

        Args:
            round_id: As `round_due` gave it.
            losses: [N] > 0, of each unit's probes.
            influence: [N, N], with edges="lookahead": see `lookahead`; None keeps the last.
            error: [N, N], its standard errors.

        Returns:
            What changes, from which step on; nothing where the mixture in force goes on.

        Raises:
            StateError: It is the turn of another round.
            ValueError: Losses do not fit, or influence comes without its error.
        """
        if round_id != self._num_observed:
            raise StateError(f"round {round_id} is not due: round {self._num_observed} is")
        losses_N = np.asarray(losses, np.float64)
        if losses_N.shape != (len(self._weights),) or not (losses_N > 0).all():
            raise ValueError(f"losses {losses_N.tolist()} must be {len(self._weights)}, all > 0")
        check_finite("losses", losses_N)
        self._learn(losses_N, influence, error)
        self._losses = losses_N.copy()
        self._num_observed += 1
        return self._decide()

    def skip(self) -> list[Change]:
        """Decide one more round without the losses of the one that is due."""
        self._leave()
        self._losses = None
        self._num_observed += 1
        return self._decide()

    def metrics(self, consumed: ArrayLike | None = None) -> dict[str, float]:
        """Return one flat dict; `consumed` [N] is what was really drawn of each unit so far."""
        values = {
            "schedule/units": float(len(self._weights)),
            "schedule/edges": float(self._belief.num_edges),
            "schedule/rounds": float(self._num_observed),
            "schedule/delta": self._belief.delta,
            "schedule/divergence": self._rounds[-1].divergence if self._rounds else 0.0,
        }
        for name, counts in (("planned", self._planned), ("consumed", consumed)):
            counts_N = np.asarray(np.zeros(0) if counts is None else counts, np.float64)
            total = float(counts_N.sum())
            for unit, count in enumerate(counts_N.tolist()):
                values[f"schedule/{name}_{unit}(%)"] = 100 * count / total if total else 0.0
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, whose size does not grow with steps."""
        return {
            "config": asdict(self.config),
            "per_step": self._per_step,
            "weights": list(self._weights),
            "in_force": list(self._in_force),
            "quiet": list(self._quiet),
            "remaining": self._remaining.tolist(),
            "rounds": [[r.counts.tolist(), r.order.tolist(), r.divergence] for r in self._rounds],
            "num_observed": self._num_observed,
            "losses": None if self._losses is None else self._losses.tolist(),
            "planned": self._planned.tolist(),
            "regression": self._regression.state_dict(),
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, to the bit, in the middle of a round as well.

        Raises:
            StateError: It is damaged, or of other units or settings.
        """
        check_keys(state, set(self.state_dict()))
        if state["config"] != asdict(self.config) or state["per_step"] != self._per_step:
            raise StateError(f"the schedule was {state['config']}, is {asdict(self.config)}")
        num_units, lag = len(self._weights), self.config.lag_rounds
        lists = {name: _counts(name, state[name], num_units) for name in _LISTS}
        observed = whole("num_observed", state["num_observed"])
        rounds = [_round(written, num_units) for written in state["rounds"]]
        if len(rounds) not in (lag, lag + 1) or len(rounds) > observed + lag:
            raise damaged(f"{len(rounds)} rounds")
        losses = state["losses"]
        regression, average = Regression(num_units), EdgeAverage()
        regression.load_state_dict(state["regression"])
        average.load_state_dict(state["average"])
        if average.influence is not None and len(average.influence) != num_units:
            raise damaged("its influence is of other units")
        self._losses = None if losses is None else np.array(_losses(losses, num_units))
        self._weights, self._in_force, self._quiet = (lists[name].tolist() for name in _LISTS[:3])
        self._remaining, self._planned = lists["remaining"], lists["planned"]
        self._rounds, self._num_observed = rounds, observed
        self._num_decided = observed + lag
        self._regression, self._average = regression, average
        self._belief = self._believe()

    def _take_weights(self, weights: Sequence[int]) -> None:
        before, self._weights = self._weights, [int(weight) for weight in weights]
        try:
            if not self._weights or min(self._weights) < 0 or not any(self._weights):
                raise ConfigError(f"weights must be from 0 on, one above 0, not {list(weights)}")
            starved = np.flatnonzero((self.budgets == 0) & (np.array(self._weights) > 0))
            if len(starved):
                raise ConfigError(
                    f"unit {starved[0]} gets nothing in {self.config.horizon_steps} steps: raise "
                    "horizon_steps, or merge units"
                )
        except ConfigError:
            self._weights = before
            raise

    def _learn(
        self, losses_N: Floats, influence: ArrayLike | None, error: ArrayLike | None
    ) -> None:
        if (influence is None) != (error is None):
            raise ValueError("influence and its error go together")
        if influence is not None and error is not None:
            if self.config.edges != "lookahead":
                raise ValueError("influence is handed in, but edges are learnt by regression")
            self._average.update(relative(influence, losses_N), relative(error, losses_N))
        done = self._leave()
        if done is not None and self._losses is not None and self.config.edges == "regression":
            drops_N = (self._losses - losses_N) / self._losses
            self._regression.update(done.counts / done.counts.sum(), drops_N)
        self._belief = self._believe()

    def _leave(self) -> Round | None:
        """Count the round before the one that is due, if there is one, and return it."""
        if not self._num_observed:
            return None
        done = self._rounds.pop(0)
        self._planned += done.counts
        return done

    def _believe(self) -> Belief:
        settings = {"delta": self.config.delta, "num_errors": self.config.num_errors}
        if self.config.edges == "regression":
            error = self._regression.error
            return believe(self._regression.influence, error, **settings)
        if self._average.influence is None or self._average.error is None:
            return no_belief(len(self._weights))
        return believe(self._average.influence, self._average.error, **settings)

    def _decide(self) -> list[Change]:
        config, round_id = self.config, self._num_decided
        within = round_id % config.rounds_per_horizon
        if within == 0:
            self._remaining = self.budgets
            self._quiet = list(self._weights)
        steps = min(config.round_steps, config.horizon_steps - within * config.round_steps)
        made = pace(self._remaining, steps * self._per_step, self._belief, config.floor)
        self._remaining = self._remaining - made.counts
        self._rounds.append(made)
        self._num_decided += 1
        return self._changes(self._first_step(round_id), made)

    def _first_step(self, round_id: int) -> int:
        return self._begin + self.config.first_step(round_id)

    def _changes(self, step: int, made: Round) -> list[Change]:
        if self._belief.is_empty:  # as it came: not even the same weights anew
            wanted = [Change(step, self._quiet)]
        elif self.config.inside == "mixed":
            wanted = [Change(step, made.counts.tolist())]
        else:
            ends = step + np.cumsum(made.counts[made.order])
            firsts = (ends - made.counts[made.order]).tolist()
            units = np.eye(len(made.counts), dtype=np.int64)[made.order].tolist()
            wanted = [Change(*pair) for pair in zip(firsts, units, strict=True)]
        if not self._belief.is_empty and self._remaining.any():
            self._quiet = self._remaining.tolist()  # what a round without belief would go on with
        changes = []
        for change in wanted:
            if change.weights != self._in_force:
                changes.append(change)
            self._in_force = change.weights
        return changes


_LISTS = ("weights", "in_force", "quiet", "remaining", "planned")


def _counts(name: str, values: Any, num_units: int) -> Order:
    if not isinstance(values, list) or len(values) != num_units:
        raise damaged(f"{name} is not of {num_units} units")
    return np.array([whole(name, value) for value in values], np.int64)


def _losses(values: Any, num_units: int) -> list[float]:
    is_list = isinstance(values, list) and len(values) == num_units
    if not is_list or not all(isinstance(v, float) and 0 < v < math.inf for v in values):
        raise damaged("losses")
    return values


def _round(written: Any, num_units: int) -> Round:
    try:
        counts, order, kl = written
        counts_N = _counts("rounds", counts, num_units)
        if sorted(order) != np.flatnonzero(counts_N).tolist() or not 0 <= kl < math.inf:
            raise damaged("rounds")
    except (TypeError, ValueError) as error:
        raise damaged(f"rounds: {error}") from error
    return Round(counts_N, np.array(order, np.int64), counts_N / counts_N.sum(), float(kl))
