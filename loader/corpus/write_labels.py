# SPDX-License-Identifier: Apache-2.0
"""Makes labels.parquet: one pass over a corpus, by threads, published by one put a stream.

Labels come from scalar columns that the shards have, from a function of a shard, or both. The token
lengths, the size and the hash of every sample are stored along.
"""

from __future__ import annotations

import io
import keyword
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..shards import Ask, Shard
from ..shards.columns import ends_of
from .cells import MAX_CELLS, Cells, count_cells, join_cells
from .corpus import Corpus
from .sidecar import (
    HASH,
    LABEL_DTYPES,
    LABELS_NAME,
    LENGTH,
    OWN_COLUMNS,
    SIZE,
    LengthOf,
    pack_metadata,
)

if TYPE_CHECKING:
    from ..shards.tokenise import Tokeniser

Label = Callable[[Shard], Mapping[str, np.ndarray]]
Progress = Callable[[int, int], None]
_NARROWED = {"bool": "uint8", "int8": "uint8", "int16": "uint16"}


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """What is stored of every sample.

    Attributes:
        columns: Scalar columns of the shards that hold labels: states, counted from 0.
        label: Makes more labels of a shard: name to an integer array [samples].
        token_column: Its lengths are stored; None stores none.
        tokeniser: Where the token column holds texts: the lengths stored are those of its tokens.
        states: Names of states of label columns, in the order of their numbers.
        cells: Label columns whose combinations are counted by shard; None takes all.
    """

    columns: Sequence[str] = ()
    label: Label | None = None
    token_column: str | None = "tokens"
    tokeniser: Tokeniser | None = None
    states: Mapping[str, Sequence[str]] | None = None
    cells: Sequence[str] | None = None

    @property
    def length_of(self) -> LengthOf | None:
        """What the lengths count, None where none are stored."""
        if self.token_column is None:
            return None
        digest = None if self.tokeniser is None else self.tokeniser.digest
        return LengthOf(self.token_column, digest)


def write_labels(
    corpus: Corpus,
    plan: LabelPlan,
    *,
    num_threads: int = 4,
    progress: Progress | None = None,
) -> None:
    """Label every sample of a corpus and store the labels beside its shards, one file a stream.

    Args:
        corpus: Read whole, each shard verified.
        plan: What is stored.
        num_threads: Shards read at a time.
        progress: Called with the shards done and their number.

    Raises:
        ConfigError: A column holds no labels, or there are too many cells to count.
        StorageError, ShardError: A shard cannot be read, or the labels not be written.
    """
    done = 0
    for stream_id, digest in enumerate(corpus.digests):
        first, stop = corpus.first_shard[stream_id : stream_id + 2].tolist()
        table = _Table(stop - first, plan)
        for shard_id, part in _label_all(corpus, range(first, stop), plan, num_threads):
            table.add(shard_id - first, part, corpus.shards[shard_id].basename)
            done += 1
            if progress is not None:
                progress(done, int((corpus.samples_per_shard > 0).sum()))
        corpus.stores.get(stream_id).put(LABELS_NAME, table.finish(digest))


@dataclass(frozen=True, eq=False)
class _Labelled:
    """One shard's part of the file."""

    columns: dict[str, np.ndarray]
    cells: Cells | None


class _Table:
    """The file of one stream while it is made, in memory.

    Args:
        num_shards: With those that hold no samples.
        plan: What is stored.
    """

    def __init__(self, num_shards: int, plan: LabelPlan) -> None:
        self._plan = plan
        self._sink = io.BytesIO()
        self._writer: Any = None
        self._dtypes: dict[str, np.dtype] = {}
        self._cells: list[Cells] = []
        self._num_cells = np.zeros(num_shards, np.int64)

    def add(self, place: int, part: _Labelled, where: str) -> None:
        import pyarrow as pa

        dtypes = {name: values.dtype for name, values in part.columns.items()}
        if self._writer is None:
            self._dtypes = dtypes
            self._writer = _open_writer(self._sink, dtypes)
        if dtypes != self._dtypes:
            raise ConfigError(
                f"{where}: its labels are {_listed(dtypes)}, those before {_listed(self._dtypes)}; "
                "give every shard the same columns and types"
            )
        arrays = [pa.array(values) for values in part.columns.values()]
        table = pa.table(arrays, schema=self._writer.schema)
        self._writer.write_table(table, row_group_size=len(table))
        if part.cells is None:
            return
        self._cells.append(part.cells)
        self._num_cells[place] = len(part.cells)
        if self._num_cells.sum() > MAX_CELLS:
            raise ConfigError(
                f"the labels make more than {MAX_CELLS} cells: count fewer columns with `cells`"
            )

    def finish(self, digest: str) -> memoryview:
        cells = join_cells(self._cells) if self._cells else None
        states = self._plan.states or {}
        labels = [name for name in self._dtypes if name not in OWN_COLUMNS]
        strange = [name for name in states if name not in labels]
        if strange:
            raise ConfigError(f"states of {strange[0]!r} are named; labels are {', '.join(labels)}")
        first_cell = ends_of(self._num_cells)
        kept = pack_metadata(digest, states, cells, first_cell, self._plan.length_of)
        self._writer.add_key_value_metadata(kept)
        self._writer.close()
        return self._sink.getbuffer()


