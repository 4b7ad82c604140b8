# SPDX-License-Identifier: Apache-2.0
"""How a corpus is converted: the settings, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError, ShardError
from ..shards.compression import compression_level
from ..shards.hashing import digest
from ..shards.tokenise import TOKENS

TARGETS = ("mds", "parquet")
MAX_SIZE_LIMIT = 1 << 31


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """The settings of a conversion; sizes in bytes."""

    to: str = "mds"
    """The format to write: mds or parquet."""
    format: str | None = None
    """The format to read; None takes the first that is found."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the format to read needs to be told, such as the dtype of raw tokens."""
    columns: tuple[str, ...] | None = None
    """Columns to write; None takes all (with a tokenizer: all but the text). Of JSON lines, whose
    fields have no types of their own, also "name:encoding"; alone, the name of a text."""
    compression: str | None = "zstd:3"
    """Compression of what is written, as family or family:level; None for none."""
    hashes: tuple[str, ...] = ("xxh64",)
    """Digests listed in the index of MDS."""
    size_limit: int = 1 << 26
    """Uncompressed bytes of a shard of MDS, or of a file of Parquet."""
    tokenizer: str | None = None
    """Path or URL of a tokenizer.json: the text column becomes a column `tokens`."""
    eod: str | None = None
    """The token that ends every document; None for none."""
    text_column: str = "text"
    """The column that is tokenised."""
    drop_empty: bool = False
    """Leave out samples with an empty array, which MDS cannot hold, instead of stopping."""
    workers: int = 4
    """Parts written at the same time, each in a thread."""
    verify: bool = True
    """Read all that was written and compare it with what was read."""
    force: bool = False
    """Replace an earlier conversion at the same place."""

    @property
    def read_columns(self) -> dict[str, str | None]:
        """The columns that are to be read, with their encodings where they are told."""
        parts = (text.partition(":") for text in self.columns or ())
        named = {name: encoding or None for name, _, encoding in parts}
        if self.tokenizer is not None:
            named.pop(TOKENS, None)
            named.setdefault(self.text_column, None)
        return named

    def __post_init__(self) -> None:
        if self.to not in TARGETS:
            raise ConfigError(f"to={self.to!r}: formats written are {', '.join(TARGETS)}")
        bounds = {"workers": (1, 256), "size_limit": (1 << 10, MAX_SIZE_LIMIT - 1)}
        for name, (low, high) in bounds.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"{name}={value}: must lie in [{low}, {high}]")
        if self.eod is not None and self.tokenizer is None:
            raise ConfigError(f"eod={self.eod!r} ends tokenised documents; name a tokenizer too")
        if self.columns == ():
            raise ConfigError("columns is empty; name at least one")
        names = [text.partition(":")[0] for text in self.columns or ()]
        if len(set(names)) != len(names):
            raise ConfigError(f"columns={','.join(names)}: a column is named twice")
        try:
            if self.compression is not None:
                compression_level(self.compression)
            for name in self.hashes:
                digest(name, b"")
        except ShardError as error:
            raise ConfigError(str(error)) from None
