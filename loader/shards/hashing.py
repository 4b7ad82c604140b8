# SPDX-License-Identifier: Apache-2.0
"""Digests of whole files by the names an index uses, hashlib's and xxhash's; and of samples.

Among several digests the strongest known is checked: long cryptographic ones first, then the old
ones, then the fast ones that guard against accidents only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

from ..errors import ShardError

_STRONGEST = (
    *("sha3_512", "blake2b", "sha512", "sha3_384", "sha384", "sha3_256", "sha256", "blake2s"),
    *("sha512_256", "sha3_224", "sha224", "sha512_224", "sm3", "ripemd160", "sha1", "md5"),
    *("md5-sha1", "xxh3_128", "xxh128", "xxh3_64", "xxh64", "xxh32"),
)


def find_hash(algorithm: str) -> Callable[[Any], Any] | None:
    """Return the constructor of a hash by its name, None if it is unknown here."""
    if algorithm in xxhash.algorithms_available:
        return getattr(xxhash, algorithm)
    if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake_"):
        return lambda data: hashlib.new(algorithm, data, usedforsecurity=False)
    return None


def digest(algorithm: str, data: Any) -> str:
    """Return the hex digest of a buffer.

    Raises:
        ShardError: The algorithm is unknown here.
    """
    constructor = find_hash(algorithm)
    if constructor is None:
        raise ShardError(f"unknown hash {algorithm!r}; use one of hashlib's or xxhash's, as xxh64")
    return constructor(data).hexdigest()


def check_digest(where: str, data: Any, digests: Mapping[str, str]) -> None:
    """Compare a buffer with the strongest of its listed digests; none listed passes.

    Raises:
        ShardError: They differ, or no listed algorithm is known.
    """
    if not digests:
        return
    known = [name for name in digests if find_hash(name) is not None]
    if not known:
        raise ShardError(f"{where}: cannot verify, unknown hashes {', '.join(digests)}")
    rank = {name: position for position, name in enumerate(_STRONGEST)}
    algorithm = min(known, key=lambda name: (rank.get(name, len(rank)), name))
    got = digest(algorithm, data)
    if got != digests[algorithm].lower():
        raise ShardError(
            f"{where} is corrupt: {algorithm} is {got}, the index expects {digests[algorithm]}; "
            "copy or write the file again"
        )


def hash_samples(buffer: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return xxh3_64 of every sample: uint64 [n].

    Args:
        buffer: uint8.
        offsets: int64 [n + 1], ascending; sample i is `buffer[offsets[i] : offsets[i + 1]]`.
    """
    data, cuts = buffer.data, offsets.tolist()
    spans = zip(cuts, cuts[1:], strict=False)
    hashes = (xxhash.xxh3_64_intdigest(data[begin:end]) for begin, end in spans)
    return np.fromiter(hashes, np.uint64, len(cuts) - 1)


def check_samples(
    where: str, buffer: np.ndarray, offsets: np.ndarray, rows: np.ndarray, hashes: np.ndarray
) -> None:
    """Compare samples with their hashes.

    Args:
        where: The name for messages.
        buffer: uint8, the samples one behind the other.
        offsets: int64 [m + 1], where they lie in it.
        rows: int64 [m], their places in the shard.
        hashes: uint64, xxh3_64 of every sample of the shard.

    Raises:
        ShardError: One differs, or there is no hash for one.
    """
    if rows.size and rows[-1] >= len(hashes):
        raise ShardError(
            f"{where}: {len(hashes)} hashes of samples are known, there is no one for sample "
            f"{rows[-1]}; label the corpus again"
        )
    differs = np.flatnonzero(hash_samples(buffer, offsets) != np.asarray(hashes, np.uint64)[rows])
    if differs.size:
        raise ShardError(
            f"{where}, sample {rows[differs[0]]} is corrupt: its xxh3_64 is not the one stored for "
            "it; copy the file again, or label the corpus again if it was rewritten"
        )
