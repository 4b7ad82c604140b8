# SPDX-License-Identifier: Apache-2.0
"""The reference training loop: a small GPT on a streamed, selected corpus.

One optimizer step takes one batch of the loader. After a step on which a refresh falls, the
probes are rewarded under the model as it stands and credited, and training goes on. Checkpoints
hold model, optimizer, random state, loader and console; a run that was killed goes on from the
last one and reads the very same batches. One process; several ranks are not trained by this loop.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..loader import AgentSet, ConfigError, ConsoleConfig, Loader, open_corpus
from ..loader.storage import open_store
from .checkpoint import load_latest, random_state, save_checkpoint, set_random_state
from .chunks import ChunkOrder
from .config import RunConfig
from .corpora import read_meta
from .evaluate import evaluate
from .feedback import Feedback, FeedbackConfig
from .model import GPT, GPTConfig, autocast, loss
from .pacing import UnitMeasure
from .recipe import learning_rate, make_optimizer, pick_device, threshold_console
from .run_files import RunFiles

Observer: TypeAlias = Callable[[dict[str, Any]], None]


def train_from_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, observer: Observer | None = None
) -> dict[str, Any]:
    """Train as a TOML file says.

    Args:
        path: The file.
        overrides: Top-level settings (`out`, `seed`) that stand over the file's.
        observer: Called with one dict a logged step.

    Returns:
        The summary of the run.
    """
    config = RunConfig.from_toml(path)
    if overrides:
        config = RunConfig.from_dict({**config.to_dict(), **overrides})
    return Trainer(config, observer).run()


class _Clock:
    """Seconds spent on the run and on its parts, over all its attempts."""

    def __init__(self) -> None:
        self._parts = dict.fromkeys(("feedback", "probes", "evaluation", "wait"), 0.0)
        self._before = 0.0
        self._started = time.perf_counter()

    def start(self) -> None:
        """Start counting this attempt."""
        self._started = time.perf_counter()

    def add(self, part: str, started: float) -> None:
        """Add the time since `started` to a part."""
        self._parts[part] += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Return the seconds of each part and of the whole (`wall`)."""
        return self._parts | {"wall": self._before + time.perf_counter() - self._started}

    def load(self, spent: Mapping[str, float]) -> None:
        """Go on from the times of earlier attempts."""
        self._before = spent["wall"]
        self._parts = {name: spent.get(name, 0.0) for name in self._parts}


