# SPDX-License-Identifier: Apache-2.0
"""What every reader is: batches of 64 rows of 2,048 stored tokens, epoch by epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH_ROWS = 64
SEQ_LEN = 2048
BUCKET = "bench"
KEYS = {"access_key_id": "bench", "secret_access_key": "bench-secret", "region": "us-east-1"}


@dataclass(frozen=True)
class Place:
    """Where a reader finds its corpus and where it may write."""

    endpoint: str
    """http(s)://127.0.0.1:PORT, the server of this condition."""
    corpus: str
    """The corpus's folder in the bucket."""
    is_packed: bool
    """Samples are documents, to be packed to rows of 2,048 tokens."""
    served: Path
    """The bucket's folder on this machine, for readers of local files."""
    cache: Path
    """The reader's own folder; empty when the run is cold."""
    state: Any = None
    """What `Reader.state` returned in an earlier process, or None."""


@dataclass(frozen=True)
class Reader:
    """A rival, set up and ready; nothing has been read yet."""

    epoch: Callable[[], Iterator[Any]]
    """One pass over the corpus: [64, 2048] each."""
    state: Callable[[], Any] | None = None
    """The state behind the last batch, as JSON values; None if the reader cannot resume."""
    close: Callable[[], None] = lambda: None
    is_endless: bool = False
    """`epoch` goes on for ever: the next pass begins without a break."""
