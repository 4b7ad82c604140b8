# SPDX-License-Identifier: Apache-2.0
"""The one object users hold: an endless stream of ready batches that is a real DataLoader.

`iter()` is cheap and goes on where the stream stands. `state_dict()` is small, equal on all ranks
(but for shards that were lost) and exact at any step; `load_state_dict()` takes effect at the next
`iter()`. With a console the trainer also answers `refresh_due()` with `probes()` and `credit()`.
One thread makes batches ahead, a few fetch shards; `close()` joins them. Not thread-safe: one
consumer.
Source: docs/architecture.md, "How one step comes about".
"""

import atexit
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, IterableDataset

from .agents import AgentSet
from .batches import Candidates, Kept
from .config import LoaderConfig
from .console import Console
from .corpus import Stream
from .errors import AgentError, ConfigError, StateError
from .ledger import Ledger, StepRecord
from .metrics import Meter
from .opening import fixed_length, load_agents, make_plan, open_mixture, open_source
from .order import Mixture
from .order.mosaic_swap import MosaicSwap
from .pacing import Pacer
from .planning import MosaicPlanner, MosaicRun, StrandPlanner, mosaic_layout
from .prefetch import Ahead, BufferPool, LostShard, Source
from .probes import ProbeBatch, ProbePlan, UnitProbes, draw_probes, draw_unit_probes
from .records import BatchPieces, batch_pieces, probe_record, step_record
from .state import check_plan, decode, decode_lost, encode, encode_lost
from .steps import BLOCK_STEPS, Planner, Step, StepMaker, slot_layout
from .storage import open_store
from .stored import StoredChoice, StoredUnits

if TYPE_CHECKING:
    from streaming import StreamingDataset

Batch = dict[str, torch.Tensor]
_Delivered = tuple[np.ndarray, tuple[LostShard, ...], StepRecord | None]
_RECENT = 64  # batches whose sample ids are still known; trainers look ahead by a few
_UNACKNOWLEDGED = 4096  # more than any trainer looks ahead
_FAREWELL_S = 5.0  # the end of a process waits for loaders that nobody closed
_BATCH_BYTES = 1 << 30  # batches that a consumer holds on to beyond this are not reused


class _Batches(IterableDataset[Batch]):
    """Stands where trainers look for `loader.dataset`; the batches come from the loader itself."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        raise ConfigError(
            "iterate the Loader itself: a DataLoader around its dataset reads nothing"
        )

    def state_dict(self, num_samples: int = 0, from_beginning: bool = True) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state)


class _Threads:
    """What has to be joined: those that make batches, score candidates and fetch shards."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pid = os.getpid()
        self._dropped: list[Ahead[Step]] = []
        self.ahead: Ahead[Step] | None = None
        self._scorers: ThreadPoolExecutor | None = None
        self.is_closed = False
        # A thread that comes out of native code while the interpreter ends would abort the process.
        atexit.register(self.close)

    @property
    def are_here(self) -> bool:
        """Whether this is the process that started them: a fork carries no threads over."""
        return os.getpid() == self._pid

    def scorers(self, num: int) -> ThreadPoolExecutor:
        """Return the threads that score candidates."""
        if self._scorers is None:
            self._scorers = ThreadPoolExecutor(num, "moot-score")
        return self._scorers

    def stop(self) -> None:
        """Stop making batches."""
        if self.ahead is not None and self.are_here:
            self.ahead.close()
        self.ahead = None

    def drop(self) -> None:
        """Stop making batches, and do not wait for the thread: it may be what has failed."""
        if self.ahead is not None:
            self.ahead.abandon()
            self._dropped = [ahead for ahead in self._dropped if not ahead.has_ended]
            self._dropped.append(self.ahead)
        self.ahead = None

    def close(self) -> None:
        """Stop everything and join."""
        atexit.unregister(self.close)
        self.is_closed = True
        if not self.are_here:
            self.ahead = None
            return
        self.drop()
        self._source.close()  # ends what they wait for
        while self._dropped:
            self._dropped.pop().close()
        if self._scorers is not None:
            self._scorers.shutdown()

    def abandon(self) -> None:
        """Stop everything without waiting; may be called from any thread."""
        if self.is_closed:
            return
        atexit.unregister(self.close)
        threads = self._source.cache.abandon()
        self.drop()
        threads += [ahead.abandon() for ahead in self._dropped]
        if self._scorers is not None:
            self._scorers.shutdown(wait=False)
        atexit.register(_join, threads)


