# SPDX-License-Identifier: Apache-2.0
"""Runs of samples in a file of nothing but tokens: what Megatron-LM's and nanoGPT's files share.

A shard is a range of bytes in which sample follows sample. It is read whole, or the runs that hold
the samples wanted. Such files carry no hashes: what is read is compared with those of the samples
where they are known, and else counted as unverified.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShardError
from ..storage import ShortObjectError, Store
from .hashing import check_samples, hash_samples
from .index import ShardInfo
from .ranges import find_runs, read_spans, rows_of
from .shard import ArrayShard, Ask, Flat

COLUMN = "tokens"
RUN_BYTES = 1 << 26  # a shard is about as long
# What integers of a token file are called, little-endian as every such writer writes them.
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


class RunShard(ArrayShard):
    """A run of samples in memory. Made by `read_run`."""

    def sample_hashes(self) -> np.ndarray:
        """Return xxh3_64 of each sample's tokens as stored; see `Shard.sample_hashes`."""
        flat = self._flat(COLUMN)
        return hash_samples(flat.values.view(np.uint8), flat.offsets * flat.values.itemsize)

    def sample_bytes(self) -> np.ndarray:
        """Return the bytes of each sample's tokens; see `Shard.sample_bytes`."""
        flat = self._flat(COLUMN)
        return (np.diff(flat.offsets) * flat.values.itemsize).astype(np.uint64)


def run_info(
    format_name: str, name: str, dtype: np.dtype, *, samples: int, start: int, size: int, part: int
) -> ShardInfo:
    """Return the description of a run: `samples` in `size` bytes from byte `start` of a file on."""
    return ShardInfo(
        shard_id=0,
        basename=name,
        raw_bytes=size,
        zip_basename=None,
        zip_bytes=0,
        compression=None,
        raw_hashes={},
        zip_hashes={},
        num_samples=samples,
        column_names=(COLUMN,),
        column_encodings=(f"ndarray:{dtype.name}",),
        column_sizes=(None,),
        format=format_name,
        start=start,
        part=part,
    )


def read_run(store: Store, info: ShardInfo, ask: Ask, lengths: np.ndarray) -> RunShard:
    """Read a run, or the samples of it that are wanted.

    Args:
        store: Where the file lies.
        info: The run.
        ask: What is wanted of it.
        lengths: int64 [n], tokens of each sample, not negative; together they fill the run.

    Raises:
        StorageError: The file is missing or cannot be read.
        ShardError: It is too short, or a sample is corrupt.
    """
    where = f"{store.url}/{info.basename}, bytes from {info.start} on"
    ask.named(info, where)
    dtype = np.dtype(info.column_encodings[0].partition(":")[2]).newbyteorder("<")
    offsets = np.concatenate(([0], np.cumsum(lengths))) * dtype.itemsize
    rows = ask.wanted(info, where)
    runs = np.array([[0, info.num_samples]]) if rows is None else find_runs(rows, offsets)
    held = rows_of(runs)
    local = np.concatenate(([0], np.cumsum(np.diff(offsets)[held])))
    buffer = ask.allocate(int(local[-1]))
    try:
        read_spans(store, info.basename, info.start + offsets[runs], buffer)
    except ShortObjectError as error:
        raise ShardError(
            f"{where}: the file is {error.size_bytes} bytes, {info.start + info.raw_bytes} are "
            "needed; it was cut or replaced: copy it again"
        ) from error
    is_verified = ask.verify != "none" and ask.hashes is not None
    if is_verified and ask.hashes is not None:
        check_samples(where, buffer, local, held, ask.hashes)
    counts = np.zeros(info.num_samples, np.int64)
    counts[held] = lengths[held]
    values = buffer.view(dtype)
    values.flags.writeable = False
    flat = Flat(values, np.concatenate(([0], np.cumsum(counts))))
    return RunShard(info, {COLUMN: flat}, where, 0 if is_verified else buffer.size)
