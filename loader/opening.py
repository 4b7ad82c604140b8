# SPDX-License-Identifier: Apache-2.0
"""Opening what a loader reads, and the plan by which a state is known to belong to it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .agents import AgentSet
from .config import LoaderConfig
from .corpus import Corpus, LengthOf, Stream, Wanted, Where, open_corpus
from .errors import ConfigError
from .order import ORDER_VERSION, Mixture, Order, SlotLayout, WantedOrder
from .order.weights import Weight, epoch_choose
from .prefetch import DiskCache, LostShard, ShardCache, Source, footprint, lost_shard
from .shards import Ask, Shard, read_shard
from .storage import open_store
from .stored import StoredUnits

if TYPE_CHECKING:
    from .shards.tokenise import Tokeniser

TOKENS = "tokens"  # what a tokenised column is called


def open_source(
    url: str | Path | Sequence[Stream], config: LoaderConfig, agents: AgentSet | None
) -> Source:
    """Open a corpus with its order and its shard cache.

    Args:
        url: Where it lies.
        config: Of the loader.
        agents: Those whose stored labels select; None where none do.
    """
    corpus = open_corpus(
        list_streams(url, config.format),
        config.storage_options,
        share="auto" if config.process_ranks[1] > 1 else None,  # one rank alone must not wait
    )
    cache = None
    try:
        encoding = corpus.require(config.column)
        tokeniser, column = _open_tokeniser(config), config.column
        if tokeniser is not None:
            encoding, column = f"ndarray:{tokeniser.dtype}", TOKENS
        _check_tokens(corpus, column, encoding)
        length_of = LengthOf(config.column, None if tokeniser is None else tokeniser.digest)
        wanted = _open_wanted(corpus, config)
        check_mosaic(corpus, config)
        units = None if agents is None else _open_units(corpus, config, agents)
        if units is None:
            order = _open_order(corpus, config, wanted)
        else:
            order = units.order(**_order_settings(config, units.rows.samples))
        disk = _open_disk(config)
        is_small = 2 * int(corpus.shards.raw_bytes.sum()) <= config.budget_bytes
        cache = ShardCache(
            _fetch(corpus, config, wanted, tokeniser, disk),
            _footprint(corpus, config, wanted),
            budget_bytes=config.budget_bytes,
            num_threads=config.num_fetch_threads,
            on_bad_shard=config.on_bad_shard,
            substitute=lambda lost: _stand_in(corpus, lost, column, encoding, length_of),
            keeps_finished=is_small,
            name=lambda shard_id: f"shard {corpus.shards[shard_id].stored_name}",
            deadline_s=config.batch_timeout_s,
        )
        return Source(
            corpus,
            column,
            encoding,
            order,
            cache,
            length_of=length_of,
            wanted=wanted,
            units=units,
            disk=disk,
            shards_ahead=None if is_small else config.num_fetch_threads,
        )
    except BaseException:
        if cache is not None:
            cache.close()
        corpus.close()
        raise


def list_streams(url: str | Path | Sequence[Stream], format: str | None = None) -> list[Stream]:
    """Return the streams that are meant; ConfigError if none can be."""
    if isinstance(url, str | Path):
        return [Stream(str(url), format=format)]
    given = [url] if isinstance(url, Stream) else url
    if not isinstance(given, Sequence) or not all(isinstance(one, Stream) for one in given):
        raise ConfigError(f"a Loader reads a URL or a list of Stream(url, ...), not {url!r}")
    return list(given)


def check_mosaic(corpus: Corpus, config: LoaderConfig) -> None:
    """Refuse a plan of a StreamingDataset that is not this corpus's."""
    plan = config.mosaic_plan
    if plan is not None and not np.array_equal(plan.samples_per_shard, corpus.samples_per_shard):
        raise ConfigError(
            f"{corpus.url}: the mosaic plan is of {len(plan.samples_per_shard)} shards and "
            f"{int(plan.samples_per_shard.sum())} samples, the corpus holds {len(corpus.shards)} "
            f"and {corpus.num_samples}: give the streams of the dataset, in its order"
        )


def open_mixture(source: Source) -> Mixture:
    """Return the mixture that the weights of the streams ask for."""
    corpus = source.corpus
    weights = [
        Weight(proportion=stream.proportion, repeat=stream.repeat, choose=stream.choose)
        for stream in corpus.streams
    ]
    by_stream = np.split(source.samples_per_shard, corpus.first_shard[1:-1])
    held = [int(samples.sum()) for samples in by_stream]
    return Mixture(epoch_choose(held, weights).tolist())


