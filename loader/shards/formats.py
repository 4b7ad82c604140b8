# SPDX-License-Identifier: Apache-2.0
"""The formats that shards come in: found by what a store holds, read by what their index says.

A format is a module with two functions. `find(store, options)` returns the shards of that format,
None where there are none; it reads an index, footers or sizes, no samples. `read(store, info, ask)`
returns one decoded shard. Each is imported when it is first needed. docs/formats.md lists them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..errors import ShardError
from ..storage import Store
from .index import ShardIndex, ShardInfo
from .shard import Ask, Shard

# In the order in which they are looked for: those found by the name of their index come first.
FORMATS = ("mds", "jsonl", "parquet", "megatron", "raw")


def find_shards(
    store: Store, options: Mapping[str, Any] | None = None, format_name: str | None = None
) -> ShardIndex | None:
    """Return the shards that a store holds, None if there are none.

    Args:
        store: Where to look.
        options: What a format needs to be told, such as the dtype of raw tokens; values are texts,
            numbers or lists of texts, as docs/formats.md lists them.
        format_name: Look for this format alone.

    Raises:
        ShardError: The format is unknown, or what describes the shards is malformed.
        StorageError: The store cannot be read.
    """
    for name in FORMATS if format_name is None else (format_name,):
        found = _format(name).find(store, options or {})
        if found is not None:
            return found
    return None


def read_shard(store: Store, info: ShardInfo, ask: Ask | None = None) -> Shard:
    """Read one shard.

    Args:
        store: The store the index was read from.
        info: The shard.
        ask: What is wanted of it; None wants all, verified.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is cut short, corrupt, or not the shard the index describes.
    """
    return _format(info.format).read(store, info, ask or Ask())


def _format(name: str) -> ModuleType:
    if name not in FORMATS:
        raise ShardError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return importlib.import_module(f".{name}", __package__)
