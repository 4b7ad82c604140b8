# SPDX-License-Identifier: Apache-2.0
"""Shards: bytes to columns and back, one file a format. Where bytes come from is not known here."""

from .formats import find_shards, read_shard
from .index import ShardIndex, ShardInfo
from .index_json import read_index
from .mds_writer import MDSWriter
from .shard import ArrayShard, Ask, Flat, Shard, gather

__all__ = [
    "ArrayShard",
    "Ask",
    "Flat",
    "MDSWriter",
    "Shard",
    "ShardIndex",
    "ShardInfo",
    "find_shards",
    "gather",
    "read_index",
    "read_shard",
]
