# SPDX-License-Identifier: Apache-2.0
"""Indexes for corpora that have none of their own, or a slow one (`moot index`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..corpus import LabelPlan, Stream, open_corpus, write_labels
from ..corpus.sidecar import LABELS_NAME
from ..errors import ConfigError, ShardError
from ..shards import ShardIndex, find_shards
from ..shards.index_table import TABLE_NAME, write_index
from ..shards.jsonl_index import INDEX_NAME as LINES_NAME
from ..shards.jsonl_index import index_jsonl
from ..shards.tokenise import TOKENS
from ..storage import Store, open_store

if TYPE_CHECKING:
    from ..shards.tokenise import Tokeniser


@dataclass(frozen=True)
class Indexed:
    """What an index that was written says.

    Attributes:
        url: Of the index.
        format: Of the shards.
        shards: Their number.
        samples: In all of them.
    """

    url: str
    format: str
    shards: int
    samples: int


def index_corpus(
    url: str,
    format_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    store_options: Mapping[str, str] | None = None,
) -> Indexed:
    """Write the index of a corpus beside its shards; one that is there is replaced.

    JSON lines are read once from front to end, since nothing says where their samples are. Of all
    other formats, what they say themselves (index.json, footers, sizes) is gathered in one table
    that is read at once.

    Args:
        url: A corpus.
        format_name: The format of its shards; None takes the first that is found.
        options: What the format needs to be told.
        store_options: As for `open_store`.

    Raises:
        ConfigError: There are no shards.
        StorageError: Something cannot be read or written.
        ShardError: What describes the shards is malformed.
    """
    store = open_store(url, store_options)
    try:
        if format_name in (None, "jsonl") and _holds_lines(store, options):
            return _indexed(store, LINES_NAME, index_jsonl(store, options))
        shards = find_shards(store, options, format_name)
        if shards is None:
            wanted = f"format {format_name}" if format_name else "any format that is read"
            raise ConfigError(f"{store.url} holds no shards of {wanted}; check the URL")
        write_index(store, shards, options)
        return _indexed(store, TABLE_NAME, shards)
    finally:
        store.close()


def store_labels(
    url: str,
    columns: Sequence[str],
    format_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    length_of: str | None = None,
    tokeniser: Tokeniser | None = None,
    store_options: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int | None, str], None] | None = None,
) -> str:
    """Write labels.parquet beside a corpus: of every sample its length, its hash and its labels.

    Args:
        url: A corpus.
        columns: Scalar columns of its shards that hold labels.
        format_name: As for `index_corpus`, like `options` and `store_options`.
        options: What the format needs to be told.
        length_of: The column whose lengths are stored; None takes `tokens` if there is one.
        tokeniser: The lengths are those of its tokens of that column, which holds texts.
        store_options: As for `open_store`.
        progress: Called as progress(stage, done, total, detail), counting shards.

    Returns:
        The URL of the file.

    Raises:
        ConfigError: A column holds no labels, or the texts to tokenise are not named.
        StorageError: A shard cannot be read, or the file not be written.
        ShardError: A shard is malformed.
    """
    if tokeniser is not None and length_of is None:
        raise ConfigError("a tokenizer counts the tokens of a column of texts: name it, length_of")
    opened = open_corpus([Stream(url, format=format_name, options=options)], store_options)
    with closing(opened) as corpus:
        names = corpus.shards[0].column_names
        if length_of is None and TOKENS in names:
            length_of = TOKENS
        plan = LabelPlan(columns=tuple(columns), token_column=length_of, tokeniser=tokeniser)

        def count(done: int, total: int) -> None:
            if progress is not None:
                progress("labels", done, total, "")

        write_labels(corpus, plan, progress=count)
        return f"{corpus.stores.get(0).url}/{LABELS_NAME}"


def _holds_lines(store: Store, options: Mapping[str, Any] | None) -> bool:
    """Tell whether JSON lines are what is there, with an index, a broken one or none."""
    if find_shards(store, None, "mds") is not None:
        return False
    try:
        return find_shards(store, options, "jsonl") is not None
    except ShardError:
        return True


def _indexed(store: Store, name: str, shards: ShardIndex) -> Indexed:
    format_name = shards[0].format if len(shards) else "none"
    return Indexed(f"{store.url}/{name}", format_name, len(shards), int(shards.samples.sum()))
