# SPDX-License-Identifier: Apache-2.0
"""What a conversion is to do, decided before it begins: its parts, and what makes it this one.

A part is a run of shards of the source that together are no larger than a shard of the target. It
is written by one thread into a folder of its own, so that what a part holds depends on nothing but
the source and the settings: neither on the number of workers nor on when a run was cut short.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..shards import ShardIndex
from .config import ConvertConfig
from .recipe import Recipe

VERSION = 1


@dataclass(frozen=True, eq=False)
class Plan:
    """The parts of a conversion and what identifies it.

    Attributes:
        identity: What a run that continues must have in common with the one before; JSON.
        bounds: [p + 1] int64, the first shard of each part, then their number.
        first_sample: [p + 1] int64, the first sample of each part, then their number.
    """

    identity: dict[str, Any]
    bounds: np.ndarray
    first_sample: np.ndarray

    @property
    def num_parts(self) -> int:
        """Parts of the target."""
        return len(self.bounds) - 1

    @property
    def num_samples(self) -> int:
        """Samples of the source."""
        return int(self.first_sample[-1])

    def num_rows(self, part: int) -> int:
        """Return the samples of the source that a part is made of."""
        return int(self.first_sample[part + 1] - self.first_sample[part])

    def name(self, part: int) -> str:
        """Return the folder of a part; names sort as the parts do."""
        return f"{part:0{max(5, len(str(self.num_parts - 1)))}}"


def make_plan(index: ShardIndex, recipe: Recipe, config: ConvertConfig) -> Plan:
    """Cut the source into parts.

    Args:
        index: The shards of the source.
        recipe: What is done to each.
        config: The settings.
    """
    bounds = _bounds(index.raw_bytes, config.size_limit)
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(index.samples)))
    identity = {
        "source": index.digest,
        "samples": int(first[-1]),
        "columns": recipe.columns,
        "tokenizer": None if recipe.tokeniser is None else recipe.tokeniser.digest,
        "text_column": recipe.text_column or None,
        "drop_empty": config.drop_empty,
        "to": config.to,
        "compression": config.compression,
        "hashes": sorted(set(config.hashes)) if config.to == "mds" else [],
        "size_limit": config.size_limit,
        "version": VERSION,
    }
    return Plan(json.loads(json.dumps(identity)), bounds, first[bounds])


def check_same(url: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to continue a conversion that was begun differently.

    Raises:
        ConfigError: They differ; the message says in what.
    """
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if not names:
        return
    changed = "; ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in names)
    raise ConfigError(
        f"{url} holds a conversion that differs from this one ({changed}); give the same options, "
        "choose another place, or pass --force to start over"
    )


def _bounds(raw_bytes: np.ndarray, size_limit: int) -> np.ndarray:
    """Return where parts begin: int64 [p + 1]; each as many shards as fit, at least one."""
    ends = np.cumsum(raw_bytes, dtype=np.int64)
    bounds = [0]
    while bounds[-1] < ends.size:
        start = bounds[-1]
        used = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, used + size_limit, side="right"))
        bounds.append(max(stop, start + 1))
    return np.array(bounds, np.int64)
