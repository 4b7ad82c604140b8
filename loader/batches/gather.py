# SPDX-License-Identifier: Apache-2.0
"""The tokens of a step's candidate pieces, copied out of their shards in one native call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .._core import Elements
from ..shards import Shard, gather

_NO_TOKENS = np.empty(0, np.uint16)
_NO_START = np.empty(0, np.int64)


@dataclass(frozen=True)
class Place:
    """Where pieces are stored: [m] int64 each."""

    shard: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclass(slots=True)  # made once a batch: a frozen one takes five times as long to make
class Candidates:
    """Candidate pieces of the local slots of one step, slot after slot.

    `slot`, `shard`, `row`, `sample_id`, `offset`, `length` are [m] int64. Where they are to be
    scored, `tokens` holds the pieces one after the other as stored and `start` [m + 1] int64 where
    each begins; where nothing is scored, and once the step is packed on the host, both are empty.
    """

    slot: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    sample_id: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    start: np.ndarray
    tokens: np.ndarray

    def piece_ids(self) -> np.ndarray:
        """Name each piece by sample and offset: [m] int64, distinct within a step."""
        return (self.sample_id << 32) ^ self.offset

    def forget_tokens(self) -> None:
        """Let go of the tokens; the rest stays."""
        self.tokens, self.start = _NO_TOKENS, _NO_START

    def elements(self) -> Elements:
        """Return where the gathered tokens of each candidate lie."""
        begin = self.start[:-1] * self.tokens.itemsize
        lengths = self.length.astype(np.uint32)
        name = self.tokens.dtype.name
        return Elements(self.tokens.view(np.uint8), begin, lengths, name, "candidates")


def gather_candidates(
    get: Callable[[Sequence[int]], list[Shard]],
    column: str,
    slot: np.ndarray,
    place: Place,
    first_sample: np.ndarray,
    dtype: np.dtype,
) -> Candidates:
    """Copy candidate pieces out of their shards and name their samples."""
    start = np.concatenate([[0], np.cumsum(place.length)]).astype(np.int64)
    tokens = np.empty(int(start[-1]), dtype=dtype)
    shard_ids, shard_pos = np.unique(place.shard, return_inverse=True)
    gather(
        get(shard_ids.tolist()),
        column,
        shard_pos.astype(np.int32),
        place.row.astype(np.int32),
        place.offset,
        place.offset + place.length,
        tokens,
    )
    sample_id = first_sample[place.shard] + place.row
    return Candidates(
        slot, place.shard, place.row, sample_id, place.offset, place.length, start, tokens
    )
