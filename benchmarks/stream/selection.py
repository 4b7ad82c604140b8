# SPDX-License-Identifier: Apache-2.0
"""What choosing costs: stored labels, agents that score inline, and Python in the step itself.

where   one pass of what a predicate on stored labels wants
inline  three agents score every candidate and a quarter is kept, or nobody scores; the console
        never moves, so no rewards are awaited, and draws its noise as by default
python  CPU seconds of the thread that makes batches and of the one that takes them, all shards
        held, less those of the native calls

Run under our Python: python -m stream.selection JSON
"""

import json
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from moot.loader import AgentSet, ConsoleConfig, _core, open_corpus
from moot.loader.agents import AgentInfo, inline_quality, inline_topic
from moot.triton_kernels import NgramModel, document_scores

from .labels import states_of
from .measure import settle_memory
from .ours import open_loader
from .reader import BATCH_ROWS, SEQ_LEN, Place

_TOPICS = 13  # as `moot fit` has them by default, like the shape of the model
_BUCKETS, _DIM, _ORDERS = 1 << 16, 16, (1, 2)
_SCORED_TOKENS = 1 << 22


def main(ask):
    """Run what is asked and return its figures."""
    place = Place(**{**ask["place"], "served": Path(ask["place"]["served"])})
    modes = {"where": read_wanted, "inline": read_scored, "python": count_python}
    settle_memory(ask["settled_gb"])
    return modes[ask["mode"]](place, ask)


# ---- stored labels


def read_wanted(place, ask):
    """Read one pass of the samples that the predicate wants; without one, of all."""
    form = ask["options"].get("form", "mds")
    is_wanted, stored_bytes = _wanted(place, form, ask["where"])
    num_batches = int(is_wanted.sum()) // BATCH_ROWS
    cpu, started = time.process_time(), time.perf_counter()
    with open_loader(place, form=form, where=ask["where"]) as loader:
        stream, ids = iter(loader), []
        for batch_id in range(num_batches):
            next(stream)
            ids.append(loader.pieces(batch_id).sample_id)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        store = loader._source.corpus.stores.counters()
    ids = np.concatenate(ids)
    needed = stored_bytes * is_wanted.mean()
    return {
        "seconds": seconds,
        "samples_per_s": len(ids) / seconds,
        "fetched_mb": store["bytes"] / 1e6,
        "requests": store["requests"],
        "fetched_of_wanted": store["bytes"] / needed,
        "cpu_s": cpu,
        "wanted_samples": int(is_wanted.sum()),
        "distinct_share": len(np.unique(ids)) / len(ids),
        "is_right": bool(is_wanted[ids].all()),
    }


def _wanted(place, form, where):
    """Return which samples are wanted, by the rule of the labels, and the corpus's stored bytes."""
    with closing(open_corpus(str(place.served / place.corpus / form))) as corpus:
        samples = corpus.samples_per_shard
        stored_bytes = sum(shard.stored_bytes for shard in corpus.shards)
    if where is None:
        return np.ones(int(samples.sum()), bool), stored_bytes
    name, _, limit = where.partition(" < ")
    return states_of(samples)[name] < int(limit), stored_bytes


# ---- inline agents


