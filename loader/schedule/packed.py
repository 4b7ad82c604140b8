# SPDX-License-Identifier: Apache-2.0
"""Matrices in a state: base64 of float64, every bit comes back through JSON; checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import StateError
from .advantage import Floats


def pack(values: Floats) -> str:
    """Return an array of float64 as text."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()


def unpack(name: str, text: Any, shape: tuple[int, ...]) -> Floats:
    """Return the array of a text; StateError if it is not one of finite numbers of this shape."""
    try:
        raw = base64.b64decode(text, validate=True)
        values = np.frombuffer(raw, "<f8").reshape(shape).astype(np.float64)
    except (TypeError, ValueError, binascii.Error) as error:
        raise damaged(f"{name}: {error}") from error
    if not np.isfinite(values).all():
        raise damaged(f"{name} is not finite")
    return values


def whole(name: str, value: Any) -> int:
    """Return a whole number >= 0; StateError if it is none."""
    if type(value) is not int or value < 0:
        raise damaged(f"{name} is {value!r}")
    return value


def check_keys(state: Any, keys: set[str]) -> None:
    """Refuse what is no state with just these keys."""
    if not isinstance(state, Mapping) or set(state) != keys:
        held = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise damaged(f"it holds {held}, must hold {sorted(keys)}")


def damaged(what: str) -> StateError:
    """Return the error of a state that cannot be one."""
    return StateError(f"the state of the schedule is damaged ({what}): resume from another one")
