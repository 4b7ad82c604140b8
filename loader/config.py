# SPDX-License-Identifier: Apache-2.0
"""The settings of a loader, checked before anything is opened."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal

import torch

from ..triton_kernels.dispatch import Implementation
from .agents import AgentSet
from .batches import FIELDS
from .console import ConsoleConfig
from .errors import ConfigError
from .order import default_num_slots
from .order.mosaic_plan import MosaicPlan
from .schedule.config import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a corpus is streamed, and whether a console selects from it."""

    batch_rows: int
    """Rows of the global batch."""
    seq_len: int
    """Tokens in a row."""
    seed: int = 0
    """Names the order, the probes and the selection's noise."""
    shuffle: bool = True
    """False reads shards and samples as they are stored."""
    column: str = "tokens"
    """The column that holds the token ids; with a tokenizer, the column that holds the text."""
    tokenizer: str | None = None
    """A tokenizer.json (path or URL) that turns the column's text into tokens on the fly."""
    eod: str | int | None = None
    """The token, or its id, that the tokenizer puts behind every document."""
    order: Literal["strands", "mosaic"] = "strands"
    """Our own order, or that of a StreamingDataset: see `Loader.from_streaming_dataset`."""
    mosaic_plan: MosaicPlan | None = None
    """What decides the order of the StreamingDataset."""
    packing: str = "contiguous"
    """"contiguous": documents run on from row to row; "first_fit", "best_fit": whole documents,
    padded; "pad": one document a row."""
    where: str | None = None
    """Stream only documents whose stored labels fulfil this: "quality >= 3"."""
    verify: Literal["strict", "ranges", "none"] = "strict"
    """"strict" checks whole files; "ranges" reads single samples, checked if they have a hash."""
    format: str | None = None
    """Read only shards of this format; None takes what is there."""

    console: ConsoleConfig | None = None
    """None streams everything; otherwise the console selects `keep` of what is streamed."""
    labels: Literal["inline", "stored"] = "inline"
    """Where the console finds labels: made of what is streamed, or stored by `moot label`, which
    then decide before anything is fetched."""
    max_units: int = 32
    """Units that the joint cells of stored labels are merged into, at most."""
    schedule: ScheduleConfig | None = None
    """Paces the units of stored labels, or the streams of a loader without a console."""
    probes_per_unit: int = 16
    """Documents of each unit whose losses a schedule learns from."""
    agents: AgentSet | str | None = None
    """The fitted agents, or the URL of their `agents.safetensors`; None looks beside the corpus."""
    keep: float = 0.25
    """The share of candidate tokens that is trained on, with a console."""
    num_probes: int = 192
    """Probe documents drawn at each refresh."""
    deterministic: bool = True
    """Feedback that is not there when its step comes is an error; False goes on and counts it."""

    implementation: Implementation = "auto"
    """How the ops run: "auto", "native", "reference" or "triton" (its interpreter, on a CPU)."""

    rank: int | None = None
    """The data-parallel rank; None reads RANK from the environment, 0 without it."""
    world_size: int | None = None
    """The number of data-parallel ranks; None reads WORLD_SIZE, 1 without it."""
    num_slots: int | None = None
    """Canonical slots of the global batch; every world size that divides it sees equal batches."""
    local_world_size: int | None = None
    """Processes of a node, which order="mosaic" needs; None puts all on one."""
    replication: int = 1
    """Ranks next to each other that get the same batch (tensor or sequence parallel)."""
    mesh: Any = None
    """A torch DeviceMesh to take rank and world size from, instead of the two settings above."""
    mesh_dims: tuple[str, ...] = ("dp_replicate", "dp_shard", "dp")
    """The dimensions of the mesh along which batches differ, as far as it has them."""
    lanes: int = 8
    """Documents that a slot keeps open; one a row where rows run on or hold one document."""
    num_strands: int | None = None
    """Runs that the corpus is cut into; slots share them, and a rank reads its slots' strands."""

    window_shards: int = 8
    """Shards that are open, and so shuffled together, at any time."""
    budget_bytes: int = 2 << 30
    """The most that shards may take in memory; two windows should fit."""
    cache_dir: str | None = None
    """A folder that keeps shards as they are stored, shared by the processes of a machine."""
    cache_limit_bytes: int | None = None
    """The most that `cache_dir` may hold; None has no limit."""
    on_bad_disk: Literal["bypass", "fail"] = "bypass"
    """"bypass" reads from the store where `cache_dir` is full, read-only or gone; "fail" raises."""
    on_bad_shard: Literal["fail", "substitute"] = "fail"
    """"substitute" goes on without a shard that stays corrupt, and records it."""
    fetch_threads: int | None = None
    """Shards fetched at a time and held ready beyond the window; None is the cores, 2 to 4."""
    score_threads: int | None = None
    """Threads that score candidates where that happens on the CPU; None is the cores, at most 4."""
    prefetch_batches: int | None = None
    """Batches made ahead; None makes 2 with a console, else 8."""
    batch_timeout_s: float = 900.0
    """A batch that takes longer is an error that says what was waited for."""
    epoch_batches: int | None = None
    """Batches in what foreign trainers call an epoch; None is endless and has no len()."""
    acknowledge: bool = False
    """The state counts batches that were acknowledged instead of delivered."""

    fields: tuple[str, ...] = ("input_ids", "labels", "position_ids")
    """Tensors of a batch: tokens (as stored), input_ids, labels, position_ids, cu_seqlens."""
    device: str = "cpu"
    """Where batches are handed over."""
    pin_memory: bool | None = None
    """Pin batches that stay on the CPU; None pins where CUDA is there."""
    ledger: str | None = None
    """The URL of a ledger to write."""
    flush_steps: int = 50
    """Steps between two parts of the ledger."""
    attempt: int | None = None
    """The number of this attempt in the ledger, equal on all ranks; None takes the next one."""
    storage_options: Mapping[str, str] | None = None
    """Options of the bucket: endpoint, region, access_key_id, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the setting and its range."""
        self._check_whole_numbers()
        minimum = {"batch_rows": 1, "seq_len": 2, "lanes": 1, "window_shards": 1}
        minimum |= {"num_probes": 1, "flush_steps": 1, "replication": 1, "probes_per_unit": 1}
        minimum |= {"budget_bytes": 1, "max_units": 1}
        for name, least in minimum.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        optional = {"num_slots": 1, "epoch_batches": 1, "seed": 0, "num_strands": 1}
        optional |= {"fetch_threads": 1, "prefetch_batches": 1, "cache_limit_bytes": 1}
        optional |= {"score_threads": 1}
        for name, least in optional.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep must be in (0, 1], not {self.keep}")
        if self.seed >= 1 << 64:
            raise ConfigError(f"seed must be below 2**64, not {self.seed}")
        given = (self.fields,) if isinstance(self.fields, str) else self.fields
        if isinstance(self.fields, str) or set(given) - set(FIELDS):
            raise ConfigError(f"unknown batch fields {given!r}: list some of {FIELDS}")
        self._check_choices()
        if self.console is not None and self.console.policy_lag < self.depth:
            raise ConfigError(
                f"policy_lag must be at least prefetch_batches ({self.depth}), not "
                f"{self.console.policy_lag}: batches made ahead are decided already"
            )
        self._check_ranks()
        if self.ledger is not None and self.attempt is None and self.ranks[1] > 1:
            raise ConfigError(
                "with several ranks a ledger needs `attempt`: let rank 0 take "
                "loader.ledger.next_attempt(store) and tell the others"
            )

    def _check_whole_numbers(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type not in (int, int | None) or (value is None and field.type is not int):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ConfigError(f"{field.name} must be a whole number, not {value!r}")
            object.__setattr__(self, field.name, int(value))  # NumPy's integers are no JSON

    def _check_choices(self) -> None:
        choices = {
            "order": ("strands", "mosaic"),
            "packing": ("contiguous", "first_fit", "best_fit", "pad"),
            "labels": ("inline", "stored"),
            "verify": ("strict", "ranges", "none"),
            "on_bad_disk": ("bypass", "fail"),
            "on_bad_shard": ("fail", "substitute"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        self._check_labels()
        if self.selects_inline and self.packing != "contiguous":
            raise ConfigError(
                f"packing {self.packing!r} cannot be had with inline labels, whose selection is "
                "packed as documents running on: leave packing at 'contiguous', or store labels"
            )
        if (self.order == "mosaic") != (self.mosaic_plan is not None):
            raise ConfigError("order='mosaic' and mosaic_plan go together: give both or none")
        if self.order == "mosaic" and (self.console is not None or self.where is not None):
            raise ConfigError(
                "order='mosaic' reads exactly what a StreamingDataset reads: console and where "
                "need order='strands'"
            )
        if self.storage_options is not None and not isinstance(self.storage_options, Mapping):
            raise ConfigError(f"storage_options maps names to text, not {self.storage_options!r}")
        self._check_device()
        if not self.batch_timeout_s > 0:
            raise ConfigError(f"batch_timeout_s must be above 0, not {self.batch_timeout_s}")

    def _check_labels(self) -> None:
        if self.labels == "stored" and self.console is None:
            raise ConfigError("labels='stored' says where a console finds labels: give `console`")
        if self.labels == "stored" and self.where is not None:
            raise ConfigError("labels='stored' takes the whole corpus: leave out `where`")
        if self.schedule is None:
            return
        if self.selects_inline:
            raise ConfigError(
                "a schedule paces units whose labels are stored: this loader's console labels "
                "inline, where a step's candidates are fixed before their units are known; pass "
                "labels='stored', or leave out the schedule"
            )
        if self.order != "strands":
            raise ConfigError(f"a schedule needs order='strands': order={self.order!r} is not ours")

    def _check_device(self) -> None:
        try:
            is_cuda = torch.device(self.device).type == "cuda"
        except RuntimeError:
            raise ConfigError(f"torch knows no device {self.device!r}: cpu or cuda:0") from None
        if (is_cuda or self.pin_memory) and not torch.cuda.is_available():
            what = f"device {self.device!r}" if is_cuda else "pin_memory"
            raise ConfigError(f"{what} needs CUDA, which torch does not find on this machine")

    def _check_ranks(self) -> None:
        slots, (rank, world_size) = self.slots, self.ranks
        if self.batch_rows % slots:
            raise ConfigError(f"num_slots ({slots}) must divide batch_rows ({self.batch_rows})")
        if slots % world_size:
            raise ConfigError(
                f"world_size ({world_size}) must divide num_slots ({slots}): choose batch_rows and "
                "num_slots as multiples of it"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be in [0, {world_size}), not {rank}")

    @property
    def selects_inline(self) -> bool:
        """Whether candidates are scored as they are streamed."""
        return self.console is not None and self.labels == "inline"

    @property
    def slots(self) -> int:
        """The number of canonical slots."""
        return self.num_slots or default_num_slots(self.batch_rows)

    @property
    def num_fetch_threads(self) -> int:
        """Shards fetched at a time: more than cores would only take memory."""
        return self.fetch_threads or min(max(os.cpu_count() or 2, 2), 4)

    @property
    def num_score_threads(self) -> int:
        """Threads that score candidates on the CPU."""
        return self.score_threads or min(os.cpu_count() or 1, 4)

    @property
    def depth(self) -> int:
        """Batches made ahead."""
        return self.prefetch_batches or (8 if self.console is None else 2)

    @property
    def ranks(self) -> tuple[int, int]:
        """(rank, world_size) of the data, from the mesh, the settings or else the environment.

        Ranks that get the same batch count once.
        """
        if self.mesh is not None:
            return self._mesh_ranks()
        rank, world_size = self.process_ranks
        if world_size % self.replication:
            raise ConfigError(
                f"replication ({self.replication}) must divide world_size ({world_size})"
            )
        return rank // self.replication, world_size // self.replication

    def _mesh_ranks(self) -> tuple[int, int]:
        names = [name for name in self.mesh_dims if name in (self.mesh.mesh_dim_names or ())]
        if not names:
            raise ConfigError(
                f"the mesh has dimensions {self.mesh.mesh_dim_names}, none of mesh_dims "
                f"{self.mesh_dims}: name those along which batches differ"
            )
        rank, world_size = 0, 1
        for name in names:
            size = self.mesh.size(self.mesh.mesh_dim_names.index(name))
            rank, world_size = rank * size + self.mesh.get_local_rank(name), world_size * size
        return rank, world_size

    @property
    def process_ranks(self) -> tuple[int, int]:
        """(rank, world_size) of the processes, from the settings or else the environment."""
        rank, world_size = self.rank, self.world_size
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if rank is None and world_size > 1 and "RANK" not in os.environ:
            raise ConfigError(f"world_size is {world_size}: pass rank, or set RANK")
        if rank is None:
            rank = int(os.environ["RANK"]) if world_size > 1 else 0
        return rank, world_size

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> "LoaderConfig":
        """Build from keyword settings; ConfigError names an unknown one."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown setting {name!r} of Loader: choose from {known}")
        missing = [name for name in ("batch_rows", "seq_len") if name not in settings]
        if missing:
            raise ConfigError(f"Loader needs {' and '.join(missing)}")
        return cls(**settings)  # type: ignore[arg-type]
