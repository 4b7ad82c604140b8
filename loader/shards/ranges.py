# SPDX-License-Identifier: Apache-2.0
"""Some samples of a file by a few ranges: which to join, and reading them side by side.

Samples that lie close are read in one range, together with those between them: a request costs more
than the bytes it saves. So what is read is always whole samples, in runs.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from ..storage import Store

GAP_BYTES = 256 << 10
RANGE_BYTES = 8 << 20
NUM_THREADS = 8


def find_runs(rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the runs of samples to read: int64 [k, 2], first sample and the one behind the last.

    Samples that are not wanted are read along where they are together no longer than GAP_BYTES.

    Args:
        rows: int64, ascending; the samples wanted.
        offsets: int64 [n + 1], ascending; sample i is bytes `offsets[i]` to `offsets[i + 1]`.
    """
    if not rows.size:
        return np.empty((0, 2), np.int64)
    is_far = offsets[rows[1:]] - offsets[rows[:-1] + 1] > GAP_BYTES
    first = rows[np.concatenate(([True], is_far))]
    last = rows[np.concatenate((is_far, [True]))]
    return np.stack([first, last + 1], axis=1)


def rows_of(runs: np.ndarray) -> np.ndarray:
    """Return the samples of runs: int64, ascending."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(*run) for run in runs.tolist())])


def read_spans(store: Store, name: str, spans: np.ndarray, buffer: np.ndarray) -> int | None:
    """Read byte ranges of an object into `buffer`, one behind the other.

    Args:
        store: Where the object lies.
        name: The object.
        spans: int64 [k, 2], half-open; together as long as the buffer.
        buffer: uint8, writable.

    Returns:
        The size of the object, None if there was nothing to read.

    Raises:
        StorageError: A request failed; the contents of `buffer` are undefined.
    """
    if len(spans) == 1 and spans[0, 1] - spans[0, 0] == buffer.size:
        return store.get_range_into(name, int(spans[0, 0]), buffer)  # the store cuts it itself
    pieces, at = [], 0
    for begin, end in spans.tolist():
        for start in range(begin, end, RANGE_BYTES):
            size = min(RANGE_BYTES, end - start)
            pieces.append((start, buffer[at : at + size]))
            at += size
    if at != buffer.size:
        raise ValueError(f"the spans hold {at} bytes, the buffer {buffer.size}")
    if len(pieces) < 2:
        return store.get_range_into(name, *pieces[0]) if pieces else None
    with ThreadPoolExecutor(min(NUM_THREADS, len(pieces)), "moot-spans") as pool:
        futures = [pool.submit(store.get_range_into, name, *piece) for piece in pieces]
        done, left = wait(futures, return_when=FIRST_EXCEPTION)
        for future in left:
            future.cancel()
    failed = [future for future in done if future.exception() is not None]
    return (failed or futures)[0].result()
