# SPDX-License-Identifier: Apache-2.0
"""The state of a StreamingDataset: the dict that it saves, read and written field by field.

What `StreamingDataset.state_dict()` and `StreamingDataLoader.state_dict()` return, equal on all
ranks: JSON-able whole numbers under five names. Anything else is refused, above all anything that
would have to be unpickled.
Source: mosaicml-streaming 0.13, `streaming/base/dataset.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import StateError

if TYPE_CHECKING:
    from streaming import StreamingDataset

NOT_STARTED = -1
"""The epoch in the state of a dataset that has not been iterated."""

_READ = (
    "num_canonical_nodes",
    "shuffle_algo",
    "shuffle_seed",
    "initial_physical_nodes",
    "_shm_prefix_int",
)
_LEAST = {
    "epoch": NOT_STARTED,
    "sample_in_epoch": 0,
    "num_canonical_nodes": 1,
    "shuffle_seed": 0,
    "initial_physical_nodes": 1,
}


@dataclass(frozen=True, kw_only=True)
class MosaicState:
    """How far a StreamingDataset has been read, and what its order must keep from then on."""

    epoch: int
    """The epoch being read; -1 before the first."""
    sample_in_epoch: int
    """Samples that all ranks together have had of it; ranks of one replica count once."""
    num_canonical_nodes: int
    """Parts into which the epoch is cut, fixed when the run began."""
    shuffle_seed: int
    """The seed of the run."""
    initial_physical_nodes: int | None = None
    """Nodes with which the run began; None in states of old versions."""

    def __post_init__(self) -> None:
        """Refuse whatever no StreamingDataset writes."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "initial_physical_nodes" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise StateError(
                    f"{name} is {value!r} in the StreamingDataset state, it must be a whole number "
                    f">= {least}: load what StreamingDataLoader.state_dict() returned"
                )

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "MosaicState":
        """Read their dict; StateError names what is missing, foreign or out of range."""
        if not isinstance(state, Mapping):
            raise StateError(
                f"a StreamingDataset state is a dict, not {type(state).__name__}: load what "
                "StreamingDataLoader.state_dict() returned, pickled states are not read"
            )
        known = {field.name for field in fields(cls)}
        foreign = sorted(str(name) for name in state if name not in known)
        missing = sorted(known - {"initial_physical_nodes"} - set(state))
        if foreign or missing:
            raise StateError(
                f"no StreamingDataset state: lacks {missing}, has the unknown {foreign}; load what "
                "StreamingDataLoader.state_dict() returned"
            )
        return cls(**state)

    @classmethod
    def from_dataset(cls, dataset: "StreamingDataset") -> "MosaicState":
        """Read where the next `iter(dataset)` would begin, a loaded state included.

        The dataset stays as it is. How much of a begun epoch has been read only its
        StreamingDataLoader knows: in the middle of one, take the loader's `state_dict()`.
        """
        from streaming import StreamingDataset

        world = dataset._parallel_rank_world
        # Their own reading of a loaded state, which would change the dataset it is called on.
        reader: Any = SimpleNamespace(**{name: getattr(dataset, name) for name in _READ})
        reader._set_shuffle_block_size = lambda world: None
        epoch, sample = StreamingDataset._resume(reader, world, int(dataset.next_epoch))
        initial = reader.initial_physical_nodes
        return cls(
            epoch=epoch,
            sample_in_epoch=sample,
            num_canonical_nodes=reader.num_canonical_nodes,
            shuffle_seed=reader.shuffle_seed,
            initial_physical_nodes=world.num_nodes if initial is None else initial,
        )

    def to_dict(self) -> dict[str, int | None]:
        """Write their dict: `StreamingDataLoader.load_state_dict()` takes it."""
        return asdict(self)
