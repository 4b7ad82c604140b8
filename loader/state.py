# SPDX-License-Identifier: Apache-2.0
"""The state of a loader: global, equal on all ranks, one opaque leaf.

`{"version": 1, "cursor": text}`; the text is JSON, the table in it base64. One text, so that the
state passes unchanged through JSON, `weights_only` loads and distributed checkpoints, whose
template keeps only keys that a fresh object has. Only its list of lost shards may differ by rank:
each knows those that it has met itself. Any rank's state can be loaded by any rank.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import StateError
from .prefetch import LostShard

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
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        version = state.get("version") if isinstance(state, Mapping) else state
        raise StateError(f"state version {version!r}: this loader reads version {VERSION}")
    try:
        body = json.loads(state["cursor"])
        if not isinstance(body, dict) or not isinstance(body["plan"], dict):
            raise TypeError("it holds no plan")
        if type(body["step"]) is not int or body["step"] < 0:
            raise ValueError(f"step {body['step']!r}")
        raw = base64.b64decode(body.pop("table"), validate=True)
        table = np.frombuffer(raw, dtype="<i8").reshape(body.pop("table_shape")).astype(np.int64)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise StateError(f"the state is damaged ({error}): resume from another one") from error
    return body, table


def encode_lost(lost: Sequence[LostShard]) -> list[list[Any]]:
    """Write lost shards as JSON: [shard, reason, lengths], shard after shard."""
    return [
        [shard.shard_id, shard.reason, _encode_lengths(shard.lengths)]
        for shard in sorted(lost, key=lambda shard: shard.shard_id)
    ]


def decode_lost(written: Any, samples_per_shard: np.ndarray) -> list[LostShard]:
    """Read lost shards; StateError if they cannot be of a corpus with such shards."""
    try:
        known = dict(enumerate(samples_per_shard.tolist()))
        return [
            LostShard(shard, str(reason), _decode_lengths(lengths, known[shard]))
            for shard, reason, lengths in written
        ]
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise StateError(
            f"the state is damaged (lost shards: {error!r}): resume from another one"
        ) from error


def _encode_lengths(lengths: np.ndarray | None) -> str | None:
    if lengths is None:
        return None
    return base64.b64encode(zlib.compress(lengths.astype("<i8").tobytes())).decode()


def _decode_lengths(text: str | None, num: int) -> np.ndarray | None:
    if text is None:
        return None
    packed = base64.b64decode(text, validate=True)
    raw = zlib.decompressobj().decompress(packed, 8 * num + 1)
    lengths = np.frombuffer(raw, "<i8").astype(np.int64)
    if len(lengths) != num or (lengths < 0).any():
        raise ValueError(f"{num} lengths are wanted")
    return lengths


def check_plan(saved: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse a state whose plan differs from this loader's, naming the settings that differ."""
    differ = [name for name in plan if saved.get(name) != plan[name]]
    if differ:
        rows = ", ".join(f"{name} was {saved.get(name)!r}, is {plan[name]!r}" for name in differ)
        raise StateError(
            f"the state belongs to another plan: {rows}. Resume with the same settings"
        )
