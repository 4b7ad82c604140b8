"""Native core of moot.loader"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class ShardFault(Exception):
    pass

class Elements:
    """Where the elements of one column lie in a buffer."""

    def __init__(self, buffer: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], begin: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], count: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], dtype: str, where: str) -> None:
        """
        Check that row i, `count[i]` elements from byte `begin[i]` on, lies in `buffer` (uint8 [n], kept alive).
        """

    @property
    def num_rows(self) -> int: ...

    @property
    def dtype(self) -> str:
        """The type's name, equal for all rows; ShardFault where they differ."""

    @property
    def lengths(self) -> Annotated[NDArray[numpy.uint32], dict(shape=(None,), writable=False)]:
        """Elements of each row: uint32 [n], a read-only view."""

def gather(tables: Sequence[Elements], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], row: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], offset: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], length: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray, dict(order='C', device='cpu')]) -> None:
    """Copy pieces one after the other into `out`; releases the GIL."""

def pack(tables: Sequence[Elements], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], row: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], offset: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], length: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], row_tokens: int, pad: int, size: int, tokens: Annotated[NDArray, dict(order='C', device='cpu')] | None = None, input_ids: Annotated[NDArray, dict(order='C', device='cpu')] | None = None, labels: Annotated[NDArray, dict(order='C', device='cpu')] | None = None, position_ids: Annotated[NDArray, dict(order='C', device='cpu')] | None = None) -> None:
    """
    Place pieces into rows of `row_tokens`, `size` tokens in all, and pad the rest.
    """

class MdsShard:
    """The checked layout of a raw MDS shard, and its buffer."""

    def __init__(self, buffer: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], columns: Sequence[tuple[str, str, int | None]], name: str, num_samples: int) -> None:
        """
        Parse and check `buffer` (uint8 [n], kept alive); columns are (name, encoding, size).
        """

    @property
    def num_samples(self) -> int: ...

    @property
    def config_span(self) -> tuple[int, int]:
        """Half-open byte range of the JSON config."""

    def elements(self, column: str) -> Elements:
        """Where the elements of a column lie, checked."""

    def spans(self, column: str, rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Annotated[NDArray[numpy.int64], dict(shape=(None, 2))]:
        """Byte ranges of a column: int64 [m, 2]."""

POSITION_BITS: int = 44

def permute(indices: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], n: int, key: int) -> None:
    """
    Replace each index of [0, n) by its image under the permutation named by key, in place.
    """

def mix64(word: int) -> int:
    """The finaliser of SplitMix64."""

def locate(positions: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], start: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], shard: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], first_row: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], key: int, ways: int, shuffle: bool) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.int64], dict(shape=(None,))]]:
    """Shard and row at each position of an epoch of a strand: two int64 [m]."""

def draws(pairs: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], first_key: int, num_draws: int) -> Annotated[NDArray[numpy.int64], dict(shape=(None,))]:
    """
    Keys of the next documents that a strand draws from its streams: int64 [num_draws].
    """

def plan(layout: Sequence[int], table: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)], lane_lengths: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ahead: Sequence[tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]]], num_steps: int) -> tuple:
    """
    Plan steps: (step_end, tables, slot, document, offset, length, target).
    """