class Loader(DataLoader[Batch]):
    """Stream a corpus as batches of packed documents, selected by a console if there is one.

    Args:
        url: The folder that holds the corpus: a path, or a URL of a bucket or server; or several
            streams that are mixed.
        settings: The fields of `LoaderConfig`; `batch_rows` and `seq_len` are required.

    Raises:
        ConfigError, StorageError, ShardError, AgentError: What is wrong, where, what to do.

    A batch holds `input_ids`, `labels` (unshifted, -100 where nothing may be predicted) and
    `position_ids`: [rows, seq_len] int64 each, rows those of this rank.
    """

    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(self, url: str | Path | Sequence[Stream], **settings: Any) -> None:
        self.config = config = LoaderConfig.from_settings(settings)
        _, world_size = config.ranks
        super().__init__(_Batches(self), batch_size=None)
        local_rows = config.batch_rows // world_size
        sampler = SimpleNamespace(set_epoch=lambda epoch: None)
        self.__dict__["batch_size"] = local_rows
        self.__dict__["batch_sampler"] = SimpleNamespace(
            batch_size=local_rows, drop_last=True, sampler=sampler
        )
        agents = load_agents(url, config) if config.labels == "stored" else None
        self._source = open_source(url, config, agents)
        self._threads = _Threads(self._source)
        # For those who never call close(); at the end of the process it is called for them.
        weakref.finalize(self, self._threads.abandon).atexit = False
        try:
            self._agents = agents or load_agents(url, config)
            self.console: Console | None = None
            if config.console is not None and self._agents is not None:
                self.console = Console(config.console, self._agents)
            self._mosaic = MosaicRun(config) if config.order == "mosaic" else None
            self._slot_layout = (
                mosaic_layout(config) if self._mosaic else slot_layout(config, self._source)
            )
            self._plan = make_plan(config, self._slot_layout, self._source, self._agents)
            self._mixture: Mixture | StoredChoice = open_mixture(self._source)
            if isinstance(self._source.units, StoredUnits) and self.console is not None:
                self._mixture = StoredChoice(self._source.units, self.console, config)
            self._pacer = None
            if config.schedule is not None:
                self._pacer = Pacer(config, self._source, self._mixture)
            self._delivered = self._acknowledged = 0
            self._table = self._delivered_table = self._planner(self._mosaic).table
        except BaseException:
            self._threads.close()
            raise
        self._buffers = BufferPool(_BATCH_BYTES)
        self._maker: StepMaker | None = None
        self._lost = self._source.lost
        self._pending: OrderedDict[int, _Delivered] = OrderedDict()
        self._recent: OrderedDict[int, tuple[Candidates, Kept]] = OrderedDict()
        self._probes: ProbeBatch | None = None
        self._meter = Meter(self._source, self._agents)
        self._ledger: Ledger | None = None

    @classmethod
    def from_streaming_dataset(
        cls, dataset: "StreamingDataset", *, as_stored: bool = False, **settings: Any
    ) -> "Loader":
        """Read what a mosaicml-streaming StreamingDataset reads, in exactly its order.

        Args:
            dataset: The dataset, before it is iterated. Its streams, ranks, batch size, shuffle and
                state are taken over; nothing of it is kept.
            as_stored: Take samples as stored even if the dataset's class changes them.
            settings: Further fields of `LoaderConfig`. `seq_len` may be left out where the column's
                shape is fixed.

        Raises:
            ConfigError: The dataset's class does what would be lost.
        """
        swap = MosaicSwap.from_dataset(dataset, as_stored=as_stored)
        replication = swap.plan.replication or 1
        ranks = swap.world_size // replication
        streams = [Stream(url) for url in swap.urls]
        settings = {
            "order": "mosaic",
            "mosaic_plan": swap.plan,
            "rank": swap.rank,
            "world_size": swap.world_size,
            "local_world_size": swap.local_world_size,
            "replication": replication,
            "batch_rows": swap.plan.batch_size * ranks,
            "num_slots": ranks,
            "seq_len": fixed_length(streams, settings),
        } | settings
        loader = cls(streams, **settings)
        loader.load_state_dict(swap.state.to_dict())
        return loader

    def mosaic_state_dict(self) -> dict[str, Any]:
        """Return the state as StreamingDataLoader.state_dict() would: a way back to it."""
        if self._mosaic is None:
            raise StateError("this loader does not follow a StreamingDataset: use state_dict()")
        return self._mosaic.state(self._table)

    # Iteration -----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Go on where the stream stands; pulls nothing yet."""
        if self.config.epoch_batches is None:
            while True:
                yield self._next()
        for _ in range(self.config.epoch_batches - self._delivered % self.config.epoch_batches):
            yield self._next()

    def __len__(self) -> int:
        """Return the batches of an epoch; TypeError on an endless stream."""
        if self.config.epoch_batches is None:
            raise TypeError("this stream is endless: set epoch_batches to give it a length")
        return self.config.epoch_batches

    def peek(self) -> Batch:
        """Return the next batch without moving on."""
        ahead = self._started()
        self._check_feedback(ahead)
        step = ahead.peek()
        assert self._maker is not None
        return {name: tensor.clone() for name, tensor in self._maker.receive(step).items()}

    def pieces(self, batch_id: int) -> BatchPieces:
        """Return what one of the last batches holds; batches count from 0 over the whole stream."""
        if batch_id not in self._recent:
            raise StateError(f"batch {batch_id} is not among the last {_RECENT} delivered")
        return batch_pieces(*self._recent[batch_id])

    def _next(self) -> Batch:
        started = time.perf_counter()
        if self.config.ledger is not None:
            self._open_ledger().flush_due()  # before a step is taken: what fails loses none
        ahead = self._started()
        self._check_feedback(ahead)
        try:
            step = ahead.take()
        except Exception:
            self._threads.drop()  # the next call tries the same step again
            raise
        assert self._maker is not None
        batch = self._maker.receive(step)
        self._delivered, self._delivered_table = step.step + 1, step.table
        record = step_record(step, self.config) if self.config.ledger is not None else None
        self._pending[step.step] = (step.table, step.lost, record)
        self._recent[step.step] = step.candidates, step.kept
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        if not self.config.acknowledge:
            self._acknowledge_to(step.step)
        elif len(self._pending) > _UNACKNOWLEDGED:
            raise StateError(
                f"{len(self._pending)} batches were delivered and none acknowledged: call "
                "loader.acknowledge(batch_id) or pass acknowledge=False"
            )
        self._meter.delivered(step, time.perf_counter() - started)
        if self._pacer is not None:
            self._pacer.delivered(step)
        return batch

    def _started(self) -> Ahead[Step]:
        if self._threads.is_closed:
            raise StateError("the loader is closed: open another one")
        if not self._threads.are_here:
            raise StateError(
                "the loader was opened by another process, whose threads a fork leaves behind: "
                "open a Loader in each process that iterates"
            )
        if self._threads.ahead is None:
            planner = self._planner(self._mosaic)
            planner.load(self._delivered_table.copy())
            self._maker = StepMaker(
                self._source,
                self.config,
                self._slot_layout,
                planner,
                self.console,
                self._agents,
                self._buffers.allocate,
                self._scorers(),
            )
            self._threads.ahead = Ahead(
                self._maker.make,
                _settled(self.console, self._mixture),
                first=self._delivered,
                depth=self.config.depth,
                timeout_s=self.config.batch_timeout_s,
            )
        return self._threads.ahead

    def _scorers(self) -> ThreadPoolExecutor | None:
        """The threads that share the native scoring, where there is any."""
        config = self.config
        is_native = config.device == "cpu" and config.implementation in ("auto", "native")
        if not config.selects_inline or not is_native or config.num_score_threads == 1:
            return None
        return self._threads.scorers(config.num_score_threads)

    def _planner(self, mosaic: MosaicRun | None) -> Planner:
        if mosaic is not None:
            return MosaicPlanner(mosaic, self.config, self._source)
        rank, world_size = self.config.ranks
        local = self.config.slots // world_size
        slots = range(rank * local, (rank + 1) * local)
        layout, order = self._slot_layout, self._source.order
        return StrandPlanner(layout, order, self._source, self._mixture, slots)

    def _check_feedback(self, ahead: Ahead[Step]) -> None:
        """Do not wait for feedback that can no longer come: the consumer is here, not training."""
        if self.console is None or not ahead.is_blocked():
            return
        step = self._delivered
        waits_for = None if self._pacer is None else self._pacer.waits_for(step)
        if waits_for is not None and self.console.settled(step):
            self._go_on_without(waits_for, ahead)
            return
        if self.config.deterministic:
            raise StateError(
                f"step {step} needs the rewards of refresh {self.console.awaited(step)}: call "
                "loader.refresh_due(), loader.probes(refresh) and loader.credit(refresh, ids, "
                "rewards) after each training step, or pass deterministic=False"
            )
        self.console.skip(step)
        ahead.notify()

    def _go_on_without(self, round_id: int, ahead: Ahead[Step]) -> None:
        """Decide a round without its losses, or refuse to."""
        assert self._pacer is not None
        if self.config.deterministic:
            raise StateError(
                f"step {self._delivered} needs the losses of round {round_id}: call "
                "loader.round_due() and loader.observe(round, losses) after each training step, or "
                "pass deterministic=False"
            )
        self._pacer.skip()
        ahead.notify()

    def set_mixture(self, weights: Sequence[float], step: int | None = None) -> int:
        """Give the streams other weights from a step on.

        Args:
            weights: One a stream, of any scale.
            step: The first step they hold for; None takes the earliest that is surely not yet made,
                the same on all ranks.

        Returns:
            The step. It is in the state: a resumed run changes at the same step.

        Raises:
            StateError: The step is made already, or may be.
            ConfigError: The weights or the step do not fit.
        """
        if not isinstance(self._mixture, Mixture):
            raise ConfigError("the mixture is the console's: change its prior, or label inline")
        earliest = self._delivered + self.config.depth + BLOCK_STEPS + 1
        step = earliest if step is None else step
        if isinstance(step, bool) or not isinstance(step, int):
            raise ConfigError(f"step must be a whole number, not {step!r}")
        if self._threads.ahead is None:
            earliest = self._delivered  # nothing is planned
        if step < earliest:
            raise StateError(
                f"steps before {earliest} are delivered or may be planned: change the mixture from "
                f"step {earliest} on"
            )
        self._mixture.change(step, weights)
        return step

    # Feedback ------------------------------------------------------------------------------------

    def refresh_due(self, steps_done: int | None = None) -> int | None:
        """Return the refresh that falls after this many training steps until it is credited.

        Args:
            steps_done: Steps trained; None takes the batches delivered (or acknowledged) so far.
        """
        if self.console is None:
            return None
        done = self._acknowledged if steps_done is None else steps_done
        return self.console.refresh_due(done)

    def probes(self, refresh: int) -> ProbeBatch:
        """Draw the probes of a refresh; equal on all ranks, the cursor stays."""
        console, agents = self._needs_console()
        plan = ProbePlan(
            num_probes=self.config.num_probes,
            piece_tokens=self.config.seq_len,
            seed=self.config.seed,
            mode=console.config.mode,
        )
        self._probes = draw_probes(self._source, agents, console.latest, plan, refresh)
        return self._probes

    def credit(self, refresh: int, ids: np.ndarray, rewards: np.ndarray) -> None:
        """Credit the probes of a refresh.

        Args:
            refresh: The number that `refresh_due` gave.
            ids: [n] int64, every id of `probes(refresh)`, in any order.
            rewards: [n] float64, how much a token of the probe helps; higher is better.

        Raises:
            StateError: Probes of another refresh, unknown or missing ids, or too late.
        """
        console, _ = self._needs_console()
        if self._probes is None or self._probes.refresh != refresh:
            self.probes(refresh)
        probes = self._probes
        assert probes is not None
        order = np.argsort(np.asarray(ids), kind="stable")
        is_whole = np.array_equal(np.asarray(ids)[order], probes.ids)
        if not is_whole or np.shape(rewards) != np.shape(ids):
            raise StateError(
                f"refresh {refresh}: credit needs each of its {len(probes.ids)} probes once"
            )
        rewards = np.asarray(rewards, dtype=np.float64)[order]
        console.credit(refresh, probes.ids, probes.states, probes.weights, rewards, probes.agent_of)
        if self._pacer is not None and isinstance(self._mixture, StoredChoice):
            self._pacer.renew(self._mixture.latest.weights)
        if self.config.ledger is not None and self.config.ranks[0] == 0:
            self._open_ledger().credit(probe_record(probes, rewards, self._delivered))
        self._probes = None
        if self._threads.ahead is not None:
            self._threads.ahead.notify()

    # Schedule ------------------------------------------------------------------------------------

    @property
    def unit_names(self) -> list[str]:
        """What a schedule paces, in words: the units of stored labels, else the streams."""
        if self._source.units is not None:
            return self._source.units.names
        return [stream.url for stream in self._source.corpus.streams]

    def round_due(self, steps_done: int | None = None) -> int | None:
        """Return the round that begins after this many training steps until it is observed.

        Args:
            steps_done: Steps trained; None takes the batches delivered (or acknowledged) so far.
        """
        if self._pacer is None:
            return None
        done = self._acknowledged if steps_done is None else steps_done
        return self._pacer.schedule.round_due(done)

    def unit_probes(self) -> UnitProbes:
        """Return the fixed probes of every unit; equal on all ranks and in every attempt."""
        self._needs_pacer()
        config = self.config
        return draw_unit_probes(self._source, config.probes_per_unit, config.seq_len, config.seed)

    def observe(
        self,
        round_id: int,
        losses: ArrayLike,
        influence: ArrayLike | None = None,
        error: ArrayLike | None = None,
    ) -> None:
        """Hand in what the units' probes say at the start of a round.

        Args:
            round_id: The number that `round_due` gave.
            losses: [U] > 0, the mean loss of each unit's probes.
            influence: [U, U], with edges="lookahead", see `schedule.lookahead`; None: the last.
            error: [U, U], its standard errors.

        Raises:
            StateError: It is the turn of another round, or too late.
            ValueError: Losses do not fit.
        """
        self._needs_pacer().observe(round_id, losses, influence, error)
        if self._threads.ahead is not None:
            self._threads.ahead.notify()

    def _needs_pacer(self) -> Pacer:
        if self._pacer is None:
            raise ConfigError("this loader has no schedule: pass schedule=ScheduleConfig(...)")
        return self._pacer

    def acknowledge(self, batch_id: int) -> None:
        """Say that a batch, counted from 0 over the whole stream, was trained on."""
        if batch_id not in self._pending:
            raise StateError(f"batch {batch_id} is not among those delivered and unacknowledged")
        self._acknowledge_to(batch_id)

    def _acknowledge_to(self, batch_id: int) -> None:
        while self._pending and next(iter(self._pending)) <= batch_id:
            _, (self._table, self._lost, record) = self._pending.popitem(last=False)
            if record is not None:
                self._open_ledger().hold(record)
        self._acknowledged = batch_id + 1

    def _needs_console(self) -> tuple[Console, AgentSet]:
        if self.console is None or self._agents is None:
            raise AgentError("this loader has no console: pass console=ConsoleConfig(...)")
        return self.console, self._agents

    # State ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state at the last acknowledged batch, plain values.

        Equal on all ranks, but that each lists the lost shards that it has met itself.
        """
        body = {
            "plan": self._plan,
            "step": self._acknowledged,
            "mixture": self._mixture.state(self._acknowledged),
            "mosaic": self._mosaic.base if self._mosaic is not None else None,
            "console": self.console.state_dict() if self.console is not None else None,
            "lost": encode_lost(self._lost),
            "pacer": self._pacer.state() if self._pacer is not None else None,
        }
        return encode(body, self._table)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state at the next `iter()`; an empty state changes nothing.

        With order="mosaic" also from the state of a StreamingDataset or StreamingDataLoader.
        """
        if not state:
            return
        lost: list[LostShard] = []
        plan, layout, mixture, step = self._plan, self._slot_layout, self._mixture, 0
        mosaic = MosaicRun(self.config) if self._mosaic is not None else None
        body: dict[str, Any] = {}
        if mosaic is not None and isinstance(state, Mapping) and "sample_in_epoch" in state:
            table = mosaic.resume(state)
        else:
            body, table = decode(state)
            step = body["step"]
            lost = self._lost_in(body)
            if lost:  # measured without them, however the mean of what is there now turned out
                num_candidates = body["plan"].get("num_candidates")
                layout = replace(layout, num_candidates=num_candidates)
                plan = plan | {"num_candidates": num_candidates}
            check_plan(body["plan"], plan)
            if mosaic is not None:
                mosaic.resume(body.get("mosaic"))
            self._planner(mosaic).load(table)  # refuses what it cannot continue from
            mixture = self._mixture
            if isinstance(mixture, Mixture):
                mixture = mixture.loaded(body.get("mixture"), step)
        self._threads.stop()
        if self.console is not None:
            self.console.load_state_dict(body.get("console"))
        if isinstance(mixture, StoredChoice):
            mixture.load(body.get("mixture"), step)
        if self._pacer is not None:
            self._pacer.load(body.get("pacer"), mixture)
        self._plan, self._slot_layout, self._mosaic, self._mixture = plan, layout, mosaic, mixture
        self._source.lose(lost)
        self._lost = self._source.lost
        self._table = self._delivered_table = table
        self._delivered = self._acknowledged = step
        self._pending.clear()
        self._recent.clear()
        self._probes = None
        self._close_ledger()  # what runs again is a new attempt

    def _lost_in(self, body: Mapping[str, Any]) -> list[LostShard]:
        """Return the lost shards of a state, which its run went on without."""
        lost = decode_lost(body.get("lost", []), self._source.corpus.samples_per_shard)
        if lost and self.config.on_bad_shard != "substitute":
            raise StateError(
                f"the state was saved after {len(lost)} shards were lost ({lost[0].reason}): "
                "resume with on_bad_shard='substitute', or mend them and begin a new run"
            )
        return lost

    # The rest ------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """Return one flat dict of scalars about the time since the last call."""
        metrics = self._meter.read()
        ahead = self._threads.ahead
        metrics["data/queue_depth"] = float(ahead.depth) if ahead is not None else 0.0
        metrics["data/epoch"] = self._epoch()
        if self.console is not None:
            metrics.update(self.console.metrics())
        if self._pacer is not None:
            metrics.update(self._pacer.metrics())
        return metrics

    @property
    def lost(self) -> dict[int, str]:
        """Shards that are substituted (`on_bad_shard`), by number, and why: it names the file."""
        return {shard.shard_id: shard.reason for shard in self._source.cache.lost}

    def flush(self) -> None:
        """Publish what the ledger holds in memory; call it with each checkpoint."""
        if self._ledger is not None:
            self._ledger.flush()

    def close(self) -> None:
        """Join all threads, publish the ledger, let go of memory."""
        self._threads.close()
        self._close_ledger()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_ledger(self) -> Ledger:
        config = self.config
        assert config.ledger is not None
        if self._ledger is None:
            rank, world_size = config.ranks
            self._ledger_store = open_store(config.ledger, config.storage_options)
            self._ledger = Ledger(
                self._ledger_store,
                config.flush_steps,
                attempt=config.attempt,
                rank=rank,
                world_size=world_size,
            )
        return self._ledger

    def _close_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger_store.close()
            self._ledger = None

    def _epoch(self) -> float:
        order = self._source.order
        if self._mosaic is not None:
            return float(self._table[0, 0])
        positions = self._table[: order.num_strands * order.num_streams, 0]
        return float(positions.sum() / self._source.samples_per_shard.sum())


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads that were told to stop, a little: they may wait for a server."""
    until = time.monotonic() + _FAREWELL_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _settled(
    console: Console | None, mixture: Mixture | StoredChoice
) -> Callable[[int], bool]:
    """Return what tells whether all that a step depends on is known; it knows of no loader."""
    if isinstance(mixture, StoredChoice):
        return mixture.settled
    return console.settled if console is not None else _always


def _always(step: int) -> bool:
    del step
    return True
