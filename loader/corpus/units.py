# SPDX-License-Identifier: Apache-2.0
"""The joint cells of a corpus by its stored labels, and which rows of a shard are of which unit.

A cell is one combination of the labels of some columns; a unit is one or several cells, drawn as a
stream of its own. How many documents each cell and unit has is told from the sidecar's counts; the
rows of a shard are looked up when they are needed, and those of the shards used last are kept.
Thread-safe.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, ShardError
from .corpus import Corpus

_NUM_THREADS = 16


@dataclass(frozen=True, eq=False)
class JointCells:
    """The cells that occur, ascending by their labels.

    Attributes:
        columns: The label columns, [A].
        labels: [C, A] int64.
        documents: [C, n] int64, by cell and shard.
        tokens: [C] int64.
    """

    columns: tuple[str, ...]
    labels: np.ndarray
    documents: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """Names the cells and how many documents each shard holds of them."""
        hashed = hashlib.sha256(repr(self.columns).encode())
        for part in (self.labels, self.documents, self.tokens):
            hashed.update(np.ascontiguousarray(part, "<i8").tobytes())
        return hashed.hexdigest()[:16]


def joint_cells(corpus: Corpus, columns: Sequence[str]) -> JointCells:
    """Count the cells of a corpus from its sidecar; no labels are read.

    Raises:
        ConfigError: It has several streams, no sidecar, or one that does not count these columns.
        StorageError, ShardError: The sidecar cannot be read, or belongs to other shards.
    """
    if len(corpus.streams) != 1:
        raise ConfigError(
            f"labels='stored' reads one stream, here are {len(corpus.streams)}: store them as one "
            "corpus, or label inline"
        )
    sidecar = corpus.stored.require(0)
    counted = sidecar.cells
    missing = [name for name in columns if counted is None or name not in counted.labels]
    if counted is None or missing:
        raise ConfigError(
            f"{sidecar.where} counts no cells of {', '.join(missing or columns)}: label the corpus "
            "with `moot label URL`"
        )
    labels_MA = np.stack([counted.labels[name].astype(np.int64) for name in columns], axis=1)
    cells_CA, cell_M = np.unique(labels_MA, axis=0, return_inverse=True)
    cell_M = cell_M.reshape(-1)
    documents = np.zeros((len(cells_CA), len(corpus.shards)), np.int64)
    shard_M = np.repeat(np.arange(len(corpus.shards)), np.diff(sidecar.first_cell))
    np.add.at(documents, (cell_M, shard_M), counted.documents)
    tokens = np.zeros(len(cells_CA), np.int64)
    np.add.at(tokens, cell_M, counted.tokens)
    if not tokens.any():
        raise ConfigError(f"{sidecar.where} counts no tokens: label the corpus with its lengths")
    return JointCells(tuple(columns), cells_CA, documents, tokens)


class UnitRows:
    """Which rows of a shard are of which unit.

    Args:
        corpus: Of one stream, with a sidecar.
        cells: Its cells.
        unit_of: [C] int64, the unit of each cell.
        kept_shards: Shards whose rows are kept.
    """

    def __init__(
        self, corpus: Corpus, cells: JointCells, unit_of: np.ndarray, *, kept_shards: int
    ) -> None:
        self._corpus = corpus
        self._cells = cells
        self._unit_of = unit_of
        self._num_units = int(unit_of.max()) + 1
        self._kept_shards = kept_shards
        self._known: OrderedDict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def samples(self) -> np.ndarray:
        """[U, n] int64: documents of each unit in each shard."""
        samples = np.zeros((self._num_units, self._cells.documents.shape[1]), np.int64)
        np.add.at(samples, self._unit_of, self._cells.documents)
        return samples

    def locate(self, shards: np.ndarray, units: np.ndarray, nth: np.ndarray) -> np.ndarray:
        """Return the rows, int64 [m], of the nth [m] documents of units [m] in shards [m]."""
        rows = np.empty_like(nth)
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            _, by_unit, first = self._shard(shard_id)
            rows[chosen] = by_unit[first[units[chosen]] + nth[chosen]]
        return rows

    def cells_of(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the cells, int64 [m], of documents at (shard, row)."""
        cells = np.empty(len(rows), np.int64)
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            cells[chosen] = self._shard(shard_id)[0][rows[chosen]]
        return cells

    def prepare(self, shard_ids: Sequence[int]) -> None:
        """Look up the rows of shards that are needed soon, side by side."""
        with self._lock:
            missing = [i for i in dict.fromkeys(shard_ids) if i not in self._known]
        if missing:
            with ThreadPoolExecutor(min(_NUM_THREADS, len(missing)), "moot-labels") as pool:
                list(pool.map(self._shard, missing))

    def _shard(self, shard_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each row's cell, the rows unit by unit, and where each unit's begin."""
        with self._lock:
            found = self._known.get(shard_id)
            if found is not None:
                self._known.move_to_end(shard_id)
                return found
        found = self._read(shard_id)
        with self._lock:
            self._known[shard_id] = found
            while len(self._known) > self._kept_shards:
                self._known.popitem(last=False)
        return found

    def _read(self, shard_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stored = self._corpus.labels(shard_id, self._cells.columns)
        labels = np.stack([stored[name].astype(np.int64) for name in self._cells.columns], axis=1)
        # Cells ascend by their labels, so that a cell is found by the number its labels spell.
        known = self._cells.labels
        radix = np.maximum(known.max(axis=0), labels.max(axis=0, initial=0)) + 1
        place = np.append(np.cumprod(radix[::-1])[::-1][1:], 1)
        spelt = known @ place
        cell = np.searchsorted(spelt, labels @ place).clip(0, len(spelt) - 1)
        counts = np.bincount(cell, minlength=len(known))
        if not np.array_equal(spelt[cell], labels @ place) or not np.array_equal(
            counts, self._cells.documents[:, shard_id]
        ):
            where = self._corpus.stored.require(0).where
            raise ShardError(f"{where}, shard {shard_id}: labels and counts of cells differ")
        unit = self._unit_of[cell]
        by_unit = np.argsort(unit, kind="stable")
        first = np.searchsorted(unit[by_unit], np.arange(self._num_units))
        return cell, by_unit, first
