# SPDX-License-Identifier: Apache-2.0
"""The order of a mosaicml-streaming StreamingDataset, sample for sample.

`MosaicOrder` deals a plan to one rank: the batches, in the sequence in which a StreamingDataLoader
over the plan's dataset yields them. Their own functions compute it (`streaming.base.batching`, and
through it `partition`, `shuffle` and `sampling`), so it is theirs in every bit, for the NumPy that
is installed. Integers only: no dataset, thread, shared memory or file is made. Memory is
O(samples of an epoch), as theirs is. Not thread-safe. Needs the extra `mosaic`, which is imported
where it is used.
Source: docs/mosaic.md; mosaicml-streaming 0.13, `_get_work` in `streaming/base/dataset.py`.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, StateError
from .mosaic_plan import MosaicPlan, require_streaming
from .mosaic_state import MosaicState

if TYPE_CHECKING:
    from streaming.base.world import World

_EPOCHS_KEPT = 2  # prefetch reaches into the next epoch, never further
_READ = (
    "batch_size",
    "shuffle",
    "shuffle_algo",
    "shuffle_seed",
    "shuffle_block_size",
    "sampling_method",
    "sampling_granularity",
    "partition_algo",
    "initial_physical_nodes",
)


@dataclass(frozen=True)
class _Dealt:
    """One epoch from some sample on: this rank's batches, and how many samples rank 0 gets."""

    batches: np.ndarray
    sizes: np.ndarray


