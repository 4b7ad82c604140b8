# SPDX-License-Identifier: Apache-2.0
"""The reading half of the ledger: the surviving rows of all attempts, sorted by step.

A later attempt supersedes every row of the steps from its own first step on. Only steps that every
rank has published are shown, so a run that was killed leaves a ledger that simply ends earlier.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from ..errors import StateError

if TYPE_CHECKING:
    import pyarrow

    from .writer import PartStore

_FAMILIES = ("pieces", "probes", "lost", "steps")
_NAME = re.compile(
    rf"({'|'.join(_FAMILIES)})"
    r"-s(\d{10,})-(\d{10,})-a(\d{4,})-r(\d{4,})-p(\d{6,})\.parquet"
)


@dataclass(frozen=True)
class Part:
    """One published object, as its name describes it; steps include both ends."""

    name: str
    family: str
    first_step: int
    last_step: int
    attempt: int
    rank: int
    number: int


@dataclass(frozen=True)
class LedgerView:
    """The ledger as four Arrow tables, sorted by step (probes by refresh).

    `steps`: step, attempt, policy_version, theta, memory (flattened [A, S]), refreshes (credited
    since the step before). `pieces`: step, attempt, slot, row_start, sample_id, offset, length,
    kept, votes, states, score; in the order offered within (step, slot). `probes`: refresh, step,
    attempt, sample_id, states, weight, reward, agent_of (-1 where agents share the probes). `lost`:
    step (the first that did without the shard), attempt, shard, reason; a shard stands there once.
    """

    steps: "pyarrow.Table"
    pieces: "pyarrow.Table"
    probes: "pyarrow.Table"
    lost: "pyarrow.Table"


@dataclass(frozen=True)
class RecordedBatch:
    """The pieces one step trained on, sorted by slot and place in the slot's token buffer."""

    step: int
    slot: NDArray[np.int32]
    row_start: NDArray[np.int64]
    sample_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]


def list_parts(store: "PartStore") -> list[Part]:
    """List the published parts, oldest attempt first. Other objects are passed over."""
    if _is_missing_folder(store.url):
        return []
    parts = []
    for name in store.list(""):
        match = _NAME.fullmatch(name.rsplit("/", 1)[-1])
        if match:
            family, *numbers = match.groups()
            parts.append(Part(name, family, *map(int, numbers)))
    return sorted(parts, key=lambda part: (part.attempt, part.number, part.rank, part.family))


def read_ledger(store: "PartStore") -> LedgerView:
    """Read every published part and drop what later attempts have superseded.

    Raises:
        StateError: when the store holds no ledger, or a part cannot be read.
    """
    parts = list_parts(store)
    tables = {family: _read_family(store, parts, family) for family in _FAMILIES}
    if tables["steps"] is None or tables["pieces"] is None:
        raise StateError(
            f"no ledger in {store.url}: no complete part was published there; give the folder "
            "RUN/ledger of a run that has passed its first flush or checkpoint"
        )
    steps = _complete_steps(tables["steps"])
    pieces = tables["pieces"]
    pieces = pieces.filter(_belongs(pieces, steps))
    pieces = pieces.take(np.lexsort((_column(pieces, "slot"), _column(pieces, "step"))))
    probes = tables["probes"]
    if probes is None:
        probes = _no_probes()
    probes = probes.filter(_live_probes(probes, tables["steps"]))
    probes = probes.take(np.argsort(_column(probes, "refresh"), kind="stable"))
    lost = _first_lost(tables["lost"], steps)
    return LedgerView(steps.drop_columns(["rank", "world_size"]), pieces, probes, lost)


def batches(store: "PartStore") -> Iterator[RecordedBatch]:
    """Rebuild, step by step, the exact sequence of pieces that was trained on."""
    ledger = read_ledger(store)
    kept = ledger.pieces.filter(ledger.pieces["kept"])
    order = np.lexsort(tuple(_column(kept, name) for name in ("row_start", "slot", "step")))
    kept = kept.take(order)
    step_of = _column(kept, "step")
    names = ("slot", "row_start", "sample_id", "offset", "length")
    columns = [_column(kept, name) for name in names]
    for step in _column(ledger.steps, "step"):
        first, last = np.searchsorted(step_of, [step, step + 1])
        yield RecordedBatch(int(step), *(column[first:last] for column in columns))


