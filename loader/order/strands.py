# SPDX-License-Identifier: Apache-2.0
"""A seeded order of all samples, by formula: nothing is stored that grows with them.

A stream's shards, permuted once, are cut into `num_strands` runs of equally many samples: the
strands. Each strand belongs to a group of slots and repeats in virtual epochs of its own. An epoch
reads the strand's shards in a new order, `ways` of them at a time, the rows of each permuted; so
`num_strands * ways` shards are open at any time, and a rank that owns some of the strands reads
their shards alone. Strands share their first and their last shards, each another part of them, so
that later they change shards one after the other and not all at once.
The same (seed, shards, num_strands, ways) give the same order on every machine.
Memory: 24 bytes a shard and epoch. Source: csrc/strand.h, csrc/permute.h.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .._core import POSITION_BITS, locate, mix64, permute
from ..errors import ConfigError

ORDER_VERSION = 2  # another one means other samples at the same positions
_MASK64 = 0xFFFFFFFFFFFFFFFF
_POSITION = (1 << POSITION_BITS) - 1
_EPOCHS_KEPT = 2  # the documents of one step straddle two epochs at most
_Run = tuple[int, int, int]  # place in the line of shards, first row, rows


@dataclass(frozen=True)
class _Parts:
    """Runs of rows of shards: [n] int64 each. An epoch reads those of `moving` in a new order."""

    shard: np.ndarray
    first_row: np.ndarray
    num_rows: np.ndarray
    moving: slice


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
        self.is_shuffled = shuffle
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

    def upcoming(self, queue: int, position: int, reach: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (draws until it is needed, shard) for what reading from a position on opens next.

        Args:
            queue: `strand * num_streams + stream`.
            position: The next position.
            reach: Draws that are looked ahead.

        Each way's present shard (at 0 draws), those that it comes to within reach, and the one
        after them; at the end of an epoch the next epoch's first shards.
        """
        epoch, index = divmod(position, int(self._sizes[queue]))
        left = int(self._sizes[queue]) - index
        for number, at, distance in ((epoch, index, 0), (epoch + 1, 0, left)):
            table = self._epoch(queue, number)
            turn, size = at // self.ways, int(self._sizes[queue])
            for way in range(min(self.ways, size)):
                begin = way * (size // self.ways) + min(way, size % self.ways)
                end = begin + size // self.ways + (way < size % self.ways)
                for behind, shard in _opened(
                    table, begin + turn, end, (reach - distance) // self.ways
                ):
                    yield distance + behind * self.ways, shard

    def opened_first(self) -> list[int]:
        """Return the shards that reading from the beginning opens, each once, strand by strand."""
        queues = range(self.num_strands * self.num_streams)
        firsts = (shard for q in queues for draws, shard in self.upcoming(q, 0) if draws == 0)
        return list(dict.fromkeys(firsts))

    def _cut(self, stream: int, samples: np.ndarray, first_shard: int) -> list[_Parts]:
        """Cut a stream into strands of equally many samples."""
        total = int(samples.sum())
        if total < self.num_strands:
            raise ConfigError(
                f"stream {stream} holds {total} samples for {self.num_strands} strands: "
                "lower num_strands, or num_slots"
            )
        shards = np.arange(len(samples), dtype=np.int64)
        if self.is_shuffled and len(samples):
            permute(shards, len(samples), self._line_key(stream))
        is_staggered = self.is_shuffled and self.ways == 1 and self.num_strands > 1
        cut = _cut_staggered if is_staggered else _cut_evenly
        return cut(shards + first_shard, samples[shards], self.num_strands)

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
        if self.is_shuffled:
            moving = self._reading_order(parts.shard[parts.moving], key, queue)
            order[parts.moving] = moving + parts.moving.start
        start = np.concatenate([[0], np.cumsum(parts.num_rows[order])])
        return _Epoch(start, parts.shard[order], parts.first_row[order], key)

    def _line_key(self, stream: int) -> int:
        """Return the key of the line that a stream's shards are cut from."""
        return mix64(self._seed ^ mix64(stream))

    def _reading_order(self, shards: np.ndarray, key: int, queue: int) -> np.ndarray:
        """Return the order in which an epoch reads the shards of a strand that move."""
        del queue
        order = np.arange(len(shards), dtype=np.int64)
        permute(order, len(order), key)
        return order

    def _locate_in(
        self, queue: int, epoch: int, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        table = self._epoch(queue, epoch)
        return locate(
            index, table.start, table.shard, table.first_row, table.key, self.ways, self.is_shuffled
        )


def _opened(table: _Epoch, place: int, end: int, reach: int) -> Iterator[tuple[int, int]]:
    """Yield (places until it begins, shard) from a place on: all within reach, and one more."""
    if place >= end:
        return
    part = int(np.searchsorted(table.start, place, side="right")) - 1
    yield 0, int(table.shard[part])
    behind = int(table.start[part + 1]) - place
    while behind < end - place:
        part += 1
        yield behind, int(table.shard[part])
        if behind > reach:
            return
        behind = int(table.start[part + 1]) - place


def _cut_evenly(shards: np.ndarray, sizes: np.ndarray, num_strands: int) -> list[_Parts]:
    """Cut a line of shards into runs of equally many samples."""
    start = np.concatenate([[0], np.cumsum(sizes)])
    cuts = np.arange(num_strands + 1) * int(start[-1]) // num_strands
    strands = []
    for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        first = int(np.searchsorted(start, low, side="right")) - 1
        last = int(np.searchsorted(start, high, side="left"))
        begin = np.maximum(start[first:last], low)
        num_rows = np.minimum(start[first + 1 : last + 1], high) - begin
        first_row = begin - start[first:last]
        strands.append(_parts(shards[first:last], first_row, num_rows, 0, 0))
    return strands


def _cut_staggered(shards: np.ndarray, sizes: np.ndarray, num_strands: int) -> list[_Parts]:
    """Cut a line of shards into strands of equally many samples that change shards at other times.

    A strand begins with its parts of shared shards, then reads whole ones, and ends with what it
    misses, cut from the last ones.
    """
    shards, sizes = shards[sizes > 0], sizes[sizes > 0]
    start = np.concatenate([[0], np.cumsum(sizes)])
    missing = np.diff(np.arange(num_strands + 1) * int(start[-1]) // num_strands)
    at, heads = _heads(sizes, num_strands)
    missing -= [sum(rows for _, _, rows in head) for head in heads]
    if at > len(sizes) or missing.min() < 0:  # too few shards to be shared like that
        return _cut_evenly(shards, sizes, num_strands)
    runs = []
    for strand, rows in enumerate(missing.tolist()):
        end = int(np.searchsorted(start, start[at] + rows, side="right")) - 1
        runs.append(slice(at, end))
        missing[strand] -= start[end] - start[at]
        at = end
    tails = _tails(sizes, at, missing)
    strands = []
    for head, run, tail in zip(heads, runs, tails, strict=True):
        ends = np.array([*head, *tail], np.int64).reshape(-1, 3)
        place = np.insert(ends[:, 0], len(head), np.arange(run.start, run.stop))
        first_row = np.insert(ends[:, 1], len(head), np.zeros(run.stop - run.start, np.int64))
        num_rows = np.insert(ends[:, 2], len(head), sizes[run])
        strands.append(_parts(shards[place], first_row, num_rows, len(head), len(tail)))
    return strands


def _heads(sizes: np.ndarray, num_strands: int) -> tuple[int, list[list[_Run]]]:
    """Deal the first shards: how many they are, and the runs that each strand begins with.

    Four neighbours have a quarter of a shard each: little has to be there before the first batch.
    Then two share one: of 8 strands, 15/16 and 1/16 of it, 13/16 and 3/16, and so on.
    """
    heads: list[list[_Run]] = [[] for _ in range(num_strands)]
    quarters = [(i, min(i + 4, num_strands)) for i in range(0, num_strands, 4)]
    pairs = [(i, i + 2) for i in range(0, num_strands - 1, 2)]
    shared = [*quarters, *pairs]
    for place, (first, last) in enumerate(shared[: len(sizes)]):
        size, num = int(sizes[place]), last - first
        cuts = [size * i // num for i in range(num + 1)]
        if place >= len(quarters):
            cuts[1] = size * (2 * num_strands - 1 - first) // (2 * num_strands)
        for strand, (low, high) in enumerate(pairwise(cuts), first):
            heads[strand].append((place, low, high - low))
    return len(shared), heads


def _tails(sizes: np.ndarray, at: int, missing: np.ndarray) -> list[list[_Run]]:
    """Deal the shards from place `at` on to strands that miss rows.

    A shard goes to the strand that misses most of those that it can complete, else most of all.
    """
    dealt: list[list[_Run]] = [[] for _ in missing]
    for place in range(at, len(sizes)):
        row, size = 0, int(sizes[place])
        while row < size:
            fitting = np.where(missing <= size - row, missing, 0)
            strand = int((fitting if fitting.any() else missing).argmax())
            rows = min(int(missing[strand]), size - row)
            dealt[strand].append((place, row, rows))
            missing[strand] -= rows
            row += rows
    return dealt


def _parts(
    shards: np.ndarray, first_row: np.ndarray, num_rows: np.ndarray, num_first: int, num_last: int
) -> _Parts:
    """Make the parts of a strand, those without rows left out; the first and last ones stay put."""
    kept = num_rows > 0
    first = int(kept[:num_first].sum())
    last = int(kept[len(kept) - num_last :].sum())
    moving = slice(first, int(kept.sum()) - last)
    return _Parts(shards[kept], first_row[kept], num_rows[kept], moving)
