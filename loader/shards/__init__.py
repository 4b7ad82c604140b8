# SPDX-License-Identifier: Apache-2.0
"""Shards: bytes to columns and back, one file a format. Where bytes come from is not known here."""

from .index import ShardInfo, read_index
from .mds import Shard, fetch_shard, gather, parse_shard
from .mds_writer import MDSWriter

__all__ = [
    "MDSWriter",
    "Shard",
    "ShardInfo",
    "fetch_shard",
    "gather",
    "parse_shard",
    "read_index",
]
