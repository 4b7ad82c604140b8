# SPDX-License-Identifier: Apache-2.0
"""Selecting by stored labels: the console's table in force at every step, and what it draws.

Units, one or several joint cells each, are the streams of the order. A policy's table says how many
documents it accepts of each unit, which are the weights by which units are drawn, and which share
of each cell, by which a drawn unit's next document is accepted or passed over. Both are functions
of (labels, policy, position), so plans need no payload and every rank makes the same ones. A
schedule may state other weights for some steps; what is accepted inside a unit is the policy's.
Source: docs/console.md, "Stored labels".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .agents import AgentSet
from .config import LoaderConfig
from .console import Console, Policy, acceptance, cell_scores
from .console.table import ONE
from .corpus import Corpus
from .corpus.units import JointCells, UnitRows, joint_cells
from .errors import ConfigError, StateError
from .order import UnitOrder
from .schedule import merge_cells

_TABLES_KEPT = 4
_RARE = 64  # an acceptance this many times below `keep` counts as none
_DAMAGED = "the state is damaged (its rounds{}): resume from another one"


class CellTable(NamedTuple):
    """A policy over stored labels.

    `accepted` [C] int64: of each cell's documents, in 2^-32. `weights` [U] int64: documents
    accepted of each unit in one pass. `rate` [U]: which share of a unit's documents that is.
    """

    accepted: np.ndarray
    weights: np.ndarray
    rate: np.ndarray


class StoredUnits:
    """The cells and units of a corpus, under the agents of a console.

    Args:
        corpus: Labelled by `moot label`.
        agents: Whose labels are stored.
        max_units: Units that cells are merged into, at most.
        num_strands: Of the order: a unit holds as many documents at least.
        kept_shards: Shards whose labels are kept.

    Raises:
        ConfigError, StorageError, ShardError: Labels are missing, or do not fit.
    """

    def __init__(
        self,
        corpus: Corpus,
        agents: AgentSet,
        *,
        max_units: int,
        num_strands: int,
        kept_shards: int,
    ) -> None:
        self.cells: JointCells = joint_cells(corpus, agents.names)
        for position, agent in enumerate(agents.agents):
            found = int(self.cells.labels[:, position].max())
            if found >= agent.num_states:
                raise ConfigError(
                    f"{corpus.url} is labelled {agent.name} {found}, but that agent has "
                    f"{agent.num_states} states: label it again with `moot label URL --force`"
                )
        self.agents = agents
        documents = self.cells.documents.sum(axis=1)
        share = float(np.nextafter(num_strands / documents.sum(), 1))
        labels = self.cells.labels
        merged = merge_cells(labels, documents, max_units=max_units, min_share=share)
        self.unit_of = merged.unit_of
        self.documents = documents
        self.rows = UnitRows(corpus, self.cells, self.unit_of, kept_shards=kept_shards)

    def __len__(self) -> int:
        return int(self.unit_of.max()) + 1

    @property
    def names(self) -> list[str]:
        """What each unit holds, in words: each agent's states in it."""
        names = []
        for unit in range(len(self)):
            parts = []
            for position, agent in enumerate(self.agents.agents):
                states = np.unique(self.cells.labels[self.unit_of == unit, position]).tolist()
                few = [agent.state_names[state] for state in states[:3]]
                parts.append("+".join(few) + (f"+{len(states) - 3}" if len(states) > 3 else ""))
            names.append(" / ".join(parts))
        return names

    def states(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the stored states, int32 [m, A], of documents at (shard, row)."""
        return self.cells.labels[self.rows.cells_of(shards, rows)].astype(np.int32)

    def units_of(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the units, int64 [m], of documents at (shard, row)."""
        return self.unit_of[self.rows.cells_of(shards, rows)]

    def order(self, **settings: Any) -> UnitOrder:
        """Return the order of the units; settings as for `Order`."""
        return UnitOrder(self.rows.samples, self.rows.locate, **settings)

    def table(self, policy: Policy, keep: float) -> CellTable:
        """Return the table of a policy."""
        scores = cell_scores(policy, self.cells.labels)
        accepted = acceptance(scores, self.cells.tokens, keep, policy.temperature)
        rate = self._rate(accepted)
        # What is hardly ever accepted is not: to find it, labels by the thousand would be read.
        is_rare = (accepted < keep / _RARE * ONE) | (rate < keep / _RARE)[self.unit_of]
        accepted = np.where(is_rare, 0, accepted)
        rate = self._rate(accepted)
        sizes = np.bincount(self.unit_of, self.documents, len(self))
        return CellTable(accepted, np.rint(rate * sizes).astype(np.int64), rate)

    def _rate(self, accepted: np.ndarray) -> np.ndarray:
        """Return which share of each unit's documents is accepted: [U]."""
        by_cell = self.documents * (accepted / ONE)
        sizes = np.bincount(self.unit_of, self.documents, len(self))
        return np.bincount(self.unit_of, by_cell, len(self)) / sizes


class StoredChoice:
    """What is drawn at every step: takes the place of a `Mixture`.

    Args:
        units: Of the corpus.
        console: Whose policies; they are looked up by step.
        config: `keep` and the seed.
    """

    def __init__(self, units: StoredUnits, console: Console, config: LoaderConfig) -> None:
        self.units = units
        self.console = console
        self._keep, self._seed = config.keep, config.seed
        self._tables: dict[int, CellTable] = {}
        # From a step on: the weights of a round, None where the policy's own hold.
        self._rounds: list[tuple[int, np.ndarray | None]] = [(0, None)]
        self.decided_until: int | None = None
        """Behind this step rounds are not decided yet; None where nothing schedules."""

    @property
    def latest(self) -> CellTable:
        """The table of the newest policy, in force or not yet."""
        return self._table(self.console.latest)

    def table(self, step: int) -> CellTable:
        """Return the table in force at a step."""
        return self._table(self.console.policy(step))

    def _table(self, policy: Policy) -> CellTable:
        known = self._tables.get(policy.version)
        if known is None:
            known = self.units.table(policy, self._keep)
            kept = list(self._tables.items())[-_TABLES_KEPT:]
            self._tables = dict([*kept, (policy.version, known)])
        return known

    def settled(self, step: int) -> bool:
        """Whether all that a step depends on is known."""
        is_decided = self.decided_until is None or step < self.decided_until
        return is_decided and self.console.settled(step)

    # What a mixture does ----------------------------------------------------------------------

    def at(self, step: int) -> np.ndarray:
        """Return the weights of a step: int64 [U]."""
        stated = next(weights for first, weights in reversed(self._rounds) if first <= step)
        table = self.table(step)
        # Where a policy came late, a round may be of units of which it accepts nothing.
        weights = table.weights if stated is None else np.where(table.rate > 0, stated, 0)
        return weights if weights.any() else table.weights

    def next_change(self, step: int) -> int | None:
        """Return the first step behind `step` at which something may change, None if none is."""
        steps = [first for first, _ in self._rounds if first > step]
        steps += [self.console.next_policy_step(step) or 0, self.decided_until or 0]
        return min((each for each in steps if each > step), default=None)

    def starts_at(self, step: int) -> bool:
        """Whether other weights hold from this step on."""
        if step == 0:
            return False
        is_policy = self.console.next_policy_step(step - 1) == step
        return is_policy or any(first == step for first, _ in self._rounds)

    def change(self, step: int, weights: Sequence[int] | None) -> None:
        """Let a round's weights hold from a step on, None: the policy's own."""
        values = None if weights is None else np.array(weights, np.int64)
        before = [each for each in self._rounds if each[0] < step]
        if values is None and (not before or before[-1][1] is None):
            self._rounds = before or [(0, None)]  # the policy's own go on
        else:
            self._rounds = [*before, (step, values)]

    def accepts(
        self, step: int, keys: np.ndarray, shards: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return which documents, bool [m], are accepted where they are drawn at a step."""
        accepted = self.table(step).accepted[self.units.rows.cells_of(shards, rows)]
        return _hashes(keys, self._seed) < accepted

    def best(
        self, step: int, keys: np.ndarray, shards: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return which documents, bool [m], are of the cells that are accepted most often."""
        del keys
        accepted = self.table(step).accepted[self.units.rows.cells_of(shards, rows)]
        return accepted == accepted.max()

    def rate(self, step: int) -> np.ndarray:
        """Return which share of each unit's documents is accepted at a step: [U]."""
        return self.table(step).rate

    def state(self, step: int) -> list[Any]:
        """Return what a run that goes on at `step` needs to know."""
        current = max(first for first, _ in self._rounds if first <= step)
        return [
            [first, None if weights is None else weights.tolist()]
            for first, weights in self._rounds
            if first >= current
        ]

    def load(self, state: Any, step: int) -> None:
        """Go on at a step from a state.

        Raises:
            StateError: It is damaged, or of other units.
        """
        try:
            rounds = [
                (int(first), None if weights is None else np.array(weights, np.int64))
                for first, weights in state
            ]
            firsts = [first for first, _ in rounds]
            are_right = firsts == sorted(set(firsts)) and 0 <= firsts[0] <= step
        except (TypeError, ValueError, IndexError) as error:
            raise StateError(_DAMAGED.format(f": {error}")) from error
        shapes = {weights.shape for _, weights in rounds if weights is not None}
        if not are_right or not shapes <= {(len(self.units),)}:
            raise StateError(_DAMAGED.format(""))
        self._rounds = rounds
        self._tables = {}


def _hashes(keys: np.ndarray, seed: int) -> np.ndarray:
    """Return numbers in [0, 2^32), int64 [m], one a key and seed (the finaliser of MurmurHash3)."""
    with np.errstate(over="ignore"):
        words = keys.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % (1 << 64))
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            words = (words ^ (words >> np.uint64(33))) * np.uint64(factor)
    return (words >> np.uint64(32)).astype(np.int64)


