# SPDX-License-Identifier: Apache-2.0
"""The 32-bit hash of n-grams and candidates, in plain torch: the specification of csrc/hash.h.

A hash starts at `HASH_START`, absorbs 32-bit words one by one with `absorb` and ends with
`finish`. Words are held in int64 tensors with values in [0, 2**32); a product may wrap modulo
2**64, which leaves its low 32 bits right.
"""

from typing import TypeVar

from torch import Tensor

HASH_START = 0x6D6F6F74
NOISE_SALT = 0x2545F491
MASK = 0xFFFFFFFF

Word = TypeVar("Word", int, Tensor)


def absorb(state: Word, word: Word) -> Word:
    """Mix one word (its low 32 bits count) into the state; 0x9E37... is 2**32 / golden ratio."""
    mixed = ((word & MASK) ^ state) * 0x9E3779B1 & MASK
    return mixed ^ (mixed >> 15)


def finish(state: Word) -> Word:
    """Spread every bit of the state over all 32 (the finaliser of MurmurHash3, public domain)."""
    state = (state ^ (state >> 16)) * 0x85EBCA6B & MASK
    state = (state ^ (state >> 13)) * 0xC2B2AE35 & MASK
    return state ^ (state >> 16)


def seed_state(seed: int) -> int:
    """State after absorbing a 64-bit seed, low half first; hash_ids continues from it."""
    return absorb(absorb(HASH_START, seed & MASK), seed >> 32 & MASK)


def hash_ids(ids: Tensor, seed: int) -> Tensor:
    """Hash int64 ids under a seed, low half first.

    Returns:
        int64 of the shape of ids, values in [0, 2**32).
    """
    state = ids.new_tensor(seed_state(seed))
    return finish(absorb(absorb(state, ids), ids >> 32))
