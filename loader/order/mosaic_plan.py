# SPDX-License-Identifier: Apache-2.0
"""All that decides the order of a mosaicml-streaming StreamingDataset, as one frozen value.

Taken from a dataset, read from a dict, or written by hand; JSON-able, no reference to the dataset
is kept. Names and defaults are theirs.
Source: mosaicml-streaming 0.13, `streaming/base/dataset.py`.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, StateError
from .mosaic_state import NOT_STARTED, MosaicState

if TYPE_CHECKING:
    from streaming import StreamingDataset

# Methods that decide the order; a subclass that overrides one is not what is called here.
_DECIDE = ("__iter__", "_each_sample_id", "_get_work", "_resume", "resample_streams")


@dataclass(frozen=True, kw_only=True)
class MosaicStream:
    """One stream of a StreamingDataset."""

    samples_per_shard: tuple[int, ...]
    """Samples of each shard, in the order of the stream's index."""
    choose: int | None = None
    """Samples drawn an epoch; None draws each once."""
    proportion: float | None = None
    """Its share of a batch where batches are divided between streams; None: its share of the epoch.
    Give it to all streams or to none."""

    def __post_init__(self) -> None:
        """Refuse empty streams; counts become ints."""
        sizes = tuple(_whole("samples_per_shard", size, 0) for size in self.samples_per_shard)
        if not sum(sizes):
            raise ConfigError("a stream holds no samples: leave it out")
        object.__setattr__(self, "samples_per_shard", sizes)
        if self.proportion is not None and not 0 <= self.proportion < math.inf:
            raise ConfigError(f"proportion must be a finite number >= 0, not {self.proportion!r}")
        if self.choose is not None:
            object.__setattr__(self, "choose", _whole("choose", self.choose, 0))

    @property
    def chosen(self) -> int:
        """Samples drawn an epoch."""
        return sum(self.samples_per_shard) if self.choose is None else self.choose


