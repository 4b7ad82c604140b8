# SPDX-License-Identifier: Apache-2.0
"""Policies, and which one is in force at which step.

A policy is published by a refresh and takes effect at a step known in advance, never "when it is
ready": the choice of documents does not depend on timing. Policies are immutable; one thread
publishes, any thread may look them up.
Source: docs/console.md, "Policies by step".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StateError


@dataclass(frozen=True, eq=False)
class Policy:
    """What the ops need to score candidates and select among them.

    The score of a candidate is sum over agents of theta * ((vote - shift) * scale), plus
    `temperature` times a Gumbel variate of its id; its vote is memory[agent, state].

    Args:
        version: Number of refreshes behind it; 0 before the first.
        effective_step: First step (0-based) whose batch it selects.
        theta: [A] float32, agents' weights.
        memory: [A, S] float32, zero beyond an agent's states.
        shift: [A] float32, subtracted from votes.
        scale: [A] float32, multiplies shifted votes.
        temperature: Of the Gumbel variate, in units of the score; 0 takes the top.
    """

    version: int
    effective_step: int
    theta: npt.NDArray[np.float32]
    memory: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    temperature: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; floats keep every bit through JSON."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return arrays | {
            "version": self.version,
            "effective_step": self.effective_step,
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Policy:
        """Rebuild a policy from `to_dict`'s values."""
        arrays = {name: np.array(values[name], dtype=np.float32) for name in _ARRAYS}
        return cls(
            version=int(values["version"]),
            effective_step=int(values["effective_step"]),
            temperature=float(values["temperature"]),
            **arrays,
        )


_ARRAYS = ("theta", "memory", "shift", "scale")


class PolicyTimeline:
    """The policies that batches still to come can need, oldest first.

    Args:
        first: The policy in force from step 0.
        refresh_steps: U, steps between refreshes; None where nothing ever refreshes.
        policy_lag: Steps from a refresh to the first batch of its policy.
    """

    def __init__(self, first: Policy, refresh_steps: int | None, policy_lag: int) -> None:
        self._policies = [first]
        self._refresh_steps = refresh_steps
        self._policy_lag = policy_lag

    @property
    def latest(self) -> Policy:
        """The newest policy, in force or not yet."""
        return self._policies[-1]

    def effective_step(self, refresh: int) -> int:
        """First step that refresh number `refresh` (1, 2, ...) selects."""
        assert self._refresh_steps is not None
        return refresh * self._refresh_steps + self._policy_lag

    def wanted_version(self, step: int) -> int:
        """Version that must be in force at a step."""
        if self._refresh_steps is None:
            return 0
        return max(0, (step - self._policy_lag) // self._refresh_steps)

    def at(self, step: int) -> Policy:
        """Return the policy in force for the batch of a step (0-based).

        Raises:
            StateError: Its refresh has not been credited yet, or the step lies too far back.
        """
        wanted = self.wanted_version(step)
        if wanted > self.latest.version:
            refresh = self.latest.version + 1
            raise StateError(
                f"step {step} needs policy {wanted}, but refresh {refresh} (effective at step "
                f"{self.effective_step(refresh)}) has not been credited; credit its probes first "
                "or raise policy_lag"
            )
        kept = self._policies  # publish() replaces the list, it never changes one
        for policy in reversed(kept):
            if policy.version == wanted:
                return policy
        raise StateError(
            f"step {step} needs policy {wanted}, which is no longer kept (oldest: "
            f"{kept[0].version}); resume from an earlier checkpoint"
        )

    def publish(self, policy: Policy) -> None:
        """Append the next policy and drop those that no batch to come can need."""
        assert policy.version == self.latest.version + 1
        assert self._refresh_steps is not None
        # One refresh interval of grace: the record of the step just taken may still be written.
        oldest = self.wanted_version((policy.version - 1) * self._refresh_steps)
        self._policies = [*(kept for kept in self._policies if kept.version >= oldest), policy]

    def state(self) -> list[dict[str, Any]]:
        """Return the kept policies as plain values."""
        return [policy.to_dict() for policy in self._policies]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Replace the kept policies."""
        policies = [Policy.from_dict(values) for values in state]
        versions = [policy.version for policy in policies]
        if not versions or versions != list(range(versions[0], versions[0] + len(versions))):
            raise StateError(f"the saved policies are not consecutive: versions {versions}")
        self._policies = policies
