# SPDX-License-Identifier: Apache-2.0
"""The do-no-harm gate: batches are reordered only while there is evidence that it helps.

Chunks of steps come in pairs. In a trial pair one chunk, drawn by seed, is ordered and the other
left as it came; the difference of their drops in probe loss is one observation. Where the order
changes nothing, the draw alone decides the observation's sign, so its sign is a fair coin whatever
the losses do, and a gambler who bets on "ordering helps" gains nothing on average. His wealth is
the evidence: the gate opens when it reaches 1/alpha, which without a gain happens with probability
at most alpha, looked at after every trial and for ever; it closes when all that was won is lost.
Deterministic; all of it is in the state.
Source: Ville 1939; betting on bounded means, Waudby-Smith and Ramdas 2024; docs/d3.md, "The gate".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from ..errors import ConfigError, StateError

NUM_SIZES = 16  # trials whose median size scales the next


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """What it takes to open the gate."""

    alpha: float = 0.05
    """Largest probability of ever opening where ordering does not help; anew after each closing."""
    trial_every: int = 2
    """Every so manyth pair is a trial, whether the gate is open or closed."""
    max_sharpness: float = 0.5
    """Nothing is ordered where eta L lambda_max is above it: the edges do not hold there."""
    bet: float = 0.5
    """Share of the wealth put on each trial; more opens sooner on large gains, later on small."""
    seed: int = 0
    """Of the draw which chunk of a trial pair is ordered."""

    def __post_init__(self) -> None:
        """Refuse what is no test."""
        if not (0 < self.alpha < 1 and 0 < self.bet < 1):
            raise ConfigError(f"gate.alpha {self.alpha} and gate.bet {self.bet} must be in (0, 1)")
        if self.trial_every < 1 or not self.max_sharpness >= 0 or self.seed < 0:
            raise ConfigError(
                f"gate.trial_every {self.trial_every} must be >= 1, gate.max_sharpness "
                f"{self.max_sharpness} and gate.seed {self.seed} >= 0"
            )


class Gate:
    """Says of each chunk whether it is ordered; closed at first.

    A chunk: `begin` if `needs_sharpness`, then `orders_next` and `measures_next`, then `observe`.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()
        self._pair = 0
        self._ordered: tuple[bool, bool] | None = None  # of the pair under way
        self._is_trial = False
        self._drops: list[float] = []
        self._num_done = 0  # chunks of the pair under way
        self._is_refused = False
        self._has_evidence = False
        self._stakes = _Stakes()
        self._sizes: list[float] = []
        self._num_trials = 0
        self._num_refused = 0
        self._sum_gain = 0.0

    @property
    def needs_sharpness(self) -> bool:
        """Whether a pair is to begin."""
        return self._ordered is None

    @property
    def is_open(self) -> bool:
        """Whether there is evidence of a gain and the last pair was not refused."""
        return self._has_evidence and not self._is_refused

    @property
    def orders_next(self) -> bool:
        """Whether the next chunk is to be ordered."""
        return self._under_way()[self._num_done]

    @property
    def measures_next(self) -> bool:
        """Whether `observe` wants the drop of the next chunk."""
        self._under_way()
        return self._is_trial

    def begin(self, sharpness: float) -> None:
        """Begin a pair of chunks.

        Args:
            sharpness: eta L lambda_max as it stands, with L the steps of a chunk; NaN is refused.

        Raises:
            StateError: A pair is under way.
        """
        if self._ordered is not None:
            raise StateError(f"pair {self._pair} is under way: observe both of its chunks first")
        self._is_refused = not sharpness <= self.config.max_sharpness
        self._num_refused += self._is_refused
        self._is_trial = not self._is_refused and self._pair % self.config.trial_every == 0
        if self._is_trial:
            is_first = self._draws_first()
            self._ordered = (is_first, not is_first)
        else:
            self._ordered = (self.is_open, self.is_open)

    def observe(self, drop: float | None = None) -> None:
        """End a chunk.

        Args:
            drop: How far the probe loss fell over the chunk, as a share of it; None where
                `measures_next` was False.

        Raises:
            StateError: No pair is under way.
            ValueError: A drop is missing, not finite, or not asked for.
        """
        ordered = self._under_way()
        if self._is_trial != (drop is not None) or not math.isfinite(drop or 0.0):
            raise ValueError(f"drop is {drop}: give a finite one where measures_next, else None")
        if drop is not None:
            self._drops.append(float(drop))
        self._num_done += 1
        if self._num_done < 2:
            return
        if self._is_trial:
            first, second = self._drops
            self._score(first - second if ordered[0] else second - first)
        self._pair += 1
        self._ordered, self._drops, self._num_done = None, [], 0

    def metrics(self) -> dict[str, float]:
        """Return the evidence as scalars; gain is the mean over all trials."""
        return {
            "schedule/gate_open": float(self.is_open),
            "schedule/gate_evidence": math.log10(self._stakes.wealth),
            "schedule/gate_gain": self._sum_gain / max(self._num_trials, 1),
            "schedule/gate_trials": float(self._num_trials),
            "schedule/gate_refused": float(self._num_refused),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, under 1 KiB however long the run."""
        return {
            "config": asdict(self.config),
            "pair": self._pair,
            "ordered": None if self._ordered is None else list(self._ordered),
            "is_trial": self._is_trial,
            "drops": list(self._drops),
            "num_done": self._num_done,
            "is_refused": self._is_refused,
            "has_evidence": self._has_evidence,
            "stakes": [self._stakes.staked, self._stakes.num_staked],
            "sizes": list(self._sizes),
            "counts": [self._num_trials, self._num_refused],
            "sum_gain": self._sum_gain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; exact.

        Raises:
            StateError: The state is of a gate with another configuration.
        """
        if state["config"] != asdict(self.config):
            raise StateError(f"the gate was {state['config']}, is {asdict(self.config)}")
        self._pair, self._is_trial = state["pair"], state["is_trial"]
        ordered = state["ordered"]
        self._ordered = None if ordered is None else (bool(ordered[0]), bool(ordered[1]))
        self._drops, self._num_done = list(state["drops"]), state["num_done"]
        self._is_refused, self._has_evidence = state["is_refused"], state["has_evidence"]
        self._stakes = _Stakes(*state["stakes"])
        self._sizes = list(state["sizes"])
        self._num_trials, self._num_refused = state["counts"]
        self._sum_gain = state["sum_gain"]

    def _under_way(self) -> tuple[bool, bool]:
        if self._ordered is None:
            raise StateError("no pair is under way: begin(sharpness) first")
        return self._ordered

    def _draws_first(self) -> bool:
        """Draw whether the first chunk of the pair is the ordered one; raw bits never change."""
        return bool(int(np.random.PCG64([self.config.seed, self._pair]).random_raw()) >> 63)

    def _score(self, gain: float) -> None:
        """Settle the bet on one trial, then open or close."""
        # The scale knows earlier trials only. Clipped, one wild pair weighs as much as any other.
        scale = median(self._sizes) if self._sizes else 0.0
        share = max(-1.0, min(1.0, gain / scale)) if scale else math.copysign(gain != 0, gain)
        self._stakes.settle(1 + self.config.bet * share)
        self._sizes = [*self._sizes, abs(gain)][-NUM_SIZES:]
        self._num_trials += 1
        self._sum_gain += gain
        if self._stakes.wealth >= 1 / self.config.alpha:
            self._has_evidence = True
            self._stakes.limit(1 / self.config.alpha)
        elif self._has_evidence and self._stakes.wealth < 1:
            self._has_evidence = False  # all that was won is lost
            self._stakes = _Stakes()


class _Stakes:
    """The gambler's wealth: 1 at first, of which 1 / (t (t + 1)) is put in at trial t.

    Put in whole at the start, it would be gone where the gain only begins after a thousand trials.
    """

    def __init__(self, staked: float = 0.0, num_staked: int = 0) -> None:
        self.staked = staked
        self.num_staked = num_staked

    @property
    def wealth(self) -> float:
        """What is staked, and what is still held back."""
        return self.staked + 1 / (self.num_staked + 1)

    def settle(self, factor: float) -> None:
        """Put in the next part and multiply all that is staked."""
        self.num_staked += 1
        part = 1 / (self.num_staked * (self.num_staked + 1))
        self.staked = factor * (self.staked + part)

    def limit(self, wealth: float) -> None:
        """Give away what exceeds this, so that old evidence does not outlive the gain."""
        self.staked = wealth - 1 / (self.num_staked + 1)
