# SPDX-License-Identifier: Apache-2.0
"""Opening a corpus: what its streams hold is found once, several streams at a time.

A stored index (`moot.index.parquet`) is read if there is one, else what the formats find: an
index.json, footers, a listing. Nothing is listed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from ..errors import ConfigError, ShardError, StorageError
from ..shards import ShardIndex, find_shards
from ..shards.index import INDEX_NAME
from ..shards.index_table import TABLE_NAME, read_stored_index
from ..storage import ForbiddenError, Store
from .corpus import Corpus
from .sharing import Share, default_share, share_indexes
from .streams import Stream, StreamStores, warn_refused

_NUM_THREADS = 16


def open_corpus(
    streams: str | Sequence[Stream],
    storage_options: Mapping[str, str] | None = None,
    *,
    share: Share | Literal["auto"] | None = "auto",
) -> Corpus:
    """Read what a corpus consists of.

    Args:
        streams: A folder or bucket of shards, or several of them.
        storage_options: As for `open_store`, for all streams.
        share: How one process hands what it has read to the others, which then read no index. All
            of them must open the corpus. "auto" shares over torch.distributed where that is
            initialised with several processes; None reads here.

    Raises:
        StorageError: Nothing is there, or it cannot be read; by this process or the one that reads.
        ShardError: An index is malformed, or a stream holds no samples.
        ConfigError: A URL or an option is not understood.
    """
    given = (Stream(streams),) if isinstance(streams, str) else tuple(streams)
    if not given:
        raise ConfigError("a corpus needs at least one stream; name its URL")
    stores = StreamStores(given, storage_options)
    try:
        how = default_share() if share == "auto" else share
        if how is None:
            indexes = read_indexes(given, stores)
        else:
            indexes = share_indexes(how, lambda: read_indexes(given, stores))
        return Corpus(given, stores, indexes)
    except BaseException:
        stores.close()
        raise


def read_indexes(streams: Sequence[Stream], stores: StreamStores) -> list[ShardIndex]:
    """Find the shards of every stream, in parallel.

    Raises:
        StorageError, ShardError, ConfigError: As for `open_corpus`; of the first stream that fails.
    """
    if len(streams) == 1:
        return [_find(stores.get(0), streams[0])]
    with ThreadPoolExecutor(min(_NUM_THREADS, len(streams)), "moot-index") as pool:
        tasks = [pool.submit(_find, stores.get(i), stream) for i, stream in enumerate(streams)]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _find(store: Store, stream: Stream) -> ShardIndex:
    try:
        index = read_stored_index(store, stream.options)
    except ForbiddenError as error:
        index = None
        warn_refused(error)
    if index is None:
        index = find_shards(store, stream.options, stream.format)
    elif stream.format is not None and {k.format for k in index.columns.kinds} != {stream.format}:
        raise ShardError(f"{store.url}: {TABLE_NAME} names shards that are not {stream.format}")
    if index is None:
        raise StorageError(_nothing_here(store))
    if not index.samples.sum():
        raise ShardError(f"{store.url}: the corpus holds no samples; write some before reading it")
    return index


def _nothing_here(store: Store) -> str:
    names = store.list()
    if not names:
        return f"{store.url} is empty; write a corpus there, as with `moot corpus local --out`"
    below = [name for name in names if name.endswith(f"/{INDEX_NAME}")]
    if below:
        parts = ", ".join(sorted(name.rpartition("/")[0] for name in below)[:8])
        return f"{store.url} holds no {INDEX_NAME} itself, but its parts do: open one of {parts}"
    return (
        f"{store.url} holds no {INDEX_NAME} and no shards among {len(names)} objects; the URL is "
        "wrong, or writing the corpus never finished"
    )
