# SPDX-License-Identifier: Apache-2.0
"""A conversion from beginning to end: plan, parts in threads, verification, index.

Memory holds, for each worker, one shard of the source and one of the target; nothing grows with
the corpus but the index. Parts are independent of each other and of the order in which they are
written, so a run with one worker, one with many and one that was killed and resumed leave equal
bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ..errors import ConfigError, ShardError
from ..shards import ShardIndex, find_shards, merge_index
from ..shards.formats import FORMATS
from ..shards.index import INDEX_NAME
from ..storage import MissingObjectError, Store, open_store
from .config import ConvertConfig
from .destination import Destination, Part
from .parts import verify_part, write_part
from .plan import Plan, make_plan
from .recipe import Recipe, make_recipe

Progress: TypeAlias = Callable[[str, int, int | None, str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Converted:
    """What a conversion has written; all numbers over all runs.

    Attributes:
        url: The destination.
        samples: Samples in it.
        dropped: Samples of the source that were left out because they are empty.
        files: Files of samples.
        stored_bytes: Their bytes.
        kept_parts: Parts that an earlier run had written.
        is_verified: Whether this run has compared it with the source.
        was_complete: Whether there was nothing left to do.
    """

    url: str
    samples: int
    dropped: int
    files: int
    stored_bytes: int
    kept_parts: int = 0
    is_verified: bool = False
    was_complete: bool = False


def silent(stage: str, done: int, total: int | None, detail: str = "") -> None:
    """Report no progress."""


def convert(
    source_url: str,
    target_url: str,
    config: ConvertConfig | None = None,
    progress: Progress = silent,
    *,
    source_options: Mapping[str, str] | None = None,
    target_options: Mapping[str, str] | None = None,
) -> Converted:
    """Write a corpus anew in another format, or go on where an earlier run was cut short.

    Args:
        source_url: A corpus of any format that is read.
        target_url: Where to; empty, or holding the same conversion.
        config: The settings.
        progress: Called as progress(stage, done, total, detail), in this thread.
        source_options: Of the store that is read, as for `open_store`.
        target_options: Of the store that is written.

    Raises:
        ConfigError: A setting does not fit the source, or the destination holds something else.
        StorageError: Something cannot be read or written.
        ShardError: The source is malformed or corrupt, or the target is not what was written.
    """
    config = config or ConvertConfig()
    with ExitStack() as opened:
        source = open_store(source_url, source_options)
        opened.callback(source.close)
        target = open_store(target_url, target_options)
        opened.callback(target.close)
        _check_apart(source, target)
        return _Conversion(source, target, config, progress).run()


class _Conversion:
    def __init__(
        self, source: Store, target: Store, config: ConvertConfig, progress: Progress
    ) -> None:
        self._source = source
        self._config = config
        self._progress = progress
        self._shards = _find(source, config)
        self._recipe: Recipe = make_recipe(source.url, self._shards, config)
        self._plan: Plan = make_plan(self._shards, self._recipe, config)
        self._target = Destination(target, self._plan)

    def run(self) -> Converted:
        if self._target.open(force=self._config.force):
            return Converted(self._target.url, **self._target.totals, was_complete=True)
        written = self._target.written(self._config.workers)
        num_kept = len(written)
        missing = [part for part in range(self._plan.num_parts) if part not in written]
        self._each("convert", missing, self._write, written)
        self._check_counts(written)
        if self._config.verify:
            self._each("verify", sorted(written), lambda one: self._verify(one, written[one]), {})
        if self._config.to == "mds":
            self._target.store.delete(INDEX_NAME)  # of a run that was cut short right behind it
            merge_index(self._target.store, [self._plan.name(part) for part in sorted(written)])
        totals = _totals(written)
        self._target.finish(totals)
        return Converted(
            self._target.url, **totals, kept_parts=num_kept, is_verified=self._config.verify
        )

    def _write(self, part: int) -> Part:
        first, last = self._plan.bounds[part], self._plan.bounds[part + 1]
        done = write_part(
            self._source,
            self._shards,
            range(int(first), int(last)),
            self._target.part_store(part),
            self._recipe,
            self._config,
        )
        self._target.mark(part, done)
        return done

    def _verify(self, part: int, written: Part) -> None:
        store = self._target.part_store(part)
        try:
            verify_part(store, written, self._recipe.columns, self._config.to)
        except (ShardError, MissingObjectError) as error:
            self._target.unmark(part)
            raise ShardError(
                f"verification failed: {error}; run the same command again, which writes this "
                "part anew"
            ) from error

    def _each(
        self,
        stage: str,
        parts: list[int],
        work: Callable[[int], Result],
        results: dict[int, Result],
    ) -> None:
        """Do `work` for each part in threads; progress counts samples, those done before too."""
        total = self._plan.num_samples
        rows = {part: self._plan.num_rows(part) for part in parts}
        done = total - sum(rows.values())
        self._progress(stage, done, total, "")
        for part, result in _in_threads(parts, work, self._config.workers):
            results[part] = result
            done += rows[part]
            self._progress(stage, done, total, f"part {len(results):,} of {self._plan.num_parts:,}")

    def _check_counts(self, written: dict[int, Part]) -> None:
        for part, done in written.items():
            expected = self._plan.num_rows(part)
            if done.samples + done.dropped != expected:
                self._target.unmark(part)
                raise ShardError(
                    f"{self._target.part_store(part).url} holds {done.samples} samples of "
                    f"{expected}; run the same command again, which writes this part anew"
                )


def _in_threads(
    parts: Iterable[int], work: Callable[[int], Result], num_threads: int
) -> Iterable[tuple[int, Result]]:
    """Yield what `work` returns, as it is done; the first error ends all."""
    waiting = iter(parts)
    running: dict[Future[Result], int] = {}
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="moot-convert")
    try:
        while True:
            for part in itertools.islice(waiting, 2 * num_threads - len(running)):
                running[pool.submit(work, part)] = part
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _find(source: Store, config: ConvertConfig) -> ShardIndex:
    """Return the shards of the first format that is there."""
    names = FORMATS if config.format is None else (config.format,)
    found = (find_shards(source, _options(name, config), name) for name in names)
    shards = next((shards for shards in found if shards is not None), None)
    if shards is None:
        wanted = f"of format {config.format}" if config.format else "of any format that is read"
        raise ConfigError(f"{source.url} holds no shards {wanted}; check the URL and --format")
    if not int(shards.samples.sum()):
        raise ShardError(f"{source.url} holds no samples; there is nothing to convert")
    if config.options and shards[0].format == "mds":
        told = ", ".join(config.options)
        raise ConfigError(f"{source.url} is MDS, which says all by itself; leave out {told}")
    return shards


def _options(format_name: str, config: ConvertConfig) -> dict[str, Any]:
    """Return the options of a format, with the columns meant where it wants to know them."""
    named = config.read_columns
    if format_name == "jsonl" and named:
        specs = [name if text is None else f"{name}:{text}" for name, text in named.items()]
        return {"columns": specs, **config.options}
    if format_name == "parquet" and config.columns is not None:
        return {"columns": list(named), **config.options}
    return dict(config.options)


def _check_apart(source: Store, target: Store) -> None:
    one, other = (store.url.rstrip("/") + "/" for store in (source, target))
    if one.startswith(other) or other.startswith(one):
        raise ConfigError(
            f"{source.url} and {target.url} lie in each other; choose a destination beside the "
            "source"
        )


def _totals(written: dict[int, Part]) -> dict[str, Any]:
    return {
        "samples": sum(part.samples for part in written.values()),
        "dropped": sum(part.dropped for part in written.values()),
        "files": sum(len(part.files) for part in written.values()),
        "stored_bytes": sum(sum(part.files.values()) for part in written.values()),
    }
