# SPDX-License-Identifier: Apache-2.0
"""How many documents and tokens of each cell stand in each shard: a sparse table.

A cell is a combination of labels. A shard lists only the cells that occur in it, so a predicate
over labels tells from this table alone which shards are worth reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_CELLS = 1 << 22  # rows of a table; beyond, cells are nearly as many as samples


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one shard, or of several in a row.

    Attributes:
        labels: Column to [m], the labels of each cell.
        documents: [m] int64.
        tokens: [m] int64, 0 where lengths are not known.
    """

    labels: Mapping[str, np.ndarray]
    documents: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)

    def slice(self, first: int, stop: int) -> Cells:
        """Return the cells of a range."""
        labels = {name: values[first:stop] for name, values in self.labels.items()}
        return Cells(labels, self.documents[first:stop], self.tokens[first:stop])


def count_cells(labels: Mapping[str, np.ndarray], lengths: np.ndarray | None) -> Cells:
    """Count the cells of some samples.

    Args:
        labels: At least one column, each [n] of an unsigned type.
        lengths: [n] tokens, if they are known.

    Returns:
        Each cell that occurs once, in the order of its labels.
    """
    columns = list(labels.values())
    order = np.lexsort(columns[::-1])
    is_first = np.zeros(order.size, bool)
    is_first[:1] = True
    for column in columns:
        ordered = column[order]
        is_first[1:] |= ordered[1:] != ordered[:-1]
    first = np.flatnonzero(is_first)
    documents = np.diff(np.append(first, order.size))
    tokens = np.zeros(first.size, np.int64)
    if lengths is not None and first.size:
        tokens = np.add.reduceat(lengths[order].astype(np.int64), first)
    picked = order[first]
    return Cells({name: column[picked] for name, column in labels.items()}, documents, tokens)


def join_cells(parts: Sequence[Cells]) -> Cells:
    """Return the cells of shards in a row."""
    names = list(parts[0].labels)
    joined = {name: np.concatenate([part.labels[name] for part in parts]) for name in names}
    documents = np.concatenate([part.documents for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    return Cells(joined, documents, tokens)