def _open_writer(sink: io.BytesIO, dtypes: Mapping[str, np.dtype]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field(name, pa.from_numpy_dtype(dtype), False) for name, dtype in dtypes.items()]
    return pq.ParquetWriter(
        sink,
        pa.schema(fields),
        compression={name: "none" if name == HASH else "zstd" for name in dtypes},
        use_dictionary=[name for name in dtypes if name not in OWN_COLUMNS],
        write_statistics=False,
    )


def _label_all(
    corpus: Corpus, shard_ids: range, plan: LabelPlan, num_threads: int
) -> Iterator[tuple[int, _Labelled]]:
    """Label the shards that hold samples, in their order, a few at a time."""
    running: deque[tuple[int, Future[_Labelled]]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="moot-label")
    try:
        for shard_id in shard_ids:
            if not corpus.samples_per_shard[shard_id]:
                continue
            running.append((shard_id, pool.submit(_label_shard, corpus, shard_id, plan)))
            if len(running) == 2 * num_threads:
                first, future = running.popleft()
                yield first, future.result()
        for first, future in running:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _label_shard(corpus: Corpus, shard_id: int, plan: LabelPlan) -> _Labelled:
    needed = {*plan.columns} | ({plan.token_column} if plan.token_column is not None else set())
    shard = corpus.read(shard_id, Ask(columns=None if plan.label else tuple(sorted(needed))))
    labels = {name: shard.scalars(name) for name in plan.columns}
    if plan.label is not None:
        labels |= plan.label(shard)
    num = shard.num_samples
    columns = {name: _as_states(shard.where, name, labels[name], num) for name in labels}
    lengths = None
    if plan.token_column is not None:
        lengths = columns[LENGTH] = _lengths(shard, plan.token_column, plan.tokeniser)
    sizes, hashes = shard.sample_bytes(), shard.sample_hashes()
    if sizes is not None and hashes is not None:
        columns |= {SIZE: sizes, HASH: hashes}
    if not columns:
        raise ConfigError("nothing is to be stored: name label columns, or the token column")
    counted = labels if plan.cells is None else plan.cells
    strange = [name for name in counted if name not in labels]
    if strange:
        raise ConfigError(f"cells of {strange[0]!r} are to be counted, which is no label column")
    cells = count_cells({name: columns[name] for name in counted}, lengths) if counted else None
    return _Labelled(columns, cells)


def _lengths(shard: Shard, column: str, tokeniser: Tokeniser | None) -> np.ndarray:
    if tokeniser is None:
        return shard.lengths(column)
    return np.diff(tokeniser.encode_column(shard, column).offsets).astype(np.uint32)


def _as_states(where: str, name: str, values: np.ndarray, num: int) -> np.ndarray:
    """Return labels as an unsigned array [num] of the narrowest type that its type calls for."""
    found = np.asarray(values)
    if not name.isidentifier() or keyword.iskeyword(name) or name in OWN_COLUMNS:
        raise ConfigError(f"{where}: a label column cannot be named {name!r}; use a plain word")
    if found.shape != (num,) or found.dtype.kind not in "uib":
        raise ConfigError(
            f"{where}: column {name!r} is {found.dtype} {list(found.shape)}; labels are integers, "
            f"one a sample ({num})"
        )
    wanted = np.dtype(_NARROWED.get(found.dtype.name, found.dtype.name))
    if wanted.name not in LABEL_DTYPES:
        wanted = np.dtype(np.uint32)
    limit = np.iinfo(wanted).max
    if found.size and not 0 <= int(found.min()) <= int(found.max()) <= limit:
        raise ConfigError(
            f"{where}: column {name!r} holds {found.min()} to {found.max()}; labels are states, "
            f"counted from 0 to {limit}"
        )
    return found.astype(wanted)


def _listed(dtypes: Mapping[str, np.dtype]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
