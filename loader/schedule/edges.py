# SPDX-License-Identifier: Apache-2.0
"""Influence between units from measured losses, with its standard errors.

Suffixes: N units, M probe documents of a unit. No model is touched here: whoever takes the virtual
steps hands in the losses. I[i, j] < 0 says that a step on unit i lowers the loss of unit j.
Source: docs/d3.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .advantage import Floats, check_finite, square
from .packed import check_keys, damaged, pack, unpack, whole


def lookahead(before: ArrayLike, after: ArrayLike) -> Floats:
    """Return I_ij = loss_j(theta - eta P g_i) - loss_j(theta), [N, N].

    Args:
        before: [N] loss of each unit's probes before any step.
        after: [N, N], after[i, j] the loss of unit j's probes after one step on unit i alone.

    Raises:
        ValueError: Shapes do not fit, or a loss is not finite.

    Source: Xu et al. 2026, the definition of influence, with the trainer's own step.
    """
    after_NN = square("after", after)
    return after_NN - _losses(before, len(after_NN))


def lookahead_error(before: ArrayLike, after: ArrayLike) -> Floats:
    """Return the standard errors of `lookahead`, [N, N], from losses by document.

    The same documents are measured before and after, so what differs between documents cancels.

    Args:
        before: [N, M], M >= 2.
        after: [N, N, M], after[i, j, m] the loss of document m of unit j after a step on unit i.

    Raises:
        ValueError: Shapes do not fit, or a loss is not finite.
    """
    before_NM, after_NNM = np.asarray(before, np.float64), np.asarray(after, np.float64)
    fits = before_NM.ndim == 2 and after_NNM.shape == (len(before_NM), *before_NM.shape)
    if not fits or before_NM.shape[1] < 2:
        raise ValueError(
            f"before {before_NM.shape} must be [units, documents] with at least two documents, "
            f"after {after_NNM.shape} must be [units, units, documents]"
        )
    check_finite("before", before_NM)
    check_finite("after", after_NNM)
    changes_NNM = after_NNM - before_NM
    return changes_NNM.std(axis=2, ddof=1) / np.sqrt(before_NM.shape[1])


def relative(change: ArrayLike, before: ArrayLike) -> Floats:
    """Return influence, or its standard errors, as shares of the loss: column j over loss_j.

    A unit of large loss would otherwise order all the others.

    Args:
        change: [N, N] influence or standard errors.
        before: [N] losses, > 0.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or a loss is not positive.
    """
    change_NN = square("change", change)
    before_N = _losses(before, len(change_NN))
    if not (before_N > 0).all():
        raise ValueError(f"losses {before_N.tolist()} must be > 0 to be divided by")
    return change_NN / before_N


class EdgeAverage:
    """Exponential average of influence over refreshes: E <- (1 - b) E + b E_new.

    `influence` and `error` are [N, N], None before the first update. The first is taken whole;
    measurements are taken as independent, so the error falls to sqrt(b / (2 - b)) of one's own.
    """

    def __init__(self, rate: float = 0.2) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}, must be in (0, 1]")
        self._rate = rate
        self.influence: Floats | None = None
        self.error: Floats | None = None

    def update(self, influence: ArrayLike, error: ArrayLike) -> None:
        """Take in one refresh; the same units in the same places as before.

        Raises:
            ValueError: A matrix is not [N, N] and finite, or an error is negative.
        """
        new, new_error = square("influence", influence), square("error", error)
        known = new.shape if self.influence is None else self.influence.shape
        if new.shape != known or new_error.shape != known or (new_error < 0).any():
            raise ValueError(
                f"influence {new.shape} and error {new_error.shape} must be {known}, errors >= 0; "
                "start a new average when the units change"
            )
        if self.influence is None or self.error is None:
            self.influence, self.error = new.copy(), new_error.copy()
            return
        rate = self._rate
        self.influence = (1 - rate) * self.influence + rate * new
        self.error = np.hypot((1 - rate) * self.error, rate * new_error)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values: 22 bytes a pair of units."""
        if self.influence is None or self.error is None:
            return {"rate": self._rate, "num_units": 0, "influence": "", "error": ""}
        matrices = {"influence": pack(self.influence), "error": pack(self.error)}
        return {"rate": self._rate, "num_units": len(self.influence), **matrices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, to the bit; nothing is changed where it is refused.

        Raises:
            StateError: It is damaged, or of another rate.
        """
        check_keys(state, {"rate", "num_units", "influence", "error"})
        if state["rate"] != self._rate:
            raise damaged(f"rate was {state['rate']!r}, is {self._rate}")
        num_units = whole("num_units", state["num_units"])
        if not num_units:
            self.influence = self.error = None
            return
        shape = (num_units, num_units)
        influence = unpack("influence", state["influence"], shape)
        error = unpack("error", state["error"], shape)
        if (error < 0).any():
            raise damaged("an error is negative")
        self.influence, self.error = influence, error


def _losses(losses: ArrayLike, num_units: int) -> Floats:
    losses_N = np.asarray(losses, np.float64)
    if losses_N.shape != (num_units,):
        raise ValueError(f"before has shape {losses_N.shape}, must be [{num_units}]")
    check_finite("before", losses_N)
    return losses_N
