# SPDX-License-Identifier: Apache-2.0
"""What becomes of a sample on its way: what is read, what is tokenised, what is left out."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, ShardError
from ..shards import Shard, ShardIndex
from ..shards.encodings import make_encoder
from ..shards.parquet_writer import parquet_columns
from ..shards.writer import Cell
from .config import TOKENS, ConvertConfig
from .content import empty_rows, encoded_cells


@dataclass(frozen=True)
class Samples:
    """Samples on their way: encoded cells of each column, and how many were left out."""

    cells: Mapping[str, Sequence[Cell]]
    num: int
    num_dropped: int


@dataclass(frozen=True)
class Recipe:
    """What is done to every shard; the same for all of them."""

    read: dict[str, str]
    """Columns that are read, with their encodings."""
    columns: dict[str, str]
    """Columns that are written, with their encodings."""
    text_column: str | None = None
    tokeniser: Any = field(default=None, repr=False)
    drop_empty: bool = False
    keeps_empty: bool = False
    """Whether the target can hold empty arrays."""

    def apply(self, shard: Shard) -> Samples:
        """Return the samples of a shard as they are to be written.

        Raises:
            ShardError: A column differs from the other shards', a sample is malformed, or is empty
                where it may not be.
        """
        for name, encoding in self.read.items():
            if shard.encoding(name) != encoding:
                raise ShardError(
                    f"{shard.where}: column {name!r} is {shard.encoding(name)}, in other shards "
                    f"{encoding}; write the corpus with one encoding, or leave the column out"
                )
        cells = {name: encoded_cells(shard, name) for name in self.columns if name in self.read}
        if self.tokeniser is not None:
            cells[TOKENS] = self._tokenise(shard)
        return self._without_empty(shard, cells)

    def _tokenise(self, shard: Shard) -> list[Cell]:
        raise NotImplementedError

    def _without_empty(self, shard: Shard, cells: dict[str, Sequence[Cell]]) -> Samples:
        empty = {name: empty_rows(text, cells[name]) for name, text in self.columns.items()}
        rows = set(itertools.chain.from_iterable(empty.values()))
        if not rows or not self.drop_empty:
            if rows and not self.keeps_empty:
                name = next(name for name, found in empty.items() if found)
                raise ShardError(
                    f"{shard.where}, sample {empty[name][0]}: column {name!r} is empty, and MDS "
                    "holds no empty arrays; leave such samples out with --drop-empty, or write "
                    "Parquet"
                )
            return Samples(cells, shard.num_samples, 0)
        is_kept = [row not in rows for row in range(shard.num_samples)]
        kept = {name: list(itertools.compress(part, is_kept)) for name, part in cells.items()}
        return Samples(kept, shard.num_samples - len(rows), len(rows))


def make_recipe(where: str, index: ShardIndex, config: ConvertConfig) -> Recipe:
    """Decide what is read and written.

    Raises:
        ConfigError: A column or the tokenizer does not fit the corpus or the target, or shards
            differ in their columns.
    """
    held = _columns(where, index, config)
    for name, encoding in config.read_columns.items():
        _require(where, name, held)
        if encoding not in (None, held[name]):
            raise ConfigError(f"{where}: column {name!r} is {held[name]}, not {encoding}")
    columns = {name: held[name] for name in _copied(where, held, config)}
    read = dict(columns)
    _check_target(columns, config.to)
    return Recipe(
        read=read,
        columns=columns,
        drop_empty=config.drop_empty,
        keeps_empty=config.to == "parquet",
    )


def _copied(where: str, held: Mapping[str, str], config: ConvertConfig) -> list[str]:
    """Return the columns that are written as they are read."""
    if config.columns is not None:
        names = [text.partition(":")[0] for text in config.columns]
        return [name for name in names if config.tokenizer is None or name != TOKENS]
    if config.tokenizer is None:
        return list(held)
    if TOKENS in held:
        raise ConfigError(f"{where} has tokens already; name the columns to keep with --columns")
    return [name for name in held if name != config.text_column]


def _columns(where: str, index: ShardIndex, config: ConvertConfig) -> dict[str, str]:
    """Return name and encoding of the columns that all shards have."""
    kinds = {(kind.column_names, kind.column_encodings) for kind in index.columns.kinds}
    found = [dict(zip(names, encodings, strict=True)) for names, encodings in sorted(kinds)]
    shared = {name: text for name, text in found[0].items() if all(name in one for one in found)}
    shared = {n: text for n, text in shared.items() if all(one[n] == text for one in found)}
    if config.columns is None and any(one != shared for one in found):
        raise ConfigError(
            f"{where}: shards differ in their columns; choose with --columns among those that all "
            f"have: {', '.join(shared) or 'there are none'}"
        )
    return shared


def _require(where: str, name: str, held: Mapping[str, str]) -> None:
    if name in held:
        return
    near = difflib.get_close_matches(name, held, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it holds {', '.join(held)}"
    raise ConfigError(f"{where} has no column {name!r}{hint}")


def _check_target(columns: Mapping[str, str], target: str) -> None:
    try:
        if target == "parquet":
            parquet_columns(columns)
        for name, encoding in columns.items():
            _check_written(name, encoding)
    except ShardError as error:
        raise ConfigError(f"{error}; leave it out with --columns") from None


def _check_written(name: str, encoding: str) -> None:
    try:
        make_encoder(encoding)
    except ShardError as error:
        raise ShardError(f"column {name!r}: {error}") from None
