# SPDX-License-Identifier: Apache-2.0
"""Settings of the console, with what each one means and why its default is what it is."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ConfigError

MODES = ("default", "published", "fixed")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsoleConfig:
    """How agents are credited and how their votes become a selection (docs/console.md)."""

    mode: str = "default"
    """"default" repairs the method, "published" is Eq 4-8 to the letter, "fixed" never moves."""

    refresh_steps: int = 50
    """U: training steps between refreshes; refresh r falls when r * U steps are done."""

    policy_lag: int = 8
    """Steps from a refresh to the first batch that its policy selects; at least the prefetch
    depth plus how far the host looks ahead."""

    eta: float | None = None
    """Step of theta (and, published, of the memories). None: 0.5 default, 0.1 published."""

    tau: float = 1.0
    """Default mode: temperature at which a memory tilts its agent's states when its advantage is
    measured, in standard deviations of the reward."""

    discount: float = 0.9
    """Default mode: what a refresh keeps of the memories' past; 0.9 remembers ten refreshes."""

    theta_discount: float = 0.9
    """Default mode: what a refresh keeps of theta's past (of its log odds). At 1.0 the
    exponentiated gradient never forgets and ends at the single best agent."""

    shrink: float = 10.0
    """Default mode: n_0, the number of probes at which a state's mean counts half."""

    clip: float | None = 4.0
    """Default mode: standardised rewards are cut at this many standard deviations and standardised
    again, so that one outlier does not silence the rest. None: no cut."""

    temperature: float | None = None
    """Gumbel temperature in standard deviations of the score over the pool. None: 0.1 default,
    else 0, which is plain top-k."""

    freeze_theta: bool = False
    """Default and published mode: memories move, theta stays (a control)."""

    theta: Mapping[str, float] | None = None
    """First theta by agent ("fixed": the theta); None: 1 / #agents each."""

    memory: Mapping[str, tuple[float, ...]] | None = None
    """"published": first memory by agent, None: uniform, 1 / #states. "fixed": the memory."""

    prior: Mapping[str, tuple[float, ...]] | None = None
    """Default mode: wanted share of each state, by agent (positive); its log odds against the pool
    are added to the memory. None or an agent left out: the pool itself, log odds 0."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming field, value and range."""
        if self.mode not in MODES:
            raise ConfigError(f"mode is {self.mode!r}, must be one of {', '.join(MODES)}")
        for name, least in (("refresh_steps", 1), ("policy_lag", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}, must be an integer of at least {least}")
        for name in ("tau", "eta", "clip"):
            self._check(name, lambda value: value > 0, "> 0")
        for name in ("shrink", "temperature"):
            self._check(name, lambda value: value >= 0, ">= 0")
        for name in ("discount", "theta_discount"):
            self._check(name, lambda value: 0 < value <= 1, "in (0, 1]")
        self._check_mode()

    @property
    def step_size(self) -> float:
        """`eta`, or the mode's own."""
        if self.eta is not None:
            return float(self.eta)
        return 0.1 if self.mode == "published" else 0.5

    @property
    def spread_temperature(self) -> float:
        """`temperature`, or the mode's own."""
        if self.temperature is not None:
            return float(self.temperature)
        return 0.1 if self.mode == "default" else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> ConsoleConfig:
        """Build from a mapping (TOML, JSON); a key that does not exist is an error."""
        known = [item.name for item in fields(cls)]
        for key in settings:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise ConfigError(f"console has no setting {key!r}; {hint}")
        return cls(**settings)

    def _check(self, name: str, holds: Any, wanted: str) -> None:
        value = getattr(self, name)
        if value is None and name in ("eta", "clip", "temperature"):
            return
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not is_number or not holds(value):
            raise ConfigError(f"{name} is {value!r}, must be {wanted}")

    def _check_mode(self) -> None:
        if self.mode == "published" and self.spread_temperature > 0:
            raise ConfigError(
                f"temperature is {self.temperature}, but the published method takes the top k; "
                "leave it out or use mode 'default'"
            )
        if self.mode == "fixed" and self.memory is None:
            raise ConfigError("mode 'fixed' needs a memory: agent name -> one number a state")
        if self.mode == "default" and self.memory is not None:
            raise ConfigError("memory is for modes 'published' and 'fixed'; set a prior instead")
        if self.mode != "default" and self.prior is not None:
            raise ConfigError("prior is for mode 'default'; set a memory instead")
