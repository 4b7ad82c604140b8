# SPDX-License-Identifier: Apache-2.0
"""What a loader takes over from a StreamingDataset: its data, its ranks, its order and its place.

Values only; nothing of the dataset is kept, nothing of it is changed.
Source: docs/mosaic.md, "The swap".
"""

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .mosaic_plan import MosaicPlan, require_streaming
from .mosaic_state import MosaicState

if TYPE_CHECKING:
    from streaming import StreamingDataset


@dataclass(frozen=True, kw_only=True)
class MosaicSwap:
    """A StreamingDataset as a loader needs it."""

    plan: MosaicPlan
    """What decides the order."""
    state: MosaicState
    """Where the next `iter(dataset)` would begin."""
    urls: tuple[str, ...]
    """The folder of each stream: its remote, or its local one where it has no remote."""
    rank: int
    """This process, before replication."""
    world_size: int
    """All processes."""
    local_world_size: int
    """Processes of a node."""

    @classmethod
    def from_dataset(cls, dataset: "StreamingDataset", *, as_stored: bool = False) -> "MosaicSwap":
        """Take what decides data and order.

        Args:
            dataset: The dataset, before it is iterated.
            as_stored: Take samples as they are stored even if the dataset's class changes them in
                `__getitem__`, which a loader of token columns does not call.

        Raises:
            ConfigError: The dataset's class does what would be lost, or is none.
        """
        require_streaming()
        from streaming import StreamingDataset

        kind = type(dataset)
        for name in ("__getitem__", "get_item"):
            if not as_stored and getattr(kind, name, None) is not getattr(StreamingDataset, name):
                raise ConfigError(
                    f"{kind.__name__} changes samples in {name}, which would be lost: "
                    "as_stored=True reads them as they are stored"
                )
        world = dataset._unique_rank_world
        return cls(
            plan=MosaicPlan.from_dataset(dataset),
            state=MosaicState.from_dataset(dataset),
            urls=tuple(
                posixpath.join(stream.remote or stream.local, stream.split).rstrip("/")
                for stream in dataset.streams
            ),
            rank=world.rank,
            world_size=world.num_ranks,
            local_world_size=world.ranks_per_node,
        )
