# SPDX-License-Identifier: Apache-2.0
"""Memory for shards and their whole-file compression: zstd, through Arrow.

Arrow decompresses into pooled memory of exactly the declared size and refuses a frame that holds
more or less, so a small file cannot grow past what the index states. Its speed equals zstandard's
decompression into a reused buffer (1.8 against 1.9 GB/s on text), without one more dependency.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShardError

OTHERS = ("br", "bz2", "gz", "snappy")
_LEVELS = range(1, 23)


def compression_level(compression: str) -> int:
    """Return the level of `zstd` or `zstd:N`; others are refused.

    Raises:
        ShardError: The compression is not zstd, or its level is not 1 to 22.
    """
    family, _, level = compression.partition(":")
    if family in OTHERS:
        raise ShardError(f"compression {compression!r} is not supported; write the shards as zstd")
    if family != "zstd" or (":" in compression and not level.isdecimal()):
        raise ShardError(f"unknown compression {compression!r}; use none, 'zstd' or 'zstd:N'")
    if level and int(level) not in _LEVELS:
        raise ShardError(f"compression {compression!r}: the level of zstd is 1 to 22")
    return int(level or 3)


def compress(data: bytes, compression: str) -> bytes:
    """Return `data` as one zstd frame."""
    import pyarrow

    codec = pyarrow.Codec("zstd", compression_level=compression_level(compression))
    return codec.compress(data, asbytes=True)


def pooled_bytes(num_bytes: int) -> np.ndarray:
    """Return uint8 [num_bytes], writable, uninitialised, from the pool that shards share.

    The pool keeps pages it has touched, which halves the cost of a big buffer.
    """
    import pyarrow

    return np.frombuffer(pyarrow.allocate_buffer(num_bytes), np.uint8)


def decompress(where: str, data: Any, raw_bytes: int) -> np.ndarray:
    """Return exactly `raw_bytes` bytes, uint8 and read-only.

    Raises:
        ShardError: The data is not zstd, is cut short, or holds more or less than `raw_bytes`.
    """
    import pyarrow

    try:
        raw = pyarrow.Codec("zstd").decompress(data, decompressed_size=raw_bytes)
    except (OSError, MemoryError, ValueError) as error:
        raise ShardError(
            f"{where} does not decompress to the {raw_bytes} bytes the index states: {error}; "
            "write the shard again"
        ) from error
    view = np.frombuffer(raw, np.uint8)
    if view.size != raw_bytes:
        raise ShardError(f"{where} holds {view.size} bytes, the index states {raw_bytes}")
    return view
