# SPDX-License-Identifier: Apache-2.0
"""What a run is: corpus, selection, model, steps. Read from TOML, kept with the run."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..loader import ConsoleConfig
from ..loader.errors import ConfigError
from ..loader.schedule import GateConfig, ScheduleConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("random", "threshold", "console")

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """[data]: what is streamed and how it is selected."""

    corpus: str
    """The bucket folder with train/, reference/, heldout/ and tokenizer.json."""
    kind: str = "console"
    """"random" streams everything, "threshold" cuts by the quality label, "console" selects."""
    labels: str = "inline"
    """"inline" scores what is streamed, "stored" takes the labels of `moot label` ("console")."""
    max_units: int = 32
    """"stored": units that the labels' joint cells are merged into, at most."""
    keep: float = 0.25
    """The share of candidate tokens trained on ("threshold" and "console")."""
    threshold: int = 3
    """"threshold": the lowest quality state, 0 to 4, that is let through."""
    batch_rows: int = 16
    """Rows of a batch."""
    seq_len: int = 256
    """Tokens in a row."""
    window_shards: int = 8
    """Shards shuffled together."""
    budget_mb: int = 2048
    """MiB that decoded shards may take."""
    storage_options: dict[str, str] = field(default_factory=dict)
    """Options of the bucket: endpoint, region, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.kind not in KINDS:
            raise ConfigError(f"data.kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if not 0 <= self.threshold <= 4:
            raise ConfigError(f"data.threshold is {self.threshold}, must be in [0, 4]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """[model]: the shape of the GPT; its vocabulary is the tokenizer's."""

    dim: int = 128
    """Width of the residual stream."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Attention heads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """[train]: steps, optimizer, rhythm of evaluations and checkpoints."""

    steps: int = 250
    """Optimizer steps."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    min_lr_share: float = 0.1
    """What the cosine leaves of it."""
    warmup_steps: int = 30
    """Steps of linear warm-up."""
    weight_decay: float = 0.1
    """Of matrices; vectors are not decayed."""
    beta2: float = 0.98
    """AdamW's second decay."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    accumulation: int = 1
    """Passes a step; the rows of a batch are split over them."""
    eval_steps: int = 25
    """Steps between evaluations."""
    eval_tokens: int = 32_768
    """Tokens of the reference and of the held-out set an evaluation reads."""
    checkpoint_steps: int = 100
    """Steps between checkpoints."""
    log_steps: int = 5
    """Steps between lines of metrics.jsonl."""
    threads: int = 0
    """torch threads; 0 leaves torch's own choice."""
    device: str = "auto"
    """"cpu", "cuda", or "auto"."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        names = ("steps", "accumulation", "eval_steps", "eval_tokens", "checkpoint_steps")
        for name in (*names, "log_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}, must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackSettings:
    """[feedback]: how probes are rewarded."""

    num_probes: int = 160
    """Probe documents of a refresh."""
    max_probe_tokens: int = 64
    """Tokens of a probe that are read."""
    reference_docs: int = 96
    """Reference documents behind the reference gradient of one refresh."""
    max_reference_tokens: int = 64
    """Tokens of each of them that are read, at a drawn place. Many short pieces: what few
    documents have in common is not what the reference set has in common."""
    damping: float = 0.0
    """Added to Adam's denominator, as a share of each tensor's root mean second moment."""
    baseline_docs: int = 48
    """Probes whose mean gradient is taken out of the reference gradient; 0 takes none out."""
    shuffle_rewards: bool = False
    """A control: rewards are permuted among the probes."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.baseline_docs < 0 or self.damping < 0:
            raise ConfigError("feedback.baseline_docs and feedback.damping must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSettings(ScheduleConfig):
    """[schedule]: how units are paced (the fields of `ScheduleConfig`), and how they are probed."""

    probes_per_unit: int = 16
    """Documents of each unit; fewer where the smallest unit has fewer."""
    max_probe_tokens: int = 64
    """Tokens of a probe that are read."""
    refresh_rounds: int = 1
    """Influence is measured every so manyth round (edges = "lookahead")."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        ScheduleConfig.__post_init__(self)
        least = {"probes_per_unit": 2, "max_probe_tokens": 2, "refresh_rounds": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"schedule.{name} is {getattr(self, name)}, must be >= {value}")

    @property
    def pace(self) -> ScheduleConfig:
        """The part that is the loader's."""
        names = (each.name for each in fields(ScheduleConfig))
        return ScheduleConfig(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderSettings:
    """[order]: the order of the batches in a chunk of steps (docs/d3.md, "The gate")."""

    mode: str = "off"
    """"off"; "commutator", behind the gate; "published", every chunk as the paper prints it."""
    chunk_steps: int = 8
    """Steps of a chunk; refreshes, rounds and checkpoints fall on its borders."""
    edge_rows: int = 2
    """Rows of each batch by which it is judged, an eighth of it at most: the two gradients of each
    batch then cost a quarter of the chunk's training at most."""
    reference_docs: int = 48
    """Reference documents in each of two halves: what is to end low, and the gate's probe loss."""
    tolerance: float = 0.5
    """Advantages that bind, at least, in root mean squares of the chunk's."""
    sharpness_iterations: int = 3
    """Products of the power iteration behind the gate's refusal."""
    alpha: float = 0.05
    """As in `GateConfig`, like the three below."""
    trial_every: int = 2
    max_sharpness: float = 0.5
    bet: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be ordered."""
        if self.mode not in ("off", "commutator", "published"):
            raise ConfigError(
                f"order.mode is {self.mode!r}, must be 'off', 'commutator' or 'published'"
            )
        least = {"chunk_steps": 2, "edge_rows": 1, "reference_docs": 1, "sharpness_iterations": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"order.{name} is {getattr(self, name)}, must be >= {value}")
        if not self.tolerance >= 0:
            raise ConfigError(f"order.tolerance is {self.tolerance}, must be >= 0")
        self.gate_config(0)

    def gate_config(self, seed: int) -> GateConfig:
        """Return the gate's settings."""
        names = ("alpha", "trial_every", "max_sharpness", "bet")
        return GateConfig(seed=seed, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run. `out` is its directory; `seed` names order, model and probes."""

    out: str
    seed: int = 0
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)
    schedule: ScheduleSettings | None = None
    order: OrderSettings = field(default_factory=OrderSettings)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.order.mode != "off":
            self._check_order()
        is_stored = self.data.kind == "console" and self.data.labels == "stored"
        if self.schedule is not None and not is_stored:
            raise ConfigError(
                "[schedule] paces the units of stored labels: it needs data.kind = 'console' and "
                "data.labels = 'stored'"
            )
        if self.data.batch_rows % self.train.accumulation:
            raise ConfigError(
                f"train.accumulation ({self.train.accumulation}) must divide data.batch_rows "
                f"({self.data.batch_rows})"
            )

    def _check_order(self) -> None:
        size = self.order.chunk_steps
        borders = {"train.checkpoint_steps": self.train.checkpoint_steps}
        if self.data.kind == "console" and self.console.mode != "fixed":
            borders["console.refresh_steps"] = self.console.refresh_steps
        if self.schedule is not None:
            borders["console.policy_lag"] = self.console.policy_lag
            borders["schedule.round_steps"] = self.schedule.round_steps
        for name, steps in borders.items():
            if steps % size:
                raise ConfigError(f"order.chunk_steps ({size}) must divide {name} ({steps})")
        is_gated = self.order.mode == "commutator"
        if is_gated and 8 * self.order.edge_rows > self.data.batch_rows:
            raise ConfigError(
                f"order.edge_rows ({self.order.edge_rows}) must be an eighth of data.batch_rows "
                f"({self.data.batch_rows}) at most: two gradients of each batch would cost more "
                "than a quarter"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "RunConfig":
        """Build from nested mappings; ConfigError names a key that does not exist."""
        check_keys(cls, settings, "")
        if "out" not in settings or "corpus" not in settings.get("data", {}):
            raise ConfigError("a run needs `out` and, in [data], `corpus`")
        sections: dict[str, Any] = {
            "data": DataConfig,
            "model": ModelConfig,
            "train": TrainConfig,
            "feedback": FeedbackSettings,
            "schedule": ScheduleSettings,
            "order": OrderSettings,
        }
        values = {
            name: _section(sections[name], value, name)
            if name in sections and value is not None
            else value
            for name, value in settings.items()
        }
        if "console" in values:
            values["console"] = ConsoleConfig.from_dict(values["console"])
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | Path) -> "RunConfig":
        """Read a TOML file."""
        try:
            text = Path(path).read_text()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def check_keys(owner: type, settings: Mapping[str, Any], where: str) -> None:
    """Refuse keys that `owner` does not have, with the nearest one that it has."""
    known = [item.name for item in fields(owner)]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"no setting {where}{key}; {hint}")


def _section(owner: type[Section], settings: Any, name: str) -> Section:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"[{name}] must be a table")
    check_keys(owner, settings, f"{name}.")
    try:
        return owner(**settings)
    except TypeError as error:
        raise ConfigError(f"[{name}]: {error}") from error
