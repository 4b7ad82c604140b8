# SPDX-License-Identifier: Apache-2.0
"""What exists: streams, their shards and samples, and the labels stored beside them.

| module | is |
|---|---|
| `streams.py` | one shard set of a mixture, and the store it lies in |
| `corpus.py` | the shards of all streams in a row |
| `opening.py` | streams to a corpus |
| `where.py` | a predicate over label columns |
"""

from .corpus import Corpus
from .opening import open_corpus
from .streams import Stream
from .where import Where

__all__ = ["Corpus", "Stream", "Where", "open_corpus"]
