# SPDX-License-Identifier: Apache-2.0
"""What becomes of a sample on its way: what is read, what is tokenised, what is left out."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError, ShardError
from ..shards import Shard, ShardIndex
from ..shards.encodings import make_encoder
from ..shards.parquet_writer import parquet_columns
from ..shards.tokenise import TOKENS, Tokeniser
from ..shards.writer import Cell
from .config import ConvertConfig
from .content import empty_rows, encoded_cells, flat_cells


@dataclass(frozen=True)
class Samples:
    """Samples on their way: encoded cells of each column, and how many were left out."""

    cells: Mapping[str, Sequence[Cell]]
    num_dropped: int


@dataclass(frozen=True)
class Recipe:
    """What is done to every shard; the same for all of them."""

    read: dict[str, str]
    """Columns that are read, with their encodings."""
    columns: dict[str, str]
    """Columns that are written, with their encodings."""
    drop_empty: bool
    """Whether samples with an empty array are left out."""
    keeps_empty: bool
    """Whether the target can hold empty arrays."""
    text_column: str = ""
    """The column that becomes tokens, if there is a tokeniser."""
    tokeniser: Tokeniser | None = None

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
        copied = (name for name in self.columns if name != TOKENS or self.tokeniser is None)
        cells = {name: encoded_cells(shard, name) for name in copied}
        if self.tokeniser is not None:
            tokens = self.tokeniser.encode_column(shard, self.text_column)
            encoding = self.columns[TOKENS]
            cells[TOKENS] = flat_cells(tokens.values, np.diff(tokens.offsets), encoding)
        return self._without_empty(shard, cells)

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
            return Samples(cells, 0)
        is_kept = [row not in rows for row in range(shard.num_samples)]
        kept = {name: list(itertools.compress(part, is_kept)) for name, part in cells.items()}
        return Samples(kept, len(rows))


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
    recipe = Recipe(read, columns, config.drop_empty, config.to == "parquet")
    if config.tokenizer is None:
        return recipe
    if held[config.text_column] != "str":
        kind = held[config.text_column]
        raise ConfigError(f"{where}: column {config.text_column!r} is {kind}; only str is text")
    tokeniser = Tokeniser.load(config.tokenizer, eod=config.eod)
    columns[TOKENS] = f"ndarray:{tokeniser.dtype.name}"
    read[config.text_column] = held[config.text_column]
    return replace(recipe, text_column=config.text_column, tokeniser=tokeniser)


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
