# SPDX-License-Identifier: Apache-2.0
"""What becomes of a shard that is not what it claims: fetched again, then refused or replaced.

A bad shard is one that raises ShardError when it is read: a wrong hash, a short file, a layout that
does not hold. It is counted as quarantined, a warning names it once, and it is fetched once more.
If it is bad again, "fail" raises; "substitute" puts a shard of the same number of samples in its
place, each of length 0, and records it as lost. A missing file, a refusal or a dead network is no
bad shard: those are errors of the store and always raised.

Substituting keeps ranks in step only if all of them find the same shards bad, as they do where the
stored file is corrupt. One bad machine among good ones needs "fail".
Thread-safe.
"""

from __future__ import annotations

import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

from ..errors import ConfigError, ShardError
from ..shards.encodings import array_layout, scalar_dtype
from ..shards.index import ShardInfo
from ..shards.shard import Allocate, ArrayShard, Flat, Shard

OnBadShard = Literal["fail", "substitute"]
_MAX_LOST = 16  # more than that is no accident of single files


class BadShards:
    """The policy for bad shards, and the record of those met.

    Args:
        on_bad_shard: "fail" or "substitute".
        substitute: Makes what stands in for a lost shard, as `lost_shard` does.
        max_lost: Beyond so many lost shards the next one is an error.

    Attributes:
        lost: Shards that were substituted, and why: (shard_id, reason).
        quarantined: How often a shard was found bad at its first fetch.
    """

    def __init__(
        self,
        on_bad_shard: OnBadShard = "fail",
        substitute: Callable[[int], Shard] | None = None,
        *,
        max_lost: int = _MAX_LOST,
    ) -> None:
        if on_bad_shard not in ("fail", "substitute"):
            raise ConfigError(f"on_bad_shard is 'fail' or 'substitute', not {on_bad_shard!r}")
        if on_bad_shard == "substitute" and substitute is None:
            raise ConfigError("on_bad_shard='substitute' needs to know what to put in its place")
        self.lost: list[tuple[int, str]] = []
        self._substitute = substitute if on_bad_shard == "substitute" else None
        self._max_lost = max_lost
        self._lock = threading.Lock()
        self._warned: set[int] = set()
        self.quarantined = 0

    def read(
        self, fetch: Callable[[int, Allocate], Shard], shard_id: int, allocate: Allocate
    ) -> Shard:
        """Fetch a shard, twice if the first one is bad.

        Raises:
            ShardError: It was bad twice, and is not to be substituted.
            StorageError: It could not be read.
        """
        try:
            return fetch(shard_id, allocate)
        except ShardError as error:
            forget_frames(error)
            self._quarantine(shard_id, error)
        try:
            return fetch(shard_id, allocate)
        except ShardError as error:
            if self._substitute is None:
                raise
            reason = str(error)
            self._lose(shard_id, reason)
        return self._substitute(shard_id)

    def _quarantine(self, shard_id: int, error: ShardError) -> None:
        with self._lock:
            self.quarantined += 1
            is_known = shard_id in self._warned
            self._warned.add(shard_id)
        if not is_known:
            warnings.warn(f"a bad shard is fetched again: {error}", stacklevel=4)

    def _lose(self, shard_id: int, reason: str) -> None:
        with self._lock:
            is_known = any(lost == shard_id for lost, _ in self.lost)
            if not is_known and len(self.lost) >= self._max_lost:
                raise ShardError(
                    f"{reason}. {self._max_lost} other shards were lost before it, which is more "
                    "than single bad files: look at how the corpus was copied"
                )
            if not is_known:
                self.lost.append((shard_id, reason))
        if not is_known:
            warnings.warn(f"a lost shard is taken as empty: {reason}", stacklevel=4)


def lost_shard(info: ShardInfo) -> ArrayShard:
    """Return a shard of as many samples as `info` states, each of length 0; scalars are 0.

    Args:
        info: The shard that was lost; name its columns as those that were asked for.
    """
    columns = {}
    for name, encoding in zip(info.column_names, info.column_encodings, strict=True):
        scalar = scalar_dtype(encoding)
        if scalar is not None:
            offsets = np.arange(info.num_samples + 1, dtype=np.int64)
            columns[name] = Flat(np.zeros(info.num_samples, scalar), offsets)
            continue
        is_array = encoding.startswith("ndarray")
        dtype = array_layout(encoding)[0] if is_array else "uint8"
        offsets = np.zeros(info.num_samples + 1, np.int64)
        columns[name] = Flat(np.empty(0, np.dtype(dtype or "int64")), offsets)
    return ArrayShard(info, columns, f"{info.stored_name} (lost)")


def forget_frames(error: BaseException) -> None:
    """Let go of the variables of the calls that failed: they hold the buffers of the fetch."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        chain += [link.__cause__, link.__context__]
