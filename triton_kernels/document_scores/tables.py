# SPDX-License-Identifier: Apache-2.0
"""What document_scores reads and returns: the n-gram model, the agents' tables, the scores.

Legend: B buckets, D dimensions, H heads, A agents, S states, n documents. Shapes and dtypes are
checked when a table is made; contents only on the CPU, where looking costs no synchronisation.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

STORED, BINNED, ARGMAX = 0, 1, 2
"""Kinds of agents: a stored state, a head's value put into bins, the largest of several heads."""


def check_tensor(
    name: str, value: object, dtype: torch.dtype, shape: tuple[int | None, ...]
) -> None:
    """Raise ValueError unless value is a contiguous tensor of this dtype and shape (None: any)."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; pass a torch tensor of {dtype}")
    fits = value.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(value.shape, shape, strict=True)
    )
    if value.dtype != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{name} is {value.dtype} of shape {list(value.shape)}; it must be {dtype} [{wanted}]"
        )
    if not value.is_contiguous():
        raise ValueError(f"{name} is not contiguous; call .contiguous() first")


@dataclass(frozen=True)
class NgramModel:
    """A quantised n-gram embedding bag with linear heads.

    Args:
        table: [B, D] int8, a row for each bucket; B a power of two, D a multiple of 16.
        heads: [H, D] int16, a row for each head.
        bias: [H] int32, added once for each n-gram, so that a head's value is a mean plus bias.
        scale: [H] float32, takes the integer sum to a head's value.
        orders: lengths of the n-grams, an ascending choice of 1, 2, 3.

    Raises:
        ValueError: A shape, a dtype, an order or a value that does not fit.
    """

    table: Tensor
    heads: Tensor
    bias: Tensor
    scale: Tensor
    orders: tuple[int, ...]

    def __post_init__(self) -> None:
        check_tensor("table", self.table, torch.int8, (None, None))
        num_buckets, dim = self.table.shape
        if num_buckets < 1 or num_buckets & (num_buckets - 1) or num_buckets > 1 << 31:
            raise ValueError(f"table has {num_buckets} rows; it must be a power of two")
        if dim < 16 or dim % 16:
            raise ValueError(f"table has {dim} columns; it must have a multiple of 16")
        check_tensor("heads", self.heads, torch.int16, (None, dim))
        check_tensor("bias", self.bias, torch.int32, (self.num_heads,))
        check_tensor("scale", self.scale, torch.float32, (self.num_heads,))
        orders = tuple(self.orders)
        if not orders or list(orders) != sorted({*orders} & {1, 2, 3}):
            raise ValueError(f"orders is {orders}; it must be an ascending choice of 1, 2, 3")
        object.__setattr__(self, "orders", orders)
        check_devices(self)
        if self.scale.device.type == "cpu" and not bool(torch.isfinite(self.scale).all()):
            raise ValueError("scale holds a value that is not finite; fit the heads again")

    @property
    def num_heads(self) -> int:
        """H, the number of heads."""
        return self.heads.shape[0]

    def to(self, device: torch.device | str) -> "NgramModel":
        """Copy the model to a device; where it is there already, this is the model itself."""
        if self.table.device == torch.device(device):
            return self
        return replace(
            self,
            table=self.table.to(device),
            heads=self.heads.to(device),
            bias=self.bias.to(device),
            scale=self.scale.to(device),
        )


@dataclass(frozen=True)
class AgentTables:
    """How the agents read a document and what they think of it.

    Args:
        kind: [A] int32; 0 the state is stored, 1 the value of `first_head` put into bins,
            2 the largest of the `num_states` heads from `first_head` on (the first one on a tie).
        first_head: [A] int32; not read for kind 0.
        num_states: [A] int32, in [1, S].
        edges: [A, S-1] float32, ascending, padded with +inf; the state of kind 1 is the number of
            edges that are <= the value.
        memory: [A, S] float32, an agent's vote for a document in a state.
        theta: [A] float32, the console's weight of an agent.

    Raises:
        ValueError: A shape, a dtype or (on the CPU) a value that does not fit.
    """

    kind: Tensor
    first_head: Tensor
    num_states: Tensor
    edges: Tensor
    memory: Tensor
    theta: Tensor

    def __post_init__(self) -> None:
        check_tensor("memory", self.memory, torch.float32, (None, None))
        num_agents, max_states = self.memory.shape
        if max_states < 1:
            raise ValueError("memory has no columns; it must have one for each state, at least one")
        for name in ("kind", "first_head", "num_states"):
            check_tensor(name, getattr(self, name), torch.int32, (num_agents,))
        check_tensor("edges", self.edges, torch.float32, (num_agents, max_states - 1))
        check_tensor("theta", self.theta, torch.float32, (num_agents,))
        check_devices(self)
        if self.memory.device.type == "cpu":
            self._check_contents()

    @property
    def num_agents(self) -> int:
        """A, the number of agents."""
        return self.memory.shape[0]

    def to(self, device: torch.device | str) -> "AgentTables":
        """Copy the tables to a device; where they are there already, these are the tables."""
        if self.memory.device == torch.device(device):
            return self
        return AgentTables(*(getattr(self, field.name).to(device) for field in fields(self)))

    def _check_contents(self) -> None:
        """Raise ValueError for a kind, a number of states or edges out of range."""
        if bool(((self.kind < STORED) | (self.kind > ARGMAX)).any()):
            raise ValueError(f"kind is {self.kind.tolist()}; each must be 0, 1 or 2")
        if bool(((self.num_states < 1) | (self.num_states > self.memory.shape[1])).any()):
            raise ValueError(
                f"num_states is {self.num_states.tolist()}; "
                f"each must be in [1, {self.memory.shape[1]}], the columns of memory"
            )
        ascends = self.edges[:, 1:] >= self.edges[:, :-1]
        if not bool(ascends.all()) or bool(self.edges.isnan().any()):
            raise ValueError("edges are not ascending; sort each agent's and pad with +inf")


@dataclass(frozen=True)
class DocumentScores:
    """The result of document_scores, new tensors on the device of the tokens.

    Args:
        values: [n, H] float32, the heads' values.
        states: [n, A] int32, each agent's label.
        votes: [n, A] float32, each agent's memory of that state.
        total: [n] float32, the sum of theta * vote.
    """

    values: Tensor
    states: Tensor
    votes: Tensor
    total: Tensor


def new_scores(
    tokens: Tensor, cu_seqlens: Tensor, num_heads: int, num_agents: int
) -> DocumentScores:
    """Allocate the scores of packed documents, on the device of the tokens."""
    n, device = cu_seqlens.shape[0] - 1, tokens.device
    return DocumentScores(
        values=torch.empty(n, num_heads, dtype=torch.float32, device=device),
        states=torch.empty(n, num_agents, dtype=torch.int32, device=device),
        votes=torch.empty(n, num_agents, dtype=torch.float32, device=device),
        total=torch.empty(n, dtype=torch.float32, device=device),
    )


def check_devices(tables: NgramModel | AgentTables) -> None:
    """Raise ValueError unless all tensors of a table lie on one device."""
    named = {field.name: getattr(tables, field.name) for field in fields(tables)}
    devices = {
        name: str(value.device) for name, value in named.items() if isinstance(value, Tensor)
    }
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors lie on different devices, {devices}; move them to one")
