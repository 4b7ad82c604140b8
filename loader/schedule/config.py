# SPDX-License-Identifier: Apache-2.0
"""The settings of a schedule, checked before anything is planned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How units are paced."""

    horizon_steps: int
    """Steps over which the budgets are spent exactly; then they begin anew."""
    round_steps: int
    """Steps of a round; the last of a horizon may be shorter."""
    lag_rounds: int = 1
    """Rounds between the losses and the first round that they decide."""
    delta: float = 0.5
    """The trust region: how far a round may stray from the mix of what is left, in nats."""
    floor: float = 0.1
    """The part of its share of what is left that every unit keeps in every round."""
    num_errors: float = 2.0
    """Standard errors that an advantage must exceed to bind."""
    edges: Literal["regression", "lookahead"] = "regression"
    """Learnt from the probe losses alone, or from influence that is handed in with them."""
    inside: Literal["mixed", "ordered"] = "mixed"
    """A round is one mixture, or its units come one after the other in whole steps."""

    def __post_init__(self) -> None:
        """Refuse what cannot be scheduled."""
        if not 1 <= self.round_steps <= self.horizon_steps or self.lag_rounds < 0:
            raise ConfigError(
                f"schedule.round_steps {self.round_steps} must be in [1, horizon_steps "
                f"{self.horizon_steps}], lag_rounds {self.lag_rounds} >= 0"
            )
        if not 0 <= self.delta < math.inf or not 0 <= self.floor <= 1 or not self.num_errors >= 0:
            raise ConfigError(
                f"schedule.delta {self.delta} must be >= 0 and finite, floor {self.floor} in "
                f"[0, 1], num_errors {self.num_errors} >= 0"
            )
        if self.edges not in ("regression", "lookahead") or self.inside not in ("mixed", "ordered"):
            raise ConfigError(
                f"schedule.edges {self.edges!r} must be 'regression' or 'lookahead', inside "
                f"{self.inside!r} 'mixed' or 'ordered'"
            )

    @property
    def rounds_per_horizon(self) -> int:
        """Rounds of a horizon."""
        return -(-self.horizon_steps // self.round_steps)

    def first_step(self, round_id: int) -> int:
        """Return the step at which a round begins; rounds count from 0 over the whole run."""
        horizon, within = divmod(round_id, self.rounds_per_horizon)
        return horizon * self.horizon_steps + within * self.round_steps