class Trainer:
    """One run.

    Args:
        config: What the run is.
        observer: Called with one dict a logged step.
    """

    def __init__(self, config: RunConfig, observer: Observer | None = None) -> None:
        self.config = config
        self._observe = observer or (lambda row: None)
        self.files = RunFiles(Path(config.out))
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.device = pick_device(config.train.device)
        meta = read_meta(open_store(config.data.corpus, config.data.storage_options))
        if meta is None:
            raise ConfigError(
                f"{config.data.corpus} holds no finished corpus: make one with `moot corpus local "
                "--out URL` or `moot corpus text PATH --out URL`"
            )
        self._domains = list(meta["domains"])
        self.agents = self._load_agents()
        self._reference = self._documents("reference")
        self._eval_sets = {
            "reference_loss": self._windows(self._reference),
            "heldout_loss": self._windows(self._documents("heldout")),
        }
        torch.manual_seed(config.seed)
        self.model = GPT(self._model_config(meta["vocab_size"])).to(self.device)
        self.optimizer = make_optimizer(self.model, config)
        self.feedback = self._feedback()
        self._measure: UnitMeasure | None = None
        self._chunks: ChunkOrder | None = None
        if config.order.mode != "off":
            self._chunks = ChunkOrder(config, self.model, self.optimizer, self._reference)
        self._clock = _Clock()
        self._select_s = 0.0
        self._tokens = 0

    def run(self) -> dict[str, Any]:
        """Train to the last step, from the last checkpoint if there is one."""
        summary = self.files.read("summary.json")
        if summary is not None and self._is_same_run():
            return summary
        with self._loader() as loader:
            start = self._restore(loader)
            self.files.rewind(start if start else -1)
            self.files.write_run(self._describe(loader))
            self._clock.start()
            if self.config.schedule is not None:
                probes = loader.unit_probes()
                self._measure = UnitMeasure(
                    self.model, self.optimizer, probes, self.config.schedule
                )
            if start == 0:
                self._evaluate(0)
                self._probe(loader, 0)
            self._train(loader, start)
        summary = self._summary()
        self.files.write_summary(summary)
        return summary

    def _train(self, loader: Loader, start: int) -> None:
        train = self.config.train
        batches = iter(loader)
        window = time.perf_counter()
        losses: list[torch.Tensor] = []
        for step in range(start, train.steps):
            waited = time.perf_counter()
            batch = next(batches) if self._chunks is None else self._chunks.next(step, batches)
            self._clock.add("wait", waited)
            losses.append(self._step(step, batch))
            done = step + 1
            self._end_of_chunk(done)
            self._refresh(loader, done)
            self._probe(loader, done)
            is_last = done == train.steps
            if done % train.log_steps == 0 or is_last:
                self._log(loader, done, torch.stack(losses).mean().item(), len(losses), window)
                window, losses = time.perf_counter(), []
            if done % train.eval_steps == 0 or is_last:
                self._evaluate(done)
            if done % train.checkpoint_steps == 0 or is_last:
                self._checkpoint(loader, done)

    def _step(self, step: int, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Take one optimizer step; returns the mean loss per predicted token."""
        train = self.config.train
        rows = self.config.data.batch_rows // train.accumulation
        parts = {name: tensor.to(self.device).split(rows) for name, tensor in batch.items()}
        predicted = (batch["labels"][:, 1:] != -100).sum().clamp_min(1)
        total = torch.zeros((), device=self.device)
        for i in range(train.accumulation):
            with autocast(self.device):
                logits = self.model(parts["input_ids"][i], parts["position_ids"][i])
            summed, _ = loss(logits, parts["labels"][i])
            part = summed / predicted
            part.backward()
            total += part.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._tokens += batch["input_ids"].numel()
        return total

    def _refresh(self, loader: Loader, steps_done: int) -> None:
        """Reward and credit the probes of a refresh that falls after this many steps."""
        refresh = loader.refresh_due(steps_done)
        if refresh is None:
            return
        assert self.feedback is not None
        started = time.perf_counter()
        probes = loader.probes(refresh)
        rewards = self.feedback.rewards(refresh, probes.tokens, probes.cu_seqlens)
        if self.config.feedback.shuffle_rewards:
            rewards = np.random.default_rng([self.config.seed, refresh]).permutation(rewards)
        loader.credit(refresh, probes.ids, rewards)
        self._clock.add("feedback", started)

    def _end_of_chunk(self, steps_done: int) -> None:
        if self._chunks is not None and (row := self._chunks.end(steps_done)) is not None:
            self.files.append("chunks.jsonl", row)

    def _probe(self, loader: Loader, steps_done: int) -> None:
        """Hand in what the units' probes say if a round begins after this many steps."""
        due = loader.round_due(steps_done)
        if due is None:
            return
        assert self._measure is not None
        started = time.perf_counter()
        influence, error = None, None
        if self._measure.wants_influence(due):
            rate = learning_rate(steps_done, self.config)
            losses, influence, error = self._measure.influence(rate)
        else:
            losses = self._measure.losses()
        loader.observe(due, losses, influence, error)
        self._clock.add("probes", started)
        row = {"step": steps_done, "round": due, "losses": losses.tolist()}
        if influence is not None and error is not None:
            row |= {"influence": influence.tolist(), "error": error.tolist()}
        self.files.append("rounds.jsonl", row)

    def _evaluate(self, step: int) -> None:
        started = time.perf_counter()
        row: dict[str, float] = {"step": step, "tokens": self._tokens}
        for name, documents in self._eval_sets.items():
            row[name] = evaluate(self.model, documents, seq_len=self.config.data.seq_len).loss
        row["wall_s"] = self._clock.read()["wall"]
        self._clock.add("evaluation", started)
        self.files.append("evals.jsonl", row)
        self._observe(row)

    def _log(self, loader: Loader, step: int, mean: float, steps: int, since: float) -> None:
        if not math.isfinite(mean):
            raise ConfigError(
                f"the loss is {mean} at step {step}: lower train.lr ({self.config.train.lr}) or "
                "raise train.warmup_steps"
            )
        metrics = loader.metrics()
        self._select_s += metrics["select/latency(ms)"] / 1000 * steps
        tokens = steps * self.config.data.batch_rows * self.config.data.seq_len
        row = {
            "step": step,
            "tokens": self._tokens,
            "loss": mean,
            "lr": learning_rate(step - 1, self.config),
            "tokens_per_s": tokens / (time.perf_counter() - since),
            "wall_s": self._clock.read()["wall"],
            **metrics,
        }
        if self._measure is not None:
            spent = self._clock.read()
            row["schedule/probe_time(%)"] = 100 * spent["probes"] / max(spent["wall"], 1e-9)
        if self._chunks is not None:
            wall = max(self._clock.read()["wall"], 1e-9)
            row |= {**self._chunks.metrics(), "order/cost(%)": 100 * self._chunks.seconds / wall}
        self.files.append("metrics.jsonl", row)
        self._observe(row)

    # What a run is made of -------------------------------------------------------------------

    def _loader(self) -> Loader:
        data = self.config.data
        return Loader(
            f"{data.corpus.rstrip('/')}/train",
            batch_rows=data.batch_rows,
            seq_len=data.seq_len,
            seed=self.config.seed,
            console=self._console(),
            agents=self.agents,
            labels=data.labels if data.kind == "console" else "inline",
            max_units=data.max_units,
            keep=data.keep,
            schedule=self.config.schedule.pace if self.config.schedule is not None else None,
            probes_per_unit=getattr(self.config.schedule, "probes_per_unit", 16),
            num_probes=self.config.feedback.num_probes,
            window_shards=data.window_shards,
            budget_bytes=data.budget_mb << 20,
            rank=0,
            world_size=1,
            device=str(self.device),
            ledger=str(self.files.folder.resolve() / "ledger"),
            storage_options=data.storage_options,
        )

    def _console(self) -> ConsoleConfig | None:
        kind = self.config.data.kind
        if kind == "random":
            return None
        if kind == "console":
            return self.config.console
        assert self.agents is not None
        return threshold_console(self.agents, self.config.data.threshold)

    def _load_agents(self) -> AgentSet | None:
        if self.config.data.kind == "random":
            return None
        return AgentSet.load(open_store(self.config.data.corpus, self.config.data.storage_options))

    def _feedback(self) -> Feedback | None:
        if self.config.data.kind != "console" or self.config.console.mode == "fixed":
            return None
        settings = self.config.feedback
        published = self.config.console.mode == "published"
        config = FeedbackConfig(
            reward="cosine" if published else "inner",
            seq_len=self.config.data.seq_len,
            reference_docs=settings.reference_docs,
            max_reference_tokens=settings.max_reference_tokens,
            max_probe_tokens=settings.max_probe_tokens,
            baseline_docs=0 if published else settings.baseline_docs,
            damping=settings.damping,
            seed=self.config.seed,
        )
        feedback = Feedback(self.model, self.optimizer, config)
        feedback.set_reference(self._reference)
        return feedback

    def _documents(self, split: str) -> list[np.ndarray]:
        """Read the documents of a split."""
        url = f"{self.config.data.corpus.rstrip('/')}/{split}"
        corpus = open_corpus(url, self.config.data.storage_options)
        documents: list[np.ndarray] = []
        for shard_id in range(len(corpus.shards)):
            shard = corpus.read(shard_id)
            values = shard.values("tokens", np.arange(shard.num_samples))
            documents += [np.asarray(tokens, dtype=np.int64) for tokens in values]
        corpus.close()
        return documents

    def _windows(self, documents: list[np.ndarray]) -> list[np.ndarray]:
        """Cut one row out of each document, at a place that is equal in all runs."""
        length = self.config.data.seq_len
        rng = np.random.default_rng(0)
        windows: list[np.ndarray] = []
        room = self.config.train.eval_tokens
        for document in documents:
            if room <= 0:
                break
            start = int(rng.integers(max(len(document) - length, 0) + 1))
            windows.append(document[start : start + min(length, room)])
            room -= len(windows[-1])
        return windows

    def _model_config(self, vocab_size: int) -> GPTConfig:
        model = self.config.model
        return GPTConfig(
            vocab_size=vocab_size,
            dim=model.dim,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            max_seq_len=self.config.data.seq_len,
        )

    def _describe(self, loader: Loader) -> dict[str, Any]:
        agents = self.agents.agents if self.agents is not None else ()
        return {
            "kind": self.config.data.kind,
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "corpus": self.config.data.corpus,
            "domains": self._domains,
            "agents": [{"name": a.name, "states": list(a.state_names)} for a in agents],
            "units": loader.unit_names if self.config.data.labels == "stored" else [],
            "parameters": self.model.num_parameters(),
        }

    def _summary(self) -> dict[str, Any]:
        last = self.files.last("evals.jsonl") or {}
        spent = self._clock.read()
        return {
            "reference_loss": last.get("reference_loss"),
            "heldout_loss": last.get("heldout_loss"),
            "tokens": self._tokens,
            "wall_s": spent["wall"],
            "selection_s": self._select_s,
            "feedback_s": spent["feedback"],
            "probes_s": spent["probes"],
            "evaluation_s": spent["evaluation"],
            "wait_s": spent["wait"],
        }

    # Checkpoints -----------------------------------------------------------------------------

    def _checkpoint(self, loader: Loader, step: int) -> None:
        loader.flush()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
            "loader": loader.state_dict(),
            "tokens": self._tokens,
            "spent": self._clock.read(),
            "select_s": self._select_s,
            "chunks": self._chunks.state_dict() if self._chunks is not None else None,
        }
        save_checkpoint(self.files.folder / "checkpoints", step, state)

    def _restore(self, loader: Loader) -> int:
        """Go on from the newest checkpoint of this run; returns the steps done."""
        state = None
        if self._is_same_run():
            state = load_latest(self.files.folder / "checkpoints", self.device)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])
        loader.load_state_dict(state["loader"])
        if self._chunks is not None:
            self._chunks.load_state_dict(state["chunks"])
        self._tokens = int(state["tokens"])
        self._clock.load(state["spent"])
        self._select_s = float(state["select_s"])
        return int(state["step"])

    def _is_same_run(self) -> bool:
        """Whether the directory holds this very run; ConfigError if it holds another."""
        info = self.files.read("run.json")
        if info is None:
            return False
        theirs, ours = info["config"], _plain(self.config.to_dict())
        if theirs != ours:
            differ = [name for name in ours if theirs.get(name) != ours[name]]
            raise ConfigError(
                f"{self.files.folder} holds a run with other settings ({', '.join(differ)}): "
                "choose another `out` or delete it"
            )
        return True


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON does."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