def _is_missing_folder(url: str) -> bool:
    """Tell whether the ledger is to be a folder that nobody has written to yet."""
    where = urlsplit(url)
    return where.scheme == "file" and not Path(unquote(where.path)).exists()


def _read_family(store: "PartStore", parts: Sequence[Part], family: str) -> "pyarrow.Table | None":
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for part in (part for part in parts if part.family == family):
        try:
            tables.append(pq.read_table(io.BytesIO(store.get(part.name))))
        except pa.ArrowInvalid as error:
            raise StateError(
                f"ledger part {part.name} in {store.url} is not readable Parquet ({error}); "
                "it was changed after it was published: restore it, or move it away"
            ) from error
    return pa.concat_tables(tables) if tables else None


def _column(table: "pyarrow.Table", name: str) -> NDArray[Any]:
    return table[name].to_numpy()


def _limits(attempts: NDArray[Any], steps: "pyarrow.Table") -> NDArray[np.int64]:
    """Return for each attempt the first step that any later attempt recorded anew."""
    recorded, step = _column(steps, "attempt"), _column(steps, "step")
    never = np.iinfo(np.int64).max
    limits = np.full(len(attempts), never, np.int64)
    for number in np.unique(recorded):
        first = step[recorded == number].min()
        earlier = attempts < number
        limits[earlier] = np.minimum(limits[earlier], first)
    return limits


def _complete_steps(steps: "pyarrow.Table") -> "pyarrow.Table":
    """Return one row for each live step that all its ranks have published, sorted by step."""
    steps = steps.filter(_column(steps, "step") < _limits(_column(steps, "attempt"), steps))
    steps = steps.take(np.lexsort((_column(steps, "rank"), _column(steps, "step"))))
    _, first, counts = np.unique(_column(steps, "step"), return_index=True, return_counts=True)
    complete = counts >= _column(steps, "world_size")[first]
    return steps.take(first[complete])


def _belongs(pieces: "pyarrow.Table", steps: "pyarrow.Table") -> NDArray[np.bool_]:
    """Mark the pieces whose step, in the same attempt, is one of `steps`."""
    known, attempt = _column(steps, "step"), _column(steps, "attempt")
    if len(known) == 0:
        return np.zeros(len(pieces), bool)
    wanted = _column(pieces, "step")
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return (known[place] == wanted) & (attempt[place] == _column(pieces, "attempt"))


def _live_probes(probes: "pyarrow.Table", steps: "pyarrow.Table") -> NDArray[np.bool_]:
    """Mark the probes of live refreshes.

    A refresh credited exactly where a later attempt begins is live unless that attempt credits it
    again: the checkpoint may have been taken on either side of the credit.
    """
    refresh, attempt = _column(probes, "refresh"), _column(probes, "attempt")
    live = _column(probes, "step") <= _limits(attempt, steps)
    newest: dict[int, int] = {}
    for number, by in zip(refresh[live].tolist(), attempt[live].tolist(), strict=True):
        newest[number] = max(by, newest.get(number, by))
    latest = np.array([newest.get(int(number), -1) for number in refresh], np.int64)
    return live & (attempt == latest)


def _first_lost(lost: "pyarrow.Table | None", steps: "pyarrow.Table") -> "pyarrow.Table":
    """Return one row for each shard that live steps did without: every rank names those it met."""
    if lost is None:
        return _no_lost()
    lost = lost.filter(_belongs(lost, steps))
    lost = lost.take(np.argsort(_column(lost, "step"), kind="stable"))
    _, first = np.unique(_column(lost, "shard"), return_index=True)
    return lost.take(np.sort(first))


def _no_lost() -> "pyarrow.Table":
    import pyarrow as pa

    return pa.table({
        "step": pa.array([], pa.int64()),
        "attempt": pa.array([], pa.int32()),
        "shard": pa.array([], pa.int64()),
        "reason": pa.array([], pa.string()),
    })


def _no_probes() -> "pyarrow.Table":
    import pyarrow as pa

    return pa.table({
        "refresh": pa.array([], pa.int32()),
        "step": pa.array([], pa.int64()),
        "attempt": pa.array([], pa.int32()),
        "sample_id": pa.array([], pa.int64()),
        "states": pa.array([], pa.list_(pa.int32())),
        "weight": pa.array([], pa.float64()),
        "reward": pa.array([], pa.float64()),
        "agent_of": pa.array([], pa.int32()),
    })
