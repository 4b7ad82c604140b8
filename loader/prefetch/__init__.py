# SPDX-License-Identifier: Apache-2.0
"""Running ahead: shards under a byte budget, and steps made before they are asked for."""

from .ahead import Ahead
from .cache import ShardCache
from .disk import DiskCache
from .failures import LostShard, is_lost, lost_shard
from .held import footprint
from .pool import BufferPool
from .source import Source

__all__ = [
    "Ahead",
    "BufferPool",
    "DiskCache",
    "LostShard",
    "ShardCache",
    "Source",
    "footprint",
    "is_lost",
    "lost_shard",
]
