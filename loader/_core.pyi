"""Native core of moot.loader"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class ShardFault(Exception):
    pass

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

    def lengths(self, column: str) -> Annotated[NDArray[numpy.uint32], dict(shape=(None,))]:
        """Elements of each sample: uint32 [n]."""

    def spans(self, column: str, rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Annotated[NDArray[numpy.int64], dict(shape=(None, 2))]:
        """Byte ranges of a column: int64 [m, 2]."""

def gather(shards: Sequence[object], column: str, shard_pos: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], stops: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray, dict(shape=(None,), order='C', device='cpu')]) -> None:
    """Copy element ranges of many samples into `out`; releases the GIL."""

def permute(indices: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], n: int, key: int) -> None:
    """
    Replace each index of [0, n) by its image under the permutation named by key, in place.
    """

def mix64(word: int) -> int:
    """The finaliser of SplitMix64."""

def offer(cursor: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], lane_lengths: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ahead: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], num_pieces: int, piece_tokens: int) -> object:
    """
    Cut the next num_pieces pieces of a slot; None when `ahead` is too short.
    """

def fill(cursor: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], lane_lengths: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], ahead: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], row_tokens: int) -> object:
    """Cut pieces that fill one row a lane; None when `ahead` is too short."""

def pack(tokens: Annotated[NDArray, dict(order='C', device='cpu')], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], length: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], row_tokens: int, pad: int, input_ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], labels: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], position_ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Place pieces of tokens into rows and write input_ids, labels and position_ids.
    """