def load_agents(url: str | Path | Sequence[Stream], config: LoaderConfig) -> AgentSet | None:
    """Load the agents of a console: those given, or those beside the corpus."""
    if config.console is None:
        return None
    if isinstance(config.agents, AgentSet):
        return config.agents
    first = list_streams(url)[0].url
    where = config.agents or first.rstrip("/").rsplit("/", 1)[0]
    store = open_store(where.removesuffix("/agents.safetensors"), config.storage_options)
    try:
        return AgentSet.load(store)
    finally:
        store.close()


def fixed_length(streams: Sequence[Stream], settings: Mapping[str, Any]) -> int:
    """Return `seq_len` of the settings, or the length that the token column fixes.

    Raises:
        ConfigError: Neither says.
    """
    if "seq_len" in settings:
        return int(settings["seq_len"])
    column = settings.get("column", TOKENS)
    corpus = open_corpus(streams, settings.get("storage_options"))
    try:
        shape = corpus.require(column).split(":")[2:]
    finally:
        corpus.close()
    if not shape or not shape[0].isdecimal():
        raise ConfigError(f"column {column!r} has samples of any length: give seq_len")
    return int(shape[0])


def make_plan(
    config: LoaderConfig, layout: SlotLayout, source: Source, agents: AgentSet | None
) -> dict[str, Any]:
    """Return what must be equal for a state to mean the same batches."""
    names = ("seed", "shuffle", "window_shards", "batch_rows", "seq_len", "column", "where")
    plan: dict[str, Any] = {name: getattr(config, name) for name in names}
    plan |= {
        "index": source.corpus.shards.digest,
        "num_slots": layout.num_slots,
        "num_strands": layout.num_strands,
        "lanes": layout.lanes,
        "packing": layout.packing.name.lower(),
        "num_candidates": layout.num_candidates,
        "order": ORDER_VERSION,
        "tokenizer": source.length_of.tokenizer,
        "console": None,
    }
    if config.where is not None:
        plan["where"] = Where.parse(config.where).text
    if source.wanted is not None:
        plan["wanted"] = source.wanted.digest
    if config.mosaic_plan is not None:
        plan["mosaic"] = _digest([json.dumps(config.mosaic_plan.to_dict(), sort_keys=True)])
    if config.console is not None and agents is not None:
        plan["console"] = config.console.to_dict()
        plan["num_probes"] = config.num_probes
        model = [getattr(agents.model, name).numpy().tobytes().hex() for name in ("heads", "bias")]
        infos = [agent.to_dict() for agent in agents.agents]
        plan["agents"] = _digest([*model, json.dumps(infos, sort_keys=True)])
    if source.units is not None:
        plan |= {"labels": source.units.cells.digest, "keep": config.keep}
        plan["max_units"] = config.max_units
    if config.schedule is not None:
        plan["schedule"] = asdict(config.schedule)
    return json.loads(json.dumps(plan))  # as a state that was saved reads


def _check_tokens(corpus: Corpus, column: str, encoding: str) -> None:
    """Refuse columns whose elements are no token ids."""
    kind, _, rest = encoding.partition(":")
    dtype = rest.partition(":")[0]
    if kind == "ndarray" and (not dtype or np.dtype(dtype).kind in "iu"):
        return
    advice = "pass tokenizer=" if encoding == "str" else "choose another column"
    raise ConfigError(f"{corpus.url}: column {column!r} is {encoding}, no token ids; {advice}")


def _open_wanted(corpus: Corpus, config: LoaderConfig) -> Wanted | None:
    if config.where is None:
        return None
    window = max(config.window_shards, config.num_strands or 1) * len(corpus.streams)
    return Wanted(corpus, Where.parse(config.where), kept_shards=4 * window)


def _open_units(corpus: Corpus, config: LoaderConfig, agents: AgentSet) -> StoredUnits:
    strands = _order_settings(config, [corpus.samples_per_shard])["num_strands"]
    return StoredUnits(
        corpus,
        agents,
        max_units=config.max_units,
        num_strands=strands,
        kept_shards=4 * config.window_shards,
    )


