# SPDX-License-Identifier: Apache-2.0
"""One agent, described: an attribute of documents, its states, and where the label comes from.

An agent knows how a document gets its state and nothing else: its memory is kept by the console,
and no agent sees another one. The description is immutable and JSON-able.
Source: docs/console.md, "Agents".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AgentError

KINDS = ("stored", "binned", "argmax")


@dataclass(frozen=True)
class AgentInfo:
    """An agent's label rule.

    Args:
        name: Unique in its set; used in metrics and in saved states.
        num_states: How many states a document can be in, at least 1.
        state_names: One readable name a state.
        kind: "stored" reads `column`; "binned" bins the value of head `first_head` by `edges`;
            "argmax" takes the largest of the `num_states` heads from `first_head` on.
        column: Name of the stored column; None when the label is computed inline.
        first_head: First head of the n-gram model; ignored by "stored".
        edges: Ascending inner edges, `num_states - 1` of them; the state is the number of
            edges <= value, so the first and the last interval are open to both infinities.
            A "stored" agent without edges reads the state itself from its column.
    """

    name: str
    num_states: int
    state_names: tuple[str, ...]
    kind: str
    column: str | None = None
    first_head: int = 0
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        object.__setattr__(self, "state_names", tuple(self.state_names))
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        where = f"agent {self.name!r}"
        if self.kind not in KINDS:
            raise AgentError(f"{where}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.num_states < 1 or len(self.state_names) != self.num_states:
            raise AgentError(
                f"{where}: {self.num_states} states but {len(self.state_names)} state names; "
                "name every state once"
            )
        if (self.kind == "stored") != (self.column is not None):
            raise AgentError(f"{where}: a stored agent, and only that, names its column")
        needs_edges = self.kind == "binned" or bool(self.edges)
        if needs_edges and len(self.edges) != self.num_states - 1:
            raise AgentError(
                f"{where}: {self.num_states} states need {self.num_states - 1} edges, "
                f"got {len(self.edges)}"
            )
        if not np.isfinite(self.edges).all() or (np.diff(self.edges) < 0).any():
            raise AgentError(f"{where}: edges must be finite and ascending, got {self.edges}")

    @property
    def is_stored(self) -> bool:
        """Whether the label is read from a column rather than computed inline."""
        return self.kind == "stored"

    def states_of(self, values: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Turn the values of the agent's column into states.

        Args:
            values: [n] scores (any real dtype) for an agent with edges, else states (integers).

        Returns:
            [n] int32 states in [0, num_states), a new array.

        Raises:
            AgentError: A score is NaN or a stored state is out of range; names the rows.
        """
        array = np.asarray(values)
        if self.edges:
            return bin_scores(array, self.edges, what=f"agent {self.name!r}, column {self.column}")
        if array.dtype.kind not in "iu":
            raise AgentError(
                f"agent {self.name!r}: column {self.column!r} holds {array.dtype}, wanted integer "
                "states; label the corpus again or give the agent edges"
            )
        wrong = np.flatnonzero((array < 0) | (array >= self.num_states))
        if wrong.size:
            raise AgentError(
                f"agent {self.name!r}: column {self.column!r} holds state {array[wrong[0]]} at row "
                f"{wrong[0]} ({wrong.size} rows in all) but the agent has {self.num_states} "
                "states; fit the agents on this corpus ('moot fit')"
            )
        return array.astype(np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-able values."""
        fields = asdict(self)
        return fields | {"state_names": list(self.state_names), "edges": list(self.edges)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AgentInfo:
        """Build a description from `to_dict`'s values; AgentError where a key is wrong."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise AgentError(f"an agent's description does not fit: {error}") from error


def bin_scores(
    scores: npt.ArrayLike, edges: tuple[float, ...], *, what: str = "scores"
) -> npt.NDArray[np.int32]:
    """Count the edges <= score: the state of each score, in fp32 as the ops compare it.

    Raises:
        AgentError: A score is NaN; the rows are named.
    """
    values = np.asarray(scores, dtype=np.float32)
    unlabelled = np.flatnonzero(np.isnan(values))
    if unlabelled.size:
        rows = ", ".join(str(row) for row in unlabelled[:8])
        raise AgentError(
            f"{what}: {unlabelled.size} scores are NaN (rows {rows}); label these documents or "
            "leave them out of the corpus"
        )
    inner = np.asarray(edges, dtype=np.float32)
    return np.searchsorted(inner, values, side="right").astype(np.int32)