class MosaicOrder:
    """The batches of one rank, as a StreamingDataLoader over the plan's dataset yields them.

    Sample ids are ordinals over all shards, stream after stream.

    Args:
        plan: What decides the order.
        rank: This process among `world_size`, as their RANK.
        world_size: Processes of the run.
        local_world_size: Processes of a node; None puts all on one.
        num_workers: DataLoader workers of a rank; 0 and 1 give the same order.
        drop_last: Whether the DataLoader drops short batches.

    Raises:
        ConfigError: The extra is missing, a name is unknown to it, or ranks do not divide.
    """

    def __init__(
        self,
        plan: MosaicPlan,
        rank: int,
        world_size: int,
        local_world_size: int | None = None,
        num_workers: int = 1,
        *,
        drop_last: bool = False,
    ) -> None:
        self._world = _world(plan, rank, world_size, local_world_size, num_workers)
        _check_names(plan)
        self._drop_last = drop_last
        self.plan = plan
        self._dataset = _as_dataset(plan, self._world)
        self._first_in_shard = np.concatenate([[0], np.cumsum(plan.samples_per_shard)])
        self._dealt: OrderedDict[tuple[int, int], _Dealt] = OrderedDict()

    def batches(self, epoch: int, sample_in_epoch: int = 0) -> np.ndarray:
        """Return this rank's batches of an epoch from some sample on.

        Args:
            epoch: >= 0.
            sample_in_epoch: Samples that all ranks have had of it. Where they cannot begin there
                they round down and warn: to a multiple of the nodes, or of the global batch.

        Returns:
            [num_batches, batch_size] int64, not to be written to. -1 fills the tail of a short
            batch. No batches at the end of an epoch.

        Raises:
            ConfigError: They cannot order this plan for this world.
            StateError: They cannot begin at this sample.
        """
        return self._deal(epoch, sample_in_epoch).batches

    def global_batches(self, epoch: int, sample_in_epoch: int = 0) -> np.ndarray:
        """Return the batches of all ranks: [num_batches, ranks, batch_size] int64.

        Ranks that share a replica count once. -1 stands where a batch is short or a rank has none.
        """
        work = self._work(epoch, sample_in_epoch)
        ranks = [self._of_rank(work, rank) for rank in range(self._world.num_ranks)]
        shape = (max(map(len, ranks)), len(ranks), self.plan.batch_size)
        together = np.full(shape, -1, dtype=np.int64)
        for rank, batches in enumerate(ranks):
            together[: len(batches), rank] = batches
        return together

    def locate(self, sample_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the shard and the row of samples: [m] int64 each; ids must be >= 0."""
        shards = np.searchsorted(self._first_in_shard, sample_ids, side="right") - 1
        return shards, sample_ids - self._first_in_shard[shards]

    def state_after(self, epoch: int, sample_in_epoch: int, num_batches: int) -> MosaicState:
        """Return what `StreamingDataLoader.state_dict()` says on rank 0.

        Args:
            epoch: The epoch being read.
            sample_in_epoch: Where reading it began: 0, or the sample it was resumed at.
            num_batches: Batches yielded since.
        """
        yielded = int(self._deal(epoch, sample_in_epoch).sizes[:num_batches].sum())
        initial = self.plan.initial_physical_nodes
        return MosaicState(
            epoch=epoch,
            sample_in_epoch=sample_in_epoch + yielded * self._world.num_ranks,
            num_canonical_nodes=self._dataset.num_canonical_nodes,
            shuffle_seed=self.plan.shuffle_seed,
            initial_physical_nodes=self._world.num_nodes if initial is None else initial,
        )

    def _deal(self, epoch: int, sample_in_epoch: int) -> _Dealt:
        key = (epoch, sample_in_epoch)
        if key not in self._dealt:
            work = self._work(epoch, sample_in_epoch)
            batches = self._of_rank(work, self._world.rank)
            leader = batches if self._world.rank == 0 else self._of_rank(work, 0)
            batches.flags.writeable = False
            self._dealt[key] = _Dealt(batches, np.count_nonzero(leader != -1, axis=1))
            while len(self._dealt) > _EPOCHS_KEPT:
                self._dealt.popitem(last=False)
        self._dealt.move_to_end(key)
        return self._dealt[key]

    def _work(self, epoch: int, sample_in_epoch: int) -> np.ndarray:
        """Ask them for [nodes, ranks, workers, batches, batch_size] int64, padded with -1."""
        from streaming.base.batching import generate_work

        if epoch < 0 or sample_in_epoch < 0:
            raise ValueError(f"epoch {epoch} and sample {sample_in_epoch} must not be negative")
        method = self.plan.batching_method
        try:
            return generate_work(method, self._dataset, self._world, epoch, sample_in_epoch)
        except ValueError as error:
            what = f"{method} batching on {self._world.num_ranks} ranks, epoch {epoch}"
            if not sample_in_epoch:
                raise ConfigError(f"mosaicml-streaming refuses {what}: {error}") from error
            raise StateError(
                f"mosaicml-streaming refuses {what} from sample {sample_in_epoch} on: {error} "
                "Resume from another state, or at the next epoch's sample 0"
            ) from error

    def _of_rank(self, work: np.ndarray, rank: int) -> np.ndarray:
        """Deal one rank's batches as its DataLoader does: workers in turn, padding skipped."""
        node, rank_of_node = divmod(rank, self._world.ranks_per_node)
        workers = work[node, rank_of_node]
        in_turn = np.full((workers.shape[1], len(workers), self.plan.batch_size), -1, np.int64)
        for worker, padded in enumerate(workers.reshape(len(workers), -1)):
            kept = padded[padded != -1]
            filled = np.full(padded.shape, -1, dtype=np.int64)
            filled[: len(kept)] = kept
            in_turn[:, worker] = filled.reshape(workers.shape[1:])
        rows = in_turn.reshape(-1, self.plan.batch_size)
        decides = -1 if self._drop_last else 0
        return rows[rows[:, decides] != -1]


def _world(
    plan: MosaicPlan, rank: int, world_size: int, local_world_size: int | None, num_workers: int
) -> "World":
    """Make their description of this rank, as they see it after replication."""
    require_streaming()
    from streaming.base.world import World

    local = world_size if local_world_size is None else local_world_size
    if not 0 <= rank < world_size or local < 1 or world_size % local or num_workers < 0:
        raise ConfigError(
            f"rank {rank} of {world_size} with {local} a node and {num_workers} workers: ranks "
            "count from 0, nodes have equally many, workers are 0 or more"
        )
    world = World(world_size // local, local, 1, rank)
    if plan.replication is not None:
        if world_size % plan.replication:
            raise ConfigError(
                f"{world_size} ranks cannot be replicated by {plan.replication}: it must divide"
            )
        world = world.replicate(plan.replication)
    workers = max(num_workers, 1)
    return World(world.num_nodes, world.ranks_per_node, workers, world.rank * workers)


def _check_names(plan: MosaicPlan) -> None:
    """Refuse methods that the installed mosaicml-streaming does not have."""
    from streaming.base.batching import batching_methods
    from streaming.base.partition import algos as partition_algos
    from streaming.base.shuffle import algos as shuffle_algos

    for name, known in (
        ("batching_method", batching_methods),
        ("partition_algo", partition_algos),
        ("shuffle_algo", shuffle_algos),
    ):
        if getattr(plan, name) not in known:
            raise ConfigError(
                f"{name} {getattr(plan, name)!r}: this mosaicml-streaming has {sorted(known)}"
            )


def _as_dataset(plan: MosaicPlan, world: "World") -> Any:
    """Make what their functions read of a StreamingDataset, with their defaults settled."""
    from streaming import StreamingDataset

    shards = [len(stream.samples_per_shard) for stream in plan.streams]
    samples = plan.samples_per_shard
    canonical = plan.num_canonical_nodes
    if canonical is None:
        parts = 64 if plan.shuffle_algo in ("py1s", "py2s") else 1
        canonical = parts * world.num_nodes
    dataset: Any = SimpleNamespace(
        **{name: getattr(plan, name) for name in _READ},
        streams=[SimpleNamespace(choose=s.chosen, proportion=s.proportion) for s in plan.streams],
        num_streams=len(plan.streams),
        epoch_size=plan.epoch_size,
        epoch_seed_change=plan.shuffle and plan.sampling_method == "balanced",
        num_canonical_nodes=canonical,
        samples_per_shard=samples,
        sample_offset_per_shard=np.cumsum(samples) - samples,
        shards_per_stream=np.array(shards, np.int64),
        shard_offset_per_stream=np.cumsum(shards) - np.array(shards, np.int64),
    )
    dataset.resample_streams = partial(StreamingDataset.resample_streams, dataset)
    StreamingDataset._set_shuffle_block_size(dataset, world)
    return dataset
