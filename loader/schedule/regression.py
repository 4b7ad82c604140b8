# SPDX-License-Identifier: Apache-2.0
"""Influence learnt from loss probes that happen anyway, by recursive least squares.

Between two probes the units were trained in some shares n, and the losses dropped by d: d = E^T n +
noise. Old rounds are forgotten only along the shares just seen, so a steady mix does not make what
it does not test uncertain without end. A steady mix does not teach it either: differing rounds do.
Source: docs/d3.md; forgetting after Cao and Schwartz 2000, residuals after Brown, Durbin and
Evans 1975.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, check_finite
from .packed import check_keys, damaged, pack, unpack, whole


class Regression:
    """The drop of each unit's loss for each unit's share of training, learnt round by round.

    Args:
        num_units: N >= 1.
        forget: In (0, 1]: what a round keeps of the information along its shares, one direction of
            N, so it may be lower than if all were forgotten; 1 is ridge regression over all rounds.
        ridge: > 0: weight of the first guess, which is no influence, in rounds of one unit alone.
    """

    def __init__(self, num_units: int, forget: float = 0.7, ridge: float = 0.01) -> None:
        if num_units < 1 or not 0 < forget <= 1 or not 0 < ridge < np.inf:
            raise ValueError(
                f"num_units {num_units} must be >= 1, forget {forget} in (0, 1], ridge {ridge} > 0"
            )
        self._forget = forget
        self._drop_NN = np.zeros((num_units, num_units))  # [trained, probed]
        self._information_NN = ridge * np.eye(num_units)  # inverse of the least-squares P
        self._num_rounds = 0
        self._noise_N = np.zeros(num_units)  # weighted sum of squared residuals by probed unit
        self._noise_weight = 0.0

    @property
    def influence(self) -> Floats:
        """I_ij, [N, N]: change of loss j by a round that trains unit i alone. A copy."""
        return -self._drop_NN

    @property
    def error(self) -> Floats:
        """Standard errors of the influence, [N, N], on the safe side under forgetting.

        Infinite until there were more rounds than units: before, no residual tells the noise.
        """
        if not self._noise_weight:
            return np.full_like(self._drop_NN, np.inf)
        variance_N = np.diag(np.linalg.inv(self._information_NN))
        return np.sqrt(np.outer(variance_N, self._noise_N / self._noise_weight))

    def update(self, shares: ArrayLike, drops: ArrayLike) -> None:
        """Take in one round.

        Args:
            shares: [N] share of the round's training by unit, >= 0, sum 1.
            drops: [N] probe loss before the round less the one after, absolute or relative.

        Raises:
            ValueError: A shape does not fit, a value is not finite, or shares are no shares.
        """
        shares_N, drops_N = np.asarray(shares, np.float64), np.asarray(drops, np.float64)
        num_units = len(self._drop_NN)
        if shares_N.shape != (num_units,) or drops_N.shape != (num_units,):
            raise ValueError(
                f"shares {shares_N.shape} and drops {drops_N.shape} must both be [{num_units}]"
            )
        check_finite("shares", shares_N)
        check_finite("drops", drops_N)
        if (shares_N < 0).any() or abs(shares_N.sum() - 1) > 1e-6:
            raise ValueError(f"shares {shares_N.tolist()} must be >= 0 and add up to 1")
        residual_N = drops_N - self._drop_NN.T @ shares_N
        self._observe_noise(shares_N, residual_N)
        seen_N = self._information_NN @ shares_N
        self._information_NN += np.outer(shares_N, shares_N)
        self._information_NN -= (1 - self._forget) / (shares_N @ seen_N) * np.outer(seen_N, seen_N)
        gain_N = np.linalg.solve(self._information_NN, shares_N)
        self._drop_NN += np.outer(gain_N, residual_N)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values: 22 bytes a pair of units."""
        return {
            "forget": self._forget,
            "num_rounds": self._num_rounds,
            "drop": pack(self._drop_NN),
            "information": pack(self._information_NN),
            "noise": pack(self._noise_N),
            "noise_weight": self._noise_weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, to the bit; nothing is changed where it is refused.

        Raises:
            StateError: It is damaged, or of other units or another `forget`.
        """
        check_keys(state, set(self.state_dict()))
        if state["forget"] != self._forget:
            raise damaged(f"forget was {state['forget']!r}, is {self._forget}")
        shape = self._drop_NN.shape
        drop_NN = unpack("drop", state["drop"], shape)
        information_NN = unpack("information", state["information"], shape)
        noise_N = unpack("noise", state["noise"], shape[:1])
        weight, num_rounds = state["noise_weight"], whole("num_rounds", state["num_rounds"])
        if not isinstance(weight, int | float) or not 0 <= weight < np.inf or (noise_N < 0).any():
            raise damaged("noise is negative or not finite")
        if np.linalg.eigvalsh(information_NN)[0] <= 0:
            raise damaged("information is not positive")
        self._drop_NN, self._information_NN, self._noise_N = drop_NN, information_NN, noise_N
        self._noise_weight, self._num_rounds = float(weight), num_rounds

    def _observe_noise(self, shares_N: Floats, residual_N: Floats) -> None:
        """Add the residual, standardised by its own uncertainty, once the units are determined."""
        self._num_rounds += 1
        if self._num_rounds <= len(shares_N):
            return
        spread = 1 + shares_N @ np.linalg.solve(self._information_NN, shares_N)
        self._noise_N = self._forget * self._noise_N + residual_N**2 / spread
        self._noise_weight = self._forget * self._noise_weight + 1