def _order_settings(config: LoaderConfig, by_stream: Iterable[np.ndarray]) -> dict[str, Any]:
    num_strands = config.num_strands
    if num_strands is None:
        num_strands = 1
        smallest = min(int(samples.sum()) for samples in by_stream)
        is_mixed = config.shuffle and config.order == "strands"
        most = min(config.window_shards, smallest) if is_mixed else 1
        while num_strands * 2 <= most and config.slots % (num_strands * 2) == 0:
            num_strands *= 2
    return {
        "seed": config.seed,
        "num_strands": num_strands,
        "ways": max(1, config.window_shards // num_strands),
        "shuffle": config.shuffle,
    }


def _open_order(corpus: Corpus, config: LoaderConfig, wanted: Wanted | None) -> Order:
    held = corpus if wanted is None else wanted
    by_stream = np.split(held.samples_per_shard, corpus.first_shard[1:-1])
    settings = _order_settings(config, by_stream)
    if wanted is None:
        return Order(by_stream, **settings)
    return WantedOrder(by_stream, wanted.locate, **settings)


def _open_tokeniser(config: LoaderConfig) -> "Tokeniser | None":
    if config.tokenizer is None:
        return None
    from .shards.tokenise import Tokeniser

    options = dict(config.storage_options or {})
    return Tokeniser.load(config.tokenizer, eod=config.eod, storage_options=options)


def _open_disk(config: LoaderConfig) -> DiskCache | None:
    if config.cache_dir is None:
        return None
    strict = config.on_bad_disk == "fail"
    return DiskCache(config.cache_dir, limit_bytes=config.cache_limit_bytes, strict=strict)


def _fetch(
    corpus: Corpus,
    config: LoaderConfig,
    wanted: Wanted | None,
    tokeniser: "Tokeniser | None",
    disk: DiskCache | None,
) -> Callable[[int, Callable[[int], np.ndarray]], Shard]:
    """Return the call that reads one shard: only what is wanted of it, checked, tokenised."""
    needed = {config.column}
    if config.selects_inline and isinstance(config.agents, AgentSet):
        needed |= {agent.column for agent in config.agents.agents if agent.column is not None}
    columns = None if config.selects_inline else tuple(sorted(needed))

    def fetch(shard_id: int, allocate: Callable[[int], np.ndarray]) -> Shard:
        rows = _rows(corpus, config, wanted, shard_id)
        hashes, verify = None, config.verify
        if wanted is not None:
            hashes = corpus.sample_hashes(shard_id)
        if rows is not None and verify == "strict":
            verify = "ranges"
        ask = Ask(columns=columns, allocate=allocate, verify=verify, rows=rows, hashes=hashes)
        store, info = corpus.store_of(shard_id), corpus.shards[shard_id]
        if disk is None:
            shard = read_shard(store, info, ask)
        else:
            digest = corpus.digests[corpus.stream_of(shard_id)]
            shard = disk.read(store, info, ask, index_digest=digest)
        if tokeniser is None:
            return shard
        return tokeniser.tokenise(shard, config.column, rows=rows, allocate=allocate)

    return fetch


def _footprint(corpus: Corpus, config: LoaderConfig, wanted: Wanted | None) -> Callable[[int], int]:
    """Return the call that tells the bytes a shard takes while it is fetched."""

    def footprint_of(shard_id: int) -> int:
        rows = _rows(corpus, config, wanted, shard_id)
        sizes = None if rows is None else corpus.sample_bytes(shard_id)
        return footprint(corpus.shards[shard_id], rows, sizes)

    return footprint_of


def _rows(
    corpus: Corpus, config: LoaderConfig, wanted: Wanted | None, shard_id: int
) -> np.ndarray | None:
    """Return the rows that are fetched, None for all: single ones must not escape verification."""
    if wanted is None:
        return None
    if config.verify == "strict" and not corpus.stored.has_hashes(shard_id):
        return None
    return wanted.rows(shard_id)


def _stand_in(
    corpus: Corpus, lost: LostShard, column: str, encoding: str, length_of: LengthOf
) -> Shard:
    info, lengths = corpus.shards[lost.shard_id], lost.lengths
    if lengths is None:
        lengths = corpus.stored.lengths(lost.shard_id, length_of)
    known = {} if lengths is None else {column: lengths}
    return lost_shard(info, {column: encoding}, known)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
