# SPDX-License-Identifier: Apache-2.0
"""What becomes of a shard that is not what it claims: fetched again, then refused or replaced.

A bad shard is one that raises ShardError when it is read: a wrong hash, a short file, a layout that
does not hold. It is counted as quarantined, a warning names it once, and it is fetched once more.
If it is bad again, "fail" raises; "substitute" puts a shard of the same number of empty samples in
its place and records it as lost. A missing file, a refusal or a dead network is no bad shard: those
are errors of the store and always raised.

Where lengths are learned from the shards, substituting keeps ranks in step only if all of them find
the same shards bad, as they do where the stored file is corrupt. One bad machine needs "fail".
Thread-safe.
"""

from __future__ import annotations

import math
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from ..errors import ConfigError, ShardError
from ..shards.encodings import array_layout, fixed_size, scalar_dtype
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


def lost_shard(
    info: ShardInfo,
    made: Mapping[str, str] | None = None,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> ArrayShard:
    """Return what stands in for a shard: as many samples as `info` states, of length 0.

    A length that is known without the shard has been counted on, so it is kept and filled with
    zeros: that of a column of fixed shape, of a scalar, or of one named in `lengths`.

    Args:
        info: The shard that was lost.
        made: Encodings of columns that are made from it once it is read, such as tokens of text.
        lengths: [n] int64, by column.
    """
    encodings = dict(zip(info.column_names, info.column_encodings, strict=True)) | dict(made or {})
    columns = {}
    for name, encoding in encodings.items():
        dtype, count = np.dtype("uint8"), 0
        if (scalar := scalar_dtype(encoding)) is not None:
            dtype, count = scalar, 1
        elif encoding.startswith("ndarray"):
            dtype_name, shape = array_layout(encoding)
            dtype, count = np.dtype(dtype_name or "int64"), math.prod(shape) if shape else 0
        each = (lengths or {}).get(name, np.full(info.num_samples, count, np.int64))
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(each, dtype=np.int64)))
        columns[name] = Flat(np.zeros(offsets[-1], dtype), offsets)
    info = replace(
        info,
        column_names=tuple(encodings),
        column_encodings=tuple(encodings.values()),
        column_sizes=tuple(map(fixed_size, encodings.values())),
    )
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
