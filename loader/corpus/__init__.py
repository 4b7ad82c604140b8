# SPDX-License-Identifier: Apache-2.0
"""What exists: streams, their shards and samples, and the labels stored beside them.

| module | is |
|---|---|
| `streams.py` | one shard set of a mixture, and the store it lies in |
| `corpus.py` | the shards of all streams in a row |
| `opening.py` | streams to a corpus |
| `sharing.py` | read by one process, handed to the others |
| `sidecar.py` | labels.parquet: labels, length and hash of every sample of a stream |
| `labels.py` | the sidecars of all streams, and which samples a predicate wants |
| `wanted.py` | the samples a predicate wants: how many of each shard, and which |
| `cells.py` | documents and tokens of each cell in each shard |
| `write_labels.py` | a corpus to its sidecars |
| `where.py` | a predicate over label columns |
"""

from .cells import Cells
from .corpus import Corpus
from .opening import open_corpus
from .sharing import Share, share_over
from .sidecar import LengthOf
from .streams import Stream
from .wanted import Wanted
from .where import Where
from .write_labels import LabelPlan, write_labels

__all__ = [
    "Cells",
    "Corpus",
    "LabelPlan",
    "LengthOf",
    "Share",
    "Stream",
    "Wanted",
    "Where",
    "open_corpus",
    "share_over",
    "write_labels",
]
