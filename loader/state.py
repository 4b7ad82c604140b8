# SPDX-License-Identifier: Apache-2.0
"""The state of a loader: global, equal on all ranks, one opaque leaf.

`{"version": 1, "cursor": text}`; the text is JSON, the table in it base64. One text, so that the
state passes unchanged through JSON, `weights_only` loads and distributed checkpoints, whose
template keeps only keys that a fresh object has.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import StateError

VERSION = 1


def encode(body: Mapping[str, Any], table: np.ndarray) -> dict[str, Any]:
    """Wrap a JSON-able body and the cursor table [slots, columns] int64 into a state."""
    packed = base64.b64encode(table.astype("<i8").tobytes()).decode()
    text = json.dumps(
        {**body, "table": packed, "table_shape": list(table.shape)}, separators=(",", ":")
    )
    return {"version": VERSION, "cursor": text}


def decode(state: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Open a state; StateError says what is wrong with it."""
    if state.get("version") != VERSION:
        raise StateError(
            f"state version {state.get('version')!r}: this loader reads version {VERSION}"
        )
    try:
        body = json.loads(state["cursor"])
        raw = base64.b64decode(body.pop("table"), validate=True)
        table = np.frombuffer(raw, dtype="<i8").reshape(body.pop("table_shape")).astype(np.int64)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise StateError(f"the state is damaged ({error}): resume from another one") from error
    return body, table


def check_plan(saved: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse a state whose plan differs from this loader's, naming the settings that differ."""
    differ = [name for name in plan if saved.get(name) != plan[name]]
    if differ:
        rows = ", ".join(f"{name} was {saved.get(name)!r}, is {plan[name]!r}" for name in differ)
        raise StateError(
            f"the state belongs to another plan: {rows}. Resume with the same settings"
        )
