# SPDX-License-Identifier: Apache-2.0
"""A seeded order of all samples, epoch after epoch, computed and never stored.

An epoch permutes the shards, groups them into windows of `window_shards` and permutes the samples
inside each window. Memory is O(shards); any position is found without the ones before it. The same
(seed, shards, window_shards) give the same order on every machine and for every world size.
Source: csrc/permute.h for the permutation.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from .._core import mix64, permute

_EPOCHS_KEPT = 2  # the documents of one step straddle two epochs at most


@dataclass(frozen=True)
class _Epoch:
    """The shards of one epoch in reading order, and where each shard and window starts."""

    key: int
    shards: np.ndarray
    shard_start: np.ndarray
    window_start: np.ndarray


class Order:
    """The sample at every position of an endless stream of virtual epochs.

    Args:
        samples_per_shard: [n] int64, the number of samples of each shard.
        seed: Names the permutation.
        window_shards: How many shards are mixed with each other at a time.
        shuffle: False reads shards and samples in stored order.
    """

    def __init__(
        self, samples_per_shard: np.ndarray, *, seed: int, window_shards: int, shuffle: bool = True
    ) -> None:
        self._samples = np.asarray(samples_per_shard, dtype=np.int64)
        self._seed = seed
        self.window_shards = window_shards
        self._shuffle = shuffle
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self.num_samples = int(self._samples.sum())

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the samples that stand at some positions.

        Args:
            positions: [m] int64, each >= 0.

        Returns:
            shard [m] int64 and row [m] int64.
        """
        shards = np.empty_like(positions)
        rows = np.empty_like(positions)
        epochs, indices = np.divmod(positions, self.num_samples)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            shards[chosen], rows[chosen] = self._locate_in(self._epoch(int(epoch)), indices[chosen])
        return shards, rows

    def shards_from(self, position: int, num_shards: int) -> list[int]:
        """List the next shards that reading from `position` on will touch, in order."""
        epoch, index = divmod(position, self.num_samples)
        table = self._epoch(epoch)
        window = int(np.searchsorted(table.window_start, index, side="right")) - 1
        shards = table.shards[window * self.window_shards :][:num_shards].tolist()
        if len(shards) < num_shards:
            shards += self._epoch(epoch + 1).shards[: num_shards - len(shards)].tolist()
        return list(dict.fromkeys(shards))

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._make_epoch(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(epoch)
        return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> _Epoch:
        num_shards = len(self._samples)
        key = mix64((self._seed * 0x9E3779B97F4A7C15 + epoch) & 0xFFFFFFFFFFFFFFFF)
        shards = np.arange(num_shards, dtype=np.int64)
        if self._shuffle:
            permute(shards, num_shards, key)
        shard_start = np.concatenate([[0], np.cumsum(self._samples[shards])])
        window_start = shard_start[: num_shards : self.window_shards]
        window_start = np.append(window_start, self.num_samples)
        return _Epoch(key, shards, shard_start, window_start)

    def _locate_in(self, epoch: _Epoch, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = index
        if self._shuffle:
            window = np.searchsorted(epoch.window_start, index, side="right") - 1
            place = np.empty_like(index)
            for number in np.unique(window):
                chosen = window == number
                start, stop = epoch.window_start[number], epoch.window_start[number + 1]
                inside = np.ascontiguousarray(index[chosen] - start)
                permute(inside, int(stop - start), mix64(epoch.key ^ int(number)))
                place[chosen] = start + inside
        nth = np.searchsorted(epoch.shard_start, place, side="right") - 1
        return epoch.shards[nth], place - epoch.shard_start[nth]
