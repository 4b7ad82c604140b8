# SPDX-License-Identifier: Apache-2.0
"""The agents of a corpus: their label rules, the n-gram model behind them, and the pool's cells.

A joint cell is one combination of the agents' states. The set knows every cell that occurs in the
corpus and the share of the corpus's tokens that lies in it; the console weighs states with it.
On disk: one safetensors file (arrays) and one JSON beside it (descriptions, and the hash of the
safetensors, so that halves of two fits are never mixed). Immutable; safe to share between threads.
Source: docs/console.md, "Agents".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...triton_kernels.document_scores import AgentTables, NgramModel
from ..errors import AgentError
from .info import KINDS, AgentInfo

FORMAT = "moot-agents-1"
_MODEL_ARRAYS = {"table": np.int8, "heads": np.int16, "bias": np.int32, "scale": np.float32}


class Store(Protocol):
    """What saving and loading need of a bucket."""

    url: str

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        ...

    def get(self, name: str) -> bytes:
        """Return a small object."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Publish an object."""
        ...


@dataclass(frozen=True, eq=False)
class AgentSet:
    """The agents, their shared n-gram model and the cells of the pool.

    Args:
        agents: In voting order; names are unique.
        model: Hashed n-gram heads for inline labels.
        pool_states: [M, A] int32, the joint cells that occur in the corpus.
        pool_share: [M] float64, each cell's share of the corpus's tokens; sums to 1.
        meta: JSON-able notes of the fit (accuracy, seed, corpus).
    """

    agents: tuple[AgentInfo, ...]
    model: NgramModel
    pool_states: npt.NDArray[np.int32]
    pool_share: npt.NDArray[np.float64]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, cells and shares."""
        names = [agent.name for agent in self.agents]
        if not names or len(set(names)) != len(names):
            raise AgentError(f"agents must have unique names, got {names}")
        states = np.ascontiguousarray(self.pool_states, dtype=np.int32)
        share = np.ascontiguousarray(self.pool_share, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != len(names) or share.shape != states.shape[:1]:
            raise AgentError(
                f"pool cells {states.shape} and shares {share.shape} do not fit {len(names)} agents"
            )
        self._check_states(states)
        if not (share > 0).all() or not math.isclose(math.fsum(share.tolist()), 1.0, abs_tol=1e-6):
            raise AgentError("pool shares must be positive and sum to 1; fit the agents again")
        object.__setattr__(self, "pool_states", states)
        object.__setattr__(self, "pool_share", share)

    @property
    def names(self) -> tuple[str, ...]:
        """The agents' names in voting order."""
        return tuple(agent.name for agent in self.agents)

    @property
    def num_states(self) -> tuple[int, ...]:
        """Number of states of each agent."""
        return tuple(agent.num_states for agent in self.agents)

    @property
    def num_states_max(self) -> int:
        """S, the width of the padded memory table."""
        return max(self.num_states)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the stored agents read, in voting order."""
        return tuple(agent.column for agent in self.agents if agent.column is not None)

    def pool_frequencies(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Return each agent's share of the pool by state: [n_a] float64, sums to 1."""
        return tuple(
            _shares(self.pool_states[:, position], self.pool_share, agent.num_states)
            for position, agent in enumerate(self.agents)
        )

    def cells(self, states: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Number the joint cells of states [n, A]: int64 [n], the last agent varies fastest."""
        array = np.asarray(states, dtype=np.int64)
        self._check_states(array)
        cells = np.zeros(array.shape[0], dtype=np.int64)
        for position, num in enumerate(self.num_states):
            cells = cells * num + array[:, position]
        return cells

    def stored_states(
        self, columns: Mapping[str, npt.ArrayLike], num_documents: int
    ) -> npt.NDArray[np.int32]:
        """Label documents from stored columns.

        Args:
            columns: Column name to [n] values; columns nobody reads are ignored.
            num_documents: n.

        Returns:
            [n, A] int32 states; -1 where the agent labels inline.

        Raises:
            AgentError: A column is missing, too short, or holds a value without a state.
        """
        states = np.full((num_documents, len(self.agents)), -1, dtype=np.int32)
        for position, agent in enumerate(self.agents):
            if agent.column is None:
                continue
            if agent.column not in columns:
                raise AgentError(
                    f"agent {agent.name!r} reads column {agent.column!r}, which the corpus lacks "
                    f"(it has: {', '.join(sorted(columns)) or 'none'}); add it or leave the agent "
                    "out"
                )
            found = agent.states_of(columns[agent.column])
            if found.shape != (num_documents,):
                raise AgentError(
                    f"agent {agent.name!r}: column {agent.column!r} has {found.shape} values for "
                    f"{num_documents} documents"
                )
            states[:, position] = found
        return states

    def tables(self, memory: npt.ArrayLike, theta: npt.ArrayLike) -> AgentTables:
        """Lay the agents out for `document_scores`.

        Args:
            memory: [A, S] real; values beyond an agent's states are never read.
            theta: [A] real.
        """
        import torch

        width = self.num_states_max
        edges = np.full((len(self.agents), width - 1), np.inf, dtype=np.float32)
        for position, agent in enumerate(self.agents):
            edges[position, : len(agent.edges)] = agent.edges
        kinds = [KINDS.index(agent.kind) for agent in self.agents]
        heads = [agent.first_head for agent in self.agents]
        return AgentTables(
            kind=torch.tensor(kinds, dtype=torch.int32),
            first_head=torch.tensor(heads, dtype=torch.int32),
            num_states=torch.tensor(self.num_states, dtype=torch.int32),
            edges=torch.from_numpy(edges),
            memory=torch.from_numpy(np.array(memory, dtype=np.float32)),
            theta=torch.from_numpy(np.array(theta, dtype=np.float32)),
        )

    def save(self, store: Store, name: str = "agents.safetensors") -> None:
        """Write the arrays to `name` and, last, the descriptions to the JSON beside it."""
        from safetensors.numpy import save as encode

        arrays = {
            key: np.asarray(getattr(self.model, key), dtype=dtype)
            for key, dtype in _MODEL_ARRAYS.items()
        }
        arrays |= {"pool_states": self.pool_states, "pool_share": self.pool_share}
        data = encode({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        head = {
            "format": FORMAT,
            "sha256": hashlib.sha256(data).hexdigest(),
            "orders": list(self.model.orders),
            "agents": [agent.to_dict() for agent in self.agents],
            "meta": self.meta,
        }
        store.put(name, data)
        store.put(_json_name(name), json.dumps(head, indent=1).encode())

    @classmethod
    def load(cls, store: Store, name: str = "agents.safetensors") -> AgentSet:
        """Read a saved set.

        Raises:
            AgentError: Nothing was fitted there, or the two files do not belong together.
        """
        where = f"{store.url}/{name}"
        for part in (name, _json_name(name)):
            if not store.exists(part):
                raise AgentError(f"no agents at {store.url}: {part} is missing; run 'moot fit'")
        data = store.get(name)
        head = _parse_head(store.get(_json_name(name)), where)
        if hashlib.sha256(data).hexdigest() != head["sha256"]:
            raise AgentError(f"{where} is not the file its JSON describes; run 'moot fit' again")
        arrays = _parse_arrays(data, where)
        return cls(
            agents=tuple(AgentInfo.from_dict(fields) for fields in head["agents"]),
            model=_build_model(arrays, tuple(head["orders"])),
            pool_states=arrays["pool_states"],
            pool_share=arrays["pool_share"],
            meta=head.get("meta", {}),
        )

    def _check_states(self, states: npt.NDArray[Any]) -> None:
        if states.ndim != 2 or states.shape[1] != len(self.agents):
            raise AgentError(f"states {states.shape} do not fit {len(self.agents)} agents")
        wrong = np.argwhere((states < 0) | (states >= np.asarray(self.num_states)))
        if wrong.size:
            row, position = wrong[0]
            raise AgentError(
                f"agent {self.names[position]!r}: state {states[row, position]} at row {row} is "
                f"not in [0, {self.num_states[position]}); fit the agents on this corpus"
            )


def _shares(
    states: npt.NDArray[np.int32], share: npt.NDArray[np.float64], num_states: int
) -> npt.NDArray[np.float64]:
    """Sum cell shares by state; exact sums, so the order of the cells does not matter."""
    sums = [math.fsum(share[states == state].tolist()) for state in range(num_states)]
    total = math.fsum(sums)
    return np.array([value / total for value in sums], dtype=np.float64)


def _json_name(name: str) -> str:
    return name.removesuffix(".safetensors") + ".json"


def _parse_head(data: bytes, where: str) -> dict[str, Any]:
    try:
        head = json.loads(data)
    except ValueError as error:
        raise AgentError(f"the JSON beside {where} cannot be read: {error}") from error
    missing = {"format", "sha256", "orders", "agents"} - set(head)
    if missing or head["format"] != FORMAT:
        raise AgentError(
            f"the JSON beside {where} is not {FORMAT!r} (missing: {sorted(missing)}); run "
            "'moot fit' again"
        )
    return head


def _parse_arrays(data: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as decode

    try:
        arrays: dict[str, npt.NDArray[Any]] = decode(data)
    except SafetensorError as error:
        raise AgentError(f"{where} cannot be read: {error}; run 'moot fit' again") from error
    missing = {*_MODEL_ARRAYS, "pool_states", "pool_share"} - set(arrays)
    if missing:
        raise AgentError(f"{where} lacks {sorted(missing)}; run 'moot fit' again")
    return arrays


def _build_model(arrays: Mapping[str, npt.NDArray[Any]], orders: tuple[int, ...]) -> NgramModel:
    import torch

    parts = {key: torch.from_numpy(np.array(arrays[key])) for key in _MODEL_ARRAYS}
    return NgramModel(**parts, orders=orders)
