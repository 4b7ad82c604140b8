# SPDX-License-Identifier: Apache-2.0
"""Shards: bytes to columns and back, one file a format. Where bytes come from is not known here."""

from .formats import find_shards, read_shard
from .index import ShardIndex, ShardInfo
from .index_json import read_index
from .mds_writer import MDSWriter, merge_index
from .parquet_writer import ParquetWriter
from .shard import ArrayShard, Ask, Flat, Shard, gather, gather_elements

__all__ = [
    "ArrayShard",
    "Ask",
    "Flat",
    "MDSWriter",
    "ParquetWriter",
    "Shard",
    "ShardIndex",
    "ShardInfo",
    "find_shards",
    "gather",
    "gather_elements",
    "merge_index",
    "read_index",
    "read_shard",
]
