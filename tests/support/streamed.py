# SPDX-License-Identifier: Apache-2.0
"""What stood in the batches of a loader, in a form that two runs can be compared by."""

import contextlib

from corpora import tokens_of
from moot.loader import Loader


def trace(loader: Loader, num: int, start: int = 0, names=lambda sample_id: sample_id) -> list:
    """Read batches and list the pieces of each: (sample ids, offsets, lengths, places).

    Args:
        loader: Of a corpus whose tokens name their samples; they are compared.
        num: Batches to read.
        start: The number of the first one.
        names: From the id of a sample in the corpus to that in its tokens.
    """
    seen = []
    with contextlib.closing(iter(loader)) as stream:
        for step in range(start, start + num):
            flat = next(stream)["input_ids"].flatten().numpy()
            pieces = loader.pieces(step)
            parts = (pieces.sample_id, pieces.offset, pieces.length, pieces.start)
            rows = [part.tolist() for part in parts]
            for sample, offset, length, place in zip(*rows, strict=True):
                expected = tokens_of(names(sample), offset, offset + length)
                assert (flat[place : place + length] == expected).all(), (step, sample)
            seen.append(rows)
    return seen


def samples_in(seen: list) -> set[int]:
    """Return the ids of all samples in a trace."""
    return {sample for rows in seen for sample in rows[0]}
