# SPDX-License-Identifier: Apache-2.0
"""The order of some samples alone: positions, strands and epochs count those that are wanted.

So strands hold equally many of them wherever they lie in the corpus, and none is passed over.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ConfigError
from .strands import Order


class WantedOrder(Order):
    """The wanted sample at every position of every strand of every stream.

    Args:
        wanted_per_shard: Of each stream, [n] int64: how many samples are wanted of each shard.
        rows: Returns the rows [m] of the nth [m] wanted samples of shards [m].
        seed, num_strands, ways, shuffle: As for `Order`.

    Raises:
        ConfigError: A stream holds fewer wanted samples than there are strands.
    """

    def __init__(
        self,
        wanted_per_shard: Sequence[np.ndarray],
        rows: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        seed: int,
        num_strands: int,
        ways: int = 1,
        shuffle: bool = True,
    ) -> None:
        for stream, counts in enumerate(wanted_per_shard):
            if counts.sum() < num_strands:
                raise ConfigError(
                    f"of stream {stream} {counts.sum()} samples are wanted, for {num_strands} "
                    "strands: lower num_strands, or ask for more by `where`"
                )
        self._rows = rows
        super().__init__(
            wanted_per_shard, seed=seed, num_strands=num_strands, ways=ways, shuffle=shuffle
        )

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the samples of some keys; see `Order.locate`."""
        shards, nth = super().locate(keys)
        return shards, self._rows(shards, nth)
