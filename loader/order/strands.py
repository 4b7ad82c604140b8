# SPDX-License-Identifier: Apache-2.0
"""A seeded order of all samples, by formula: nothing is stored that grows with them.

A stream's shards, permuted once, are cut into `num_strands` runs of equally many samples: the
strands. Each strand belongs to a group of slots and repeats in virtual epochs of its own. An epoch
reads the strand's shards in a new order, `ways` of them at a time, the rows of each permuted; so
`num_strands * ways` shards are open at any time, and a rank that owns some of the strands reads
their shards alone. The same (seed, shards, num_strands, ways) give the same order on every machine.
Memory: 24 bytes a shard and epoch. Source: csrc/strand.h, csrc/permute.h.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .._core import POSITION_BITS, locate, mix64, permute
from ..errors import ConfigError

_MASK64 = 0xFFFFFFFFFFFFFFFF
_POSITION = (1 << POSITION_BITS) - 1
_EPOCHS_KEPT = 2  # the documents of one step straddle two epochs at most


@dataclass(frozen=True)
class _Parts:
    """Runs of rows of shards: [n] int64 each."""

    shard: np.ndarray
    first_row: np.ndarray
    num_rows: np.ndarray


@dataclass(frozen=True)
class _Epoch:
    """One epoch of a strand: its parts in reading order, where each starts, and the key."""

    start: np.ndarray
    shard: np.ndarray
    first_row: np.ndarray
    key: int


class Order:
    """The sample at every position of every strand of every stream.

    A document's key is `(strand * num_streams + stream) << POSITION_BITS | position`.

    Args:
        samples_per_shard: Of each stream, [n] int64; shards are numbered through all streams.
        seed: Names the permutations.
        num_strands: Runs that each stream is cut into.
        ways: Shards of a strand that are read at the same time.
        shuffle: False reads shards and rows as they are stored (`ways` is then 1).

    Raises:
        ConfigError: A stream holds fewer samples than there are strands.
    """

    def __init__(
        self,
        samples_per_shard: Sequence[np.ndarray],
        *,
        seed: int,
        num_strands: int,
        ways: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.num_streams = len(samples_per_shard)
        self.num_strands = num_strands
        self.ways = ways if shuffle else 1
        self._seed = seed
        self._shuffle = shuffle
        self._epochs: OrderedDict[tuple[int, int], _Epoch] = OrderedDict()
        self._strands: list[_Parts] = []
        first_shard = 0
        by_stream = []
        for stream, samples in enumerate(samples_per_shard):
            by_stream.append(self._cut(stream, np.asarray(samples, np.int64), first_shard))
            first_shard += len(samples)
        for strand in range(num_strands):
            self._strands += [parts[strand] for parts in by_stream]
        self._sizes = np.array([int(parts.num_rows.sum()) for parts in self._strands], np.int64)

    def num_samples(self, strand: int, stream: int) -> int:
        """The samples of one strand of a stream: the length of its epochs."""
        return int(self._sizes[strand * self.num_streams + stream])

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the samples of some keys.

        Args:
            keys: [m] int64, each >= 0.

        Returns:
            shard [m] int64 and row [m] int64.
        """
        if not len(keys):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        queue, position = keys >> POSITION_BITS, keys & _POSITION
        epoch, index = np.divmod(position, self._sizes[queue])
        group = queue * (int(epoch.max()) + 1) + epoch
        if group[0] == group[-1] and (group == group[0]).all():
            return self._locate_in(int(queue[0]), int(epoch[0]), index)
        shards, rows = np.empty_like(keys), np.empty_like(keys)
        by_group = np.argsort(group, kind="stable")  # small streams have an epoch every few keys
        borders = np.flatnonzero(np.diff(group[by_group])) + 1
        for chosen in np.split(by_group, borders):
            some = int(queue[chosen[0]]), int(epoch[chosen[0]])
            shards[chosen], rows[chosen] = self._locate_in(*some, index[chosen])
        return shards, rows

    def epoch(self, strand: int, stream: int, position: int) -> float:
        """How often a strand has been passed through at a position."""
        return position / self.num_samples(strand, stream)

    def upcoming(self, queue: int, position: int) -> Iterator[tuple[int, int]]:
        """Yield (draws until it is needed, shard) for what reading from a position on opens next.

        Args:
            queue: `strand * num_streams + stream`.
            position: The next position.

        Each way's present shard (at 0 draws) and the one after it; at the end of an epoch the next
        epoch's first shards.
        """
        epoch, index = divmod(position, int(self._sizes[queue]))
        left = int(self._sizes[queue]) - index
        for number, at, distance in ((epoch, index, 0), (epoch + 1, 0, left)):
            table = self._epoch(queue, number)
            turn, size = at // self.ways, int(self._sizes[queue])
            for way in range(min(self.ways, size)):
                begin = way * (size // self.ways) + min(way, size % self.ways)
                end = begin + size // self.ways + (way < size % self.ways)
                place = begin + turn
                part = int(np.searchsorted(table.start, place, side="right")) - 1
                if place < end:
                    yield distance, int(table.shard[part])
                behind = int(table.start[part + 1]) if place < end else end
                if behind < end:
                    yield distance + (behind - place) * self.ways, int(table.shard[part + 1])

    def _cut(self, stream: int, samples: np.ndarray, first_shard: int) -> list[_Parts]:
        """Cut a stream into strands of equally many samples."""
        total = int(samples.sum())
        if total < self.num_strands:
            raise ConfigError(
                f"stream {stream} holds {total} samples for {self.num_strands} strands: "
                "lower num_strands, or num_slots"
            )
        shards = np.arange(len(samples), dtype=np.int64)
        if self._shuffle and len(samples):
            permute(shards, len(samples), mix64(self._seed ^ mix64(stream)))
        start = np.concatenate([[0], np.cumsum(samples[shards])])
        cuts = np.arange(self.num_strands + 1) * total // self.num_strands
        strands = []
        for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            first = int(np.searchsorted(start, low, side="right")) - 1
            last = int(np.searchsorted(start, high, side="left"))
            begin = np.maximum(start[first:last], low)
            num_rows = np.minimum(start[first + 1 : last + 1], high) - begin
            kept = num_rows > 0
            strands.append(
                _Parts(
                    shards[first:last][kept] + first_shard,
                    (begin - start[first:last])[kept],
                    num_rows[kept],
                )
            )
        return strands

    def _epoch(self, queue: int, epoch: int) -> _Epoch:
        found = self._epochs.get((queue, epoch))
        if found is None:
            found = self._epochs[queue, epoch] = self._make_epoch(queue, epoch)
            while len(self._epochs) > _EPOCHS_KEPT * len(self._strands):
                self._epochs.popitem(last=False)
        self._epochs.move_to_end((queue, epoch))
        return found

    def _make_epoch(self, queue: int, epoch: int) -> _Epoch:
        parts = self._strands[queue]
        key = mix64((self._seed * 0x9E3779B97F4A7C15 + epoch) & _MASK64) ^ mix64(queue)
        order = np.arange(len(parts.shard), dtype=np.int64)
        if self._shuffle:
            permute(order, len(order), key)
        start = np.concatenate([[0], np.cumsum(parts.num_rows[order])])
        return _Epoch(start, parts.shard[order], parts.first_row[order], key)

    def _locate_in(
        self, queue: int, epoch: int, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        table = self._epoch(queue, epoch)
        return locate(
            index, table.start, table.shard, table.first_row, table.key, self.ways, self._shuffle
        )
