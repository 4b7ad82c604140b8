# SPDX-License-Identifier: Apache-2.0
"""Read once, handed to all: one process reads the indexes, the others get them as bytes.

The bytes are Arrow's stream format and are checked like a file, digest and all. If reading fails,
every process raises, so that none waits for the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MootError, ShardError, StorageError
from ..shards import ShardIndex
from ..shards.columns import ends_of
from ..shards.index_table import pack_index, unpack_index

_HEAD_BYTES = 8


@dataclass(frozen=True)
class Share:
    """How bytes get from one process to all.

    Attributes:
        is_source: This process reads and gives.
        broadcast: Called by every process, once: the source gives bytes, the others None; all get
            the bytes.
    """

    is_source: bool
    broadcast: Callable[[bytes | None], bytes]


def share_over(group: Any = None) -> Share:
    """Return how to share over a process group of torch.distributed, from its first rank.

    Args:
        group: None is the default group, which must be initialised.
    """
    import torch.distributed as dist

    def broadcast(data: bytes | None) -> bytes:
        held = [data]
        source = 0 if group is None else dist.get_global_rank(group, 0)
        dist.broadcast_object_list(held, src=source, group=group)
        if not isinstance(held[0], bytes):
            raise StorageError("the first rank shared no bytes; open the corpus on all ranks alike")
        return held[0]

    return Share(dist.get_rank(group) == 0, broadcast)


def default_share() -> Share | None:
    """Return the default group's way where several processes have one, else None."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    return share_over() if dist.get_world_size() > 1 else None


def share_indexes(share: Share, read: Callable[[], Sequence[ShardIndex]]) -> list[ShardIndex]:
    """Return indexes, read by one process alone.

    Args:
        share: How.
        read: Reads them; called by the source.

    Raises:
        StorageError, ShardError: What `read` raised in the source; the others name its text.
    """
    if not share.is_source:
        return _unpack(share.broadcast(None))
    try:
        data = _pack(read())
    except BaseException as error:
        share.broadcast(_frame({"error": f"{error}", "kind": type(error).__name__}, b""))
        raise
    return _unpack(share.broadcast(data))


def _pack(indexes: Sequence[ShardIndex]) -> bytes:
    shards = [len(index) for index in indexes]
    return _frame({"shards": shards}, pack_index(ShardIndex.concat(indexes)))


def _frame(head: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(_HEAD_BYTES, "little") + text + body


def _unpack(data: bytes) -> list[ShardIndex]:
    begin = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "little")
    head = json.loads(data[_HEAD_BYTES:begin])
    if "error" in head:
        kinds: dict[str, type[MootError]] = {"ShardError": ShardError}
        kind = kinds.get(head["kind"], StorageError)
        raise kind(f"the process that reads the index failed: {head['error']}")
    index = unpack_index(data[begin:], "the index that another process read")
    first = ends_of(np.array(head["shards"], np.int64)).tolist()
    if first[-1] != len(index):
        raise ShardError(
            f"{len(index)} shards arrived, {first[-1]} were sent; open the corpus again"
        )
    return [index[a:b] for a, b in zip(first, first[1:], strict=False)]