@dataclass(frozen=True, kw_only=True)
class MosaicPlan:
    """All that decides the order of a StreamingDataset, under its own names and defaults."""

    streams: tuple[MosaicStream, ...]
    batch_size: int
    """Samples a batch of one rank."""
    shuffle: bool = False
    shuffle_algo: str = "py1e"
    shuffle_seed: int = 9176
    shuffle_block_size: int | None = None
    num_canonical_nodes: int | None = None
    batching_method: str = "random"
    sampling_method: str = "balanced"
    sampling_granularity: int = 1
    partition_algo: str = "relaxed"
    replication: int | None = None
    initial_physical_nodes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no StreamingDataset could have; settle the proportions."""
        for name, least in (("batch_size", 1), ("sampling_granularity", 1), ("shuffle_seed", 0)):
            object.__setattr__(self, name, _whole(name, getattr(self, name), least))
        for name in ("shuffle_block_size", "replication", "initial_physical_nodes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name), 1))
        canonical = self.num_canonical_nodes
        if canonical is not None:  # 0 stands for None, as it does there
            canonical = _whole("num_canonical_nodes", canonical, 0) or None
            object.__setattr__(self, "num_canonical_nodes", canonical)
        if not isinstance(self.shuffle, bool):
            raise ConfigError(f"shuffle must be True or False, not {self.shuffle!r}")
        if self.sampling_method not in ("balanced", "fixed"):
            raise ConfigError(
                f"sampling_method must be 'balanced' or 'fixed', not {self.sampling_method!r}"
            )
        object.__setattr__(self, "streams", _with_proportions(tuple(self.streams)))

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch, before ranks are padded to equal counts."""
        return sum(stream.chosen for stream in self.streams)

    @property
    def samples_per_shard(self) -> np.ndarray:
        """Samples of every shard, stream after stream: [shards] int64."""
        return np.concatenate([np.array(s.samples_per_shard, np.int64) for s in self.streams])

    @classmethod
    def from_dataset(cls, dataset: "StreamingDataset") -> "MosaicPlan":
        """Take the plan of a StreamingDataset, of which nothing is kept or changed.

        Raises:
            ConfigError: It is none, has no batch_size, or its class decides the order itself.
        """
        _refuse_foreign_order(dataset)
        streams = []
        for stream, first, count in zip(
            dataset.streams,
            dataset.shard_offset_per_stream.tolist(),
            dataset.shards_per_stream.tolist(),
            strict=True,
        ):
            sizes = dataset.samples_per_shard[first : first + count].tolist()
            choose, proportion = int(stream.choose), float(stream.proportion)
            streams.append(
                MosaicStream(samples_per_shard=tuple(sizes), choose=choose, proportion=proportion)
            )
        names = [field.name for field in fields(cls) if field.name not in ("streams", "shuffle")]
        plan = cls(
            streams=tuple(streams),
            shuffle=bool(dataset.shuffle),
            **{name: getattr(dataset, name) for name in names},
        )
        if plan.epoch_size != dataset.epoch_size:
            raise ConfigError(
                f"the dataset says epoch_size {dataset.epoch_size}, its streams draw "
                f"{plan.epoch_size}: weights changed after it was made; make it anew"
            )
        return plan

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "MosaicPlan":
        """Read what `to_dict` wrote or a hand did; ConfigError names what is wrong."""
        _refuse_unknown(body, cls)
        if not isinstance(body.get("streams"), list) or "batch_size" not in body:
            raise ConfigError("a mosaic plan needs `streams`, a list, and `batch_size`")
        streams = []
        for stream in body["streams"]:
            _refuse_unknown(stream, MosaicStream)
            if not isinstance(stream.get("samples_per_shard"), list):
                raise ConfigError("each stream of a mosaic plan needs `samples_per_shard`, a list")
            streams.append(MosaicStream(**stream))
        return cls(**{**body, "streams": tuple(streams)})

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a JSON-able dict."""
        body = asdict(self)
        for stream in body["streams"]:
            stream["samples_per_shard"] = list(stream["samples_per_shard"])
        return {**body, "streams": list(body["streams"])}

    def resume(self, state: MosaicState, next_epoch: int = 0) -> tuple["MosaicPlan", int, int]:
        """Continue a run of theirs.

        Args:
            state: What it saved.
            next_epoch: The first epoch that has not been begun here.

        Returns:
            The plan with what the state fixes, the epoch, and the sample to begin at.

        Raises:
            StateError: The state is older than the stream is; they ignore it in silence.
        """
        if state.epoch == NOT_STARTED and next_epoch == 0:
            return self, 0, 0  # they ignore it too: nothing had been read
        if state.epoch < next_epoch:
            raise StateError(
                f"the state stands in epoch {state.epoch}, this stream has begun epoch "
                f"{next_epoch - 1}: StreamingDataset would ignore it; load it into a new one"
            )
        plan = replace(
            self,
            num_canonical_nodes=state.num_canonical_nodes,
            shuffle_seed=state.shuffle_seed,
            initial_physical_nodes=state.initial_physical_nodes,
        )
        return plan, state.epoch, state.sample_in_epoch


def require_streaming() -> None:
    """Import mosaicml-streaming; ConfigError if the extra is not installed."""
    try:
        import streaming  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"order='mosaic' calls mosaicml-streaming, which does not import ({error}): "
            "pip install 'moot[mosaic]'"
        ) from error


def _refuse_foreign_order(dataset: Any) -> None:
    require_streaming()
    from streaming import StreamingDataset

    if not isinstance(dataset, StreamingDataset):
        raise ConfigError(f"a StreamingDataset is needed, not {type(dataset).__name__}")
    own = [n for n in _DECIDE if getattr(type(dataset), n) is not getattr(StreamingDataset, n)]
    if own:
        raise ConfigError(
            f"{type(dataset).__name__} overrides {', '.join(own)} and so has an order of its own, "
            "which is not followed"
        )
    if not isinstance(dataset.batch_size, int):
        raise ConfigError(
            f"the dataset's batch_size is {dataset.batch_size!r}: pass it to StreamingDataset, "
            "its order depends on it"
        )


def _refuse_unknown(body: Any, kind: type[MosaicPlan] | type[MosaicStream]) -> None:
    if not isinstance(body, Mapping):
        raise ConfigError(f"a {kind.__name__} is read from a dict, not {type(body).__name__}")
    unknown = sorted(set(body) - {field.name for field in fields(kind)})
    if unknown:
        raise ConfigError(f"{kind.__name__} has no {', '.join(map(str, unknown))}")


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, not {value!r}")
    return number


def _with_proportions(streams: tuple[MosaicStream, ...]) -> tuple[MosaicStream, ...]:
    if not streams:
        raise ConfigError("a mosaic plan needs at least one stream")
    absent = [stream.proportion is None for stream in streams]
    if not any(absent):
        return streams
    if not all(absent):
        raise ConfigError(
            f"stream {absent.index(True)} has no proportion, others have: give all or none"
        )
    total = sum(stream.chosen for stream in streams)
    if not total:
        raise ConfigError("the streams draw no sample: raise one `choose`")
    return tuple(replace(stream, proportion=stream.chosen / total) for stream in streams)
