# SPDX-License-Identifier: Apache-2.0
"""Documents: what a corpus is made of, and the seeded hashes that order it.

A document is at most MAX_BYTES of UTF-8, cut at a character boundary; its id is the hash of its
text, so equal texts have equal ids. Every choice "at random" is a hash of (name, seed): nothing
depends on the order in which a directory happens to be listed.
"""

import dataclasses
import gzip
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import IO, NamedTuple

import xxhash

MAX_BYTES = 65_536


class Document(NamedTuple):
    """One text with its place: `domain` indexes the corpus's list, `source` is its package."""

    text: str
    domain: int
    source: str
    id: str


@dataclasses.dataclass(slots=True)
class Splits:
    """The documents of a corpus before tokens: clean ones, each text in one split only."""

    domains: tuple[str, ...]
    train: list[Document]
    reference: list[Document]
    heldout: list[Document]
    skipped: Counter[str]
    notes: dict[str, object] = dataclasses.field(default_factory=dict)


class SkippedError(Exception):
    """A source holds no usable text; `reason` names the counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def text_id(text: str) -> str:
    """Return the id of a text: 32 hex digits, equal for equal texts."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def seeded_hash(name: str, seed: int) -> int:
    """Return 64 bits that depend on both arguments and nothing else."""
    return int(xxhash.xxh3_64_intdigest(name.encode(), seed=seed % 2**64))


def num_bytes(text: str) -> int:
    """Return the length of a text in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def cut_text(text: str, size_bytes: int = MAX_BYTES) -> str:
    """Return the longest prefix of at most `size_bytes` bytes that ends between characters."""
    if len(text) * 4 <= size_bytes:
        return text
    return text.encode()[:size_bytes].decode(errors="ignore")


def decode_text(raw: bytes, min_chars: int, *, is_whole: bool) -> str:
    """Decode the beginning of a file, or refuse it.

    Args:
        raw: bytes of the file from its start.
        min_chars: shorter texts (without outer white space) are refused.
        is_whole: False where `raw` may end inside a character.

    Raises:
        SkippedError: 'binary', 'not_utf8' or 'short'.
    """
    if b"\0" in raw:
        raise SkippedError("binary")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if is_whole or error.start < len(raw) - 3 or error.reason != "unexpected end of data":
            raise SkippedError("not_utf8") from None
        text = raw[: error.start].decode()
    if len(text.strip()) < min_chars:
        raise SkippedError("short")
    return text


def read_text(path: str, min_chars: int, size_bytes: int = MAX_BYTES) -> str:
    """Read at most `size_bytes` of a text file; a name ending in .gz is decompressed.

    Raises:
        SkippedError: 'unreadable', 'binary', 'not_utf8' or 'short'.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            raw = _read(file, size_bytes + 1)
    except (OSError, EOFError, zlib.error):
        raise SkippedError("unreadable") from None
    return decode_text(raw[:size_bytes], min_chars, is_whole=len(raw) <= size_bytes)


def _read(file: IO[bytes] | gzip.GzipFile, size: int) -> bytes:
    """Read exactly `size` bytes or up to the end: one read may return less."""
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def water_fill(available: Mapping[str, float], total: float) -> dict[str, float]:
    """Share `total` out as evenly as the available amounts allow.

    Returns:
        name -> amount <= available; the amounts sum to min(total, all that is available).
    """
    shares: dict[str, float] = {}
    left = total
    for position, name in enumerate(sorted(available, key=lambda key: (available[key], key))):
        shares[name] = min(available[name], left / (len(available) - position))
        left -= shares[name]
    return {name: shares[name] for name in available}
