# SPDX-License-Identifier: Apache-2.0
"""The order of units: each is a stream of its own, drawn from the shards that all of them share.

Every unit goes through the shards in nearly the same order, so that units drawn at equal rates read
the same shards at about the same time.
"""

from collections.abc import Callable, Iterator

import numpy as np

from .._core import mix64
from ..errors import ConfigError
from .strands import Order

Rows = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class UnitOrder(Order):
    """The document at every position of every strand of every unit.

    Args:
        documents: [U, n] int64, how many each unit has in each shard.
        rows: Returns the rows [m] of the nth [m] documents of units [m] in shards [m].
        seed, num_strands, ways, shuffle: As for `Order`.

    Raises:
        ConfigError: A unit holds fewer documents than there are strands.
    """

    def __init__(
        self,
        documents: np.ndarray,
        rows: Rows,
        *,
        seed: int,
        num_strands: int,
        ways: int = 1,
        shuffle: bool = True,
    ) -> None:
        for unit, count in enumerate(documents.sum(axis=1).tolist()):
            if count < num_strands:
                raise ConfigError(
                    f"unit {unit} has {count} documents for {num_strands} strands: lower "
                    "num_strands, or merge more cells"
                )
        self._num_shards = documents.shape[1]
        self._rows = rows
        super().__init__(
            list(documents), seed=seed, num_strands=num_strands, ways=ways, shuffle=shuffle
        )

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the documents of some keys; see `Order.locate`."""
        placed, nth = super().locate(keys)
        unit, shard = np.divmod(placed, self._num_shards)
        return shard, self._rows(shard, unit, nth)

    def upcoming(self, queue: int, position: int, reach: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (draws until it is needed, shard); see `Order.upcoming`."""
        for draws, placed in super().upcoming(queue, position, reach):
            yield draws, placed % self._num_shards

    def _line_key(self, stream: int) -> int:
        del stream
        return mix64(self._seed ^ mix64(0))

    def _reading_order(self, shards: np.ndarray, key: int, queue: int) -> np.ndarray:
        """By a hash of the shard and of the strand's epoch: alike for all units."""
        strand_key = key ^ mix64(queue) ^ mix64(queue // self.num_streams)
        numbers = (shards % self._num_shards).tolist()
        hashes = [mix64(strand_key ^ mix64(number)) for number in numbers]
        return np.argsort(np.array(hashes, np.uint64), kind="stable")