def read_scored(place, ask):
    """Read until the corpus has been offered once, or for about `limit_s`."""
    agents = three_agents()
    console = ConsoleConfig(mode="fixed", memory=_memory(agents), temperature=0.1)
    chosen = {"console": console, "agents": agents} if ask["selects"] else {}
    starts = np.load(place.served / place.corpus / "starts.npy")
    a_document = float(np.diff(starts).mean())
    started = time.perf_counter()
    with open_loader(place, **chosen) as loader:
        keep = loader.config.keep if ask["selects"] else 1.0
        num_batches = int(starts[-1] * keep) // (BATCH_ROWS * SEQ_LEN)
        stream = iter(loader)
        offered = _take(loader, stream, 1, ask["limit_s"])
        first_batch_s = time.perf_counter() - started
        offered += _take(loader, stream, num_batches // 10, ask["limit_s"] / 2)
        cpu, began = time.process_time(), time.perf_counter()
        steady = _take(loader, stream, num_batches * 9 // 10 - 1, ask["limit_s"])
        ended, cpu = time.perf_counter(), time.process_time() - cpu
    figures = {
        "documents_per_s": (offered + steady) / a_document / (ended - started),
        "steady_documents_per_s": steady / a_document / (ended - began),
        "steady_tokens_per_s": steady / (ended - began),
        "documents_per_cpu_s": steady / a_document / cpu,
        "first_batch_s": first_batch_s,
    }
    if ask["selects"]:
        figures["scored_tokens_per_s"] = scoring_rate(place, agents)
    return figures


def _take(loader, stream, num_batches, limit_s):
    """Take batches; return the tokens that were offered for them."""
    began, done = time.perf_counter(), 0
    while done < num_batches and time.perf_counter() - began < limit_s:
        next(stream)
        done += 1
    return done * BATCH_ROWS * SEQ_LEN / (loader.metrics()["select/kept(%)"] / 100)


def three_agents():
    """Return a quality, a topic and a style agent, all inline, of the shape `moot fit` makes."""
    rng = np.random.default_rng(0)
    num_heads = 2 + _TOPICS
    model = NgramModel(
        table=torch.from_numpy(rng.integers(-128, 128, (_BUCKETS, _DIM), np.int8)),
        heads=torch.from_numpy(rng.integers(-(2**15), 2**15, (num_heads, _DIM), np.int16)),
        bias=torch.from_numpy(rng.integers(-(10**5), 10**5, num_heads, np.int32)),
        scale=torch.full((num_heads,), 1e-6),
        orders=_ORDERS,
    )
    edges = (-1.0, -0.3, 0.3, 1.0)
    style = AgentInfo(
        name="style",
        num_states=5,
        state_names=tuple("abcde"),
        kind="binned",
        first_head=1 + _TOPICS,
        edges=edges,
    )
    agents = (inline_quality(0, edges), inline_topic(1, [f"t{i}" for i in range(_TOPICS)]), style)
    states = np.array([[q, t, s] for q in range(5) for t in range(_TOPICS) for s in range(5)])
    return AgentSet(agents, model, states, np.full(len(states), 1 / len(states)))


def _memory(agents):
    rng = np.random.default_rng(1)
    return {agent.name: tuple(rng.normal(size=agent.num_states)) for agent in agents.agents}


def scoring_rate(place, agents):
    """Return the tokens that `document_scores` alone scores in a second, in one thread."""
    folder = place.served / place.corpus
    starts = np.load(folder / "starts.npy")
    starts = starts[: np.searchsorted(starts, _SCORED_TOKENS)]
    tokens = torch.from_numpy(np.fromfile(folder / "tokens.bin", np.uint16, int(starts[-1])))
    memory = np.zeros((len(agents.agents), agents.num_states_max))
    tables = agents.tables(memory, np.ones(len(agents.agents)))
    rates = []
    for _ in range(5):
        started = time.thread_time()
        document_scores(tokens, torch.from_numpy(starts), agents.model, tables)
        rates.append(len(tokens) / (time.thread_time() - started))
    return statistics.median(rates)


# ---- Python


def count_python(place, ask):
    """Read one pass from memory and tell Python's CPU seconds from those of native calls."""
    starts = np.load(place.served / place.corpus / "starts.npy")
    with open_loader(place, scheme="file") as loader:
        stream = iter(loader)
        for _ in range(ask["batches"] * 5 // 4):  # strands end at slightly different batches
            next(stream)
        clock = time.pthread_getcpuclockid(loader._threads.ahead._thread.ident)
        loader.metrics()
        with NativeCalls() as native:
            maker, taker = time.clock_gettime(clock), time.thread_time()
            for _ in range(ask["batches"]):
                next(stream)
            maker, taker = time.clock_gettime(clock) - maker, time.thread_time() - taker
            num_calls, native_s = native.count, native.seconds
        hits = loader.metrics()["io/cache_hit(%)"]
    num = ask["batches"] * BATCH_ROWS * SEQ_LEN / np.diff(starts).mean()
    return {
        "python_us_per_sample": 1e6 * (maker + taker - native_s) / num,
        "native_us_per_sample": 1e6 * native_s / num,
        "native_calls_per_batch": num_calls / ask["batches"],
        "maker_us_per_batch": 1e6 * maker / ask["batches"],
        "taker_us_per_batch": 1e6 * taker / ask["batches"],
        "samples_per_batch": num / ask["batches"],
        "hits_percent": hits,
    }


class NativeCalls:
    """Counts the calls of `_core`'s functions and their CPU seconds while the block runs."""

    def __enter__(self):
        """Put a timed function in the place of each, in every module of the loader."""
        self.count, self.seconds, self._replaced = 0, 0.0, []
        found = {name: value for name, value in vars(_core).items() if _is_function(value)}
        timed = {id(value): self._timed(value) for value in found.values()}
        for name, module in list(sys.modules.items()):
            if not name.startswith("moot.loader"):
                continue
            for attribute, value in list(vars(module).items()):
                if id(value) in timed:
                    setattr(module, attribute, timed[id(value)])
                    self._replaced.append((module, attribute, value))
        return self

    def __exit__(self, *_):
        """Put the functions back."""
        for module, attribute, value in self._replaced:
            setattr(module, attribute, value)

    def _timed(self, function):
        def call(*arguments, **named):
            started = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - started
                self.count += 1

        return call


def _is_function(value):
    return callable(value) and not isinstance(value, type)


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
