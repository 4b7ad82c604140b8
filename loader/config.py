# SPDX-License-Identifier: Apache-2.0
"""The settings of a loader, checked before anything is opened."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..triton_kernels.dispatch import Implementation
from .agents import AgentSet
from .batches.batch import FIELDS
from .console import ConsoleConfig
from .errors import ConfigError
from .order import default_num_slots


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
    """The column that holds the token ids."""

    console: ConsoleConfig | None = None
    """None streams everything; otherwise the console selects `keep` of what is streamed."""
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
    lanes: int = 8
    """Documents that a slot reads at once; without a console one a row."""

    window_shards: int = 8
    """Shards that are shuffled together."""
    budget_bytes: int = 2 << 30
    """The most that decoded shards may take in memory; two windows should fit."""
    fetch_threads: int = 4
    """Shards fetched at a time."""
    prefetch_batches: int = 2
    """Batches made ahead."""
    epoch_batches: int | None = None
    """Batches in what foreign trainers call an epoch; None is endless and has no len()."""
    acknowledge: bool = False
    """The state counts batches that were acknowledged instead of delivered."""

    fields: tuple[str, ...] = ("input_ids", "labels", "position_ids")
    """Tensors of a batch, of input_ids, labels, position_ids and cu_seqlens."""
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
        minimum = {"batch_rows": 1, "seq_len": 2, "lanes": 1, "window_shards": 1}
        minimum |= {"fetch_threads": 1, "prefetch_batches": 1, "num_probes": 1, "flush_steps": 1}
        for name, least in minimum.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name, least in (("num_slots", 1), ("epoch_batches", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep must be in (0, 1], not {self.keep}")
        unknown = set(self.fields) - set(FIELDS)
        if unknown:
            raise ConfigError(f"unknown batch fields {sorted(unknown)}: choose from {FIELDS}")
        if self.console is not None and self.console.policy_lag < self.prefetch_batches:
            raise ConfigError(
                f"policy_lag must be at least prefetch_batches ({self.prefetch_batches}), not "
                f"{self.console.policy_lag}: batches made ahead are decided already"
            )
        self._check_ranks()
        if self.ledger is not None and self.attempt is None and self.ranks[1] > 1:
            raise ConfigError(
                "with several ranks a ledger needs `attempt`: let rank 0 take "
                "loader.ledger.next_attempt(store) and tell the others"
            )

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
    def slots(self) -> int:
        """The number of canonical slots."""
        return self.num_slots or default_num_slots(self.batch_rows)

    @property
    def ranks(self) -> tuple[int, int]:
        """(rank, world_size), from the settings or else the environment."""
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
