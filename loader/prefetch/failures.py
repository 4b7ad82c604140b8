# SPDX-License-Identifier: Apache-2.0
"""What becomes of a shard that is not what it claims: fetched again, then refused or replaced.

A bad shard is one that raises ShardError when it is read: a wrong hash, a short file, a layout that
does not hold. It is counted as quarantined, a warning names it once, and it is fetched once more.
If it is bad again, "fail" raises; "substitute" records it as lost and puts a shard of as many
samples in its place, empty unless plans have counted on their lengths. What is lost stays lost,
even if the file is mended: a run that goes on from a state sees the same samples. A missing file, a
refusal or a dead network is no bad shard: those are errors of the store and always raised.

Where lengths are learned from the shards, substituting keeps ranks in step only if all of them find
the same shards bad, as they do where the stored file is corrupt. One bad machine needs "fail".
Thread-safe.
"""

from __future__ import annotations

import math
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import ConfigError, ShardError
from ..shards.encodings import array_layout, fixed_size, scalar_dtype
from ..shards.index import ShardInfo
from ..shards.shard import Allocate, ArrayShard, Flat, Shard

OnBadShard = Literal["fail", "substitute"]
_MAX_LOST = 16  # more than that is no accident of single files


@dataclass(frozen=True, eq=False)
class LostShard:
    """A shard that is substituted, and why.

    `lengths` [n] int64 are those that plans had counted on when it was lost, where nothing but the
    shard tells them; None where they are known without it, or were never measured.
    """

    shard_id: int
    reason: str
    lengths: np.ndarray | None = None


def is_lost(lost: Sequence[LostShard], shards: np.ndarray) -> np.ndarray:
    """Mark those of some shards that are lost: [n] bool."""
    return np.isin(shards, [shard.shard_id for shard in lost])


class BadShards:
    """The policy for bad shards, and the record of those met.

    Args:
        on_bad_shard: "fail" or "substitute".
        substitute: Makes what stands in for a lost shard, as `lost_shard` does.
        max_lost: Beyond so many lost shards the next one is an error.

    Attributes:
        lost: The lost shards by their id.
        met: Those of them that were asked for since, so that plans or batches lack them.
        measured: Returns the lengths that plans count on; whoever measures them sets it.
        quarantined: How often a shard was found bad at its first fetch.
    """

    def __init__(
        self,
        on_bad_shard: OnBadShard = "fail",
        substitute: Callable[[LostShard], Shard] | None = None,
        *,
        max_lost: int = _MAX_LOST,
    ) -> None:
        if on_bad_shard not in ("fail", "substitute"):
            raise ConfigError(f"on_bad_shard is 'fail' or 'substitute', not {on_bad_shard!r}")
        if on_bad_shard == "substitute" and substitute is None:
            raise ConfigError("on_bad_shard='substitute' needs to know what to put in its place")
        self.lost: dict[int, LostShard] = {}
        self.met: tuple[LostShard, ...] = ()
        self.measured: Callable[[int], np.ndarray | None] = _not_measured
        self._substitute = substitute if on_bad_shard == "substitute" else None
        self._max_lost = max_lost
        self._lock = threading.Lock()
        self._warned: set[int] = set()
        self.quarantined = 0

    def read(
        self, fetch: Callable[[int, Allocate], Shard], shard_id: int, allocate: Allocate
    ) -> Shard:
        """Fetch a shard, twice if the first one is bad; one that is lost is not fetched.

        Raises:
            ShardError: It was bad twice, and is not to be substituted.
            StorageError: It could not be read.
        """
        if shard_id in self.lost:
            return self._stand_in(shard_id)
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
            self.lose(LostShard(shard_id, reason, self.measured(shard_id)))
        warnings.warn(f"a lost shard is taken as empty: {reason}", stacklevel=3)
        return self._stand_in(shard_id)

    def lose(self, shard: LostShard) -> None:
        """Take a shard as lost from now on, as it was found or as a state says.

        Raises:
            ShardError: Too many are lost already.
        """
        with self._lock:
            if shard.shard_id in self.lost:
                return
            if len(self.lost) >= self._max_lost:
                raise ShardError(
                    f"{shard.reason}. {self._max_lost} other shards were lost before it, which is "
                    "more than single bad files: look at how the corpus was copied"
                )
            self.lost[shard.shard_id] = shard

    def meet(self, shard_ids: Sequence[int]) -> None:
        """Note those of some shards that are lost as met."""
        with self._lock:
            known = {shard.shard_id for shard in self.met}
            new = [i for i in dict.fromkeys(shard_ids) if i in self.lost and i not in known]
            self.met += tuple(self.lost[shard_id] for shard_id in new)

    def in_place(self, shard_ids: Sequence[int], shards: list[Shard]) -> list[Shard]:
        """Put stand-ins where shards are lost, whatever is held of them, and note these as met."""
        if not self.lost:
            return shards
        self.meet(shard_ids)
        return [
            self._stand_in(shard_id)
            if shard_id in self.lost and not isinstance(shard, StandIn)
            else shard
            for shard_id, shard in zip(shard_ids, shards, strict=True)
        ]

    def _stand_in(self, shard_id: int) -> Shard:
        assert self._substitute is not None
        return self._substitute(self.lost[shard_id])

    def _quarantine(self, shard_id: int, error: ShardError) -> None:
        with self._lock:
            self.quarantined += 1
            is_known = shard_id in self._warned
            self._warned.add(shard_id)
        if not is_known:
            warnings.warn(f"a bad shard is fetched again: {error}", stacklevel=4)


class StandIn(ArrayShard):
    """What stands in for a lost shard: zeros, or nothing."""


def lost_shard(
    info: ShardInfo,
    made: Mapping[str, str] | None = None,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> StandIn:
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
    return StandIn(info, columns, f"{info.stored_name} (lost)")


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


def _not_measured(shard_id: int) -> None:
    """Nobody measures: no lengths are counted on."""
    del shard_id
