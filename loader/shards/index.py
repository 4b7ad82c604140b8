# SPDX-License-Identifier: Apache-2.0
"""The shards of a corpus: one as an object, all of them as columns.

A million shards take about 70 MB; a `ShardInfo` is made when it is asked for. Immutable, so any
number of threads may read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from ..errors import ShardError
from .columns import Columns, Kind, empty_texts, join_columns, join_texts, texts_of

INDEX_NAME = "index.json"
VERSION = 2
MAX_SHARD_BYTES = 2**32 - 1  # of an MDS shard: its sample offsets are 32 bits
_FLUSH_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as the index describes it; sizes in bytes, `column_sizes` None where variable."""

    shard_id: int
    basename: str
    raw_bytes: int
    zip_basename: str | None
    zip_bytes: int
    compression: str | None
    raw_hashes: dict[str, str]
    zip_hashes: dict[str, str]
    num_samples: int
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]
    format: str = "mds"
    start: int = 0
    """First byte of the shard in its stored file; a shard may be a part of one."""
    part: int = 0
    """Which part of the file it is, as its format counts (Parquet: the row group)."""

    @property
    def stored_name(self) -> str:
        """The file that is in the bucket: the compressed one if there is one."""
        return self.zip_basename or self.basename

    @property
    def stored_bytes(self) -> int:
        """The length of the stored file."""
        return self.zip_bytes if self.zip_basename else self.raw_bytes


class ShardIndex(Sequence[ShardInfo]):
    """The shards of a corpus, in order; shard i has shard_id i.

    Made of `ShardInfo`s, which are not kept, or by `ShardIndex.of` of columns.

    Attributes:
        columns: What it consists of.
        samples: [n] int64, the samples of each shard.
        raw_bytes: [n] int64, decoded.
        stored_bytes: [n] int64, as they are fetched.

    Raises:
        ShardError: A digest is no hexadecimal text.
    """

    def __init__(self, shards: Iterable[ShardInfo] = ()) -> None:
        builder = IndexBuilder()
        for info in shards:
            builder.add(info)
        self._set(builder.columns())

    @classmethod
    def of(cls, columns: Columns) -> ShardIndex:
        """Return the index that columns make up."""
        index = cls.__new__(cls)
        index._set(columns)
        return index

    @classmethod
    def concat(cls, parts: Sequence[ShardIndex]) -> ShardIndex:
        """Return the shards of all parts in a row, numbered anew."""
        return cls.of(join_columns([part.columns for part in parts])) if parts else cls()

    def _set(self, columns: Columns) -> None:
        self.columns = columns
        self.samples = columns.samples
        self.raw_bytes = columns.raw_bytes
        self.stored_bytes = columns.stored_bytes

    @cached_property
    def digest(self) -> str:
        """Name the whole index: equal where all shards and their hashes are, in order."""
        return self.columns.digest()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.columns.nbytes

    def subset(self, rows: Sequence[int] | np.ndarray) -> ShardIndex:
        """Return some shards in the order given, numbered anew."""
        return ShardIndex.of(self.columns.take(np.asarray(rows, np.int64)))

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return f"ShardIndex({len(self)} shards, {int(self.samples.sum())} samples)"

    def __iter__(self) -> Iterator[ShardInfo]:
        return map(self._row, range(len(self)))

    @overload
    def __getitem__(self, place: int) -> ShardInfo: ...
    @overload
    def __getitem__(self, place: slice) -> ShardIndex: ...
    def __getitem__(self, place: int | slice) -> ShardInfo | ShardIndex:
        if isinstance(place, slice):
            first, stop, step = place.indices(len(self))
            if step == 1:
                return ShardIndex.of(self.columns.slice(first, max(first, stop)))
            return self.subset(np.arange(first, stop, step))
        row = place + len(self) if place < 0 else place
        if not 0 <= row < len(self):
            raise IndexError(f"shard {place} of {len(self)}")
        return self._row(int(row))

    def _row(self, i: int) -> ShardInfo:
        columns = self.columns
        kind = columns.kinds[columns.kind[i]]
        basename = columns.names[i].decode("utf-8")
        zip_basename = None
        if kind.zip_suffix is not None:
            zip_basename = basename + kind.zip_suffix
        if kind.zip_suffix == "" and columns.zip_names is not None:
            zip_basename = columns.zip_names[i].decode("utf-8")
        digests = columns.digests[i].hex()
        raw_digits = 2 * sum(size for _, size in kind.raw_hashes)
        return ShardInfo(
            shard_id=i,
            basename=basename,
            raw_bytes=int(self.raw_bytes[i]),
            zip_basename=zip_basename,
            zip_bytes=0 if zip_basename is None else int(self.stored_bytes[i]),
            compression=kind.compression,
            raw_hashes=_split(digests[:raw_digits], kind.raw_hashes),
            zip_hashes=_split(digests[raw_digits:], kind.zip_hashes),
            num_samples=int(self.samples[i]),
            column_names=kind.column_names,
            column_encodings=kind.column_encodings,
            column_sizes=kind.column_sizes,
            format=kind.format,
            start=0 if columns.start is None else int(columns.start[i]),
            part=0 if columns.part is None else int(columns.part[i]),
        )


class IndexBuilder:
    """Gathers shards one by one into columns, without keeping what it was given."""

    def __init__(self) -> None:
        self._kinds: dict[tuple, int] = {}
        self._numbers = {name: array("q") for name in ("kind", "samples", "raw", "stored")}
        self._extra = {name: array("q") for name in ("start", "part")}
        self._texts: dict[str, list[bytes]] = {"names": [], "digests": [], "zip_names": []}
        self._flushed: dict[str, list] = {name: [] for name in self._texts}

    def __len__(self) -> int:
        return len(self._numbers["kind"])

    def add(self, info: ShardInfo) -> None:
        """Append a shard; its shard_id is not looked at.

        Raises:
            ShardError: A digest is no hexadecimal text.
        """
        name, zip_name = info.basename, info.zip_basename
        suffix, listed = zip_name, ""
        if zip_name is not None:
            suffix = zip_name[len(name) :] if zip_name.startswith(name) else ""
            listed = "" if suffix else zip_name
        raw, zipped = _digests(name, info.raw_hashes), _digests(zip_name or name, info.zip_hashes)
        kind = (
            *(info.format, info.compression, suffix),
            tuple((algorithm, len(data)) for algorithm, data in raw),
            tuple((algorithm, len(data)) for algorithm, data in zipped),
            *(info.column_names, info.column_encodings, info.column_sizes),
        )
        numbers = self._numbers
        numbers["kind"].append(self._kinds.setdefault(kind, len(self._kinds)))
        numbers["samples"].append(info.num_samples)
        numbers["raw"].append(info.raw_bytes)
        numbers["stored"].append(info.stored_bytes)
        self._extra["start"].append(info.start)
        self._extra["part"].append(info.part)
        self._texts["names"].append(name.encode("utf-8"))
        self._texts["zip_names"].append(listed.encode("utf-8"))
        self._texts["digests"].append(b"".join(data for _, data in raw + zipped))
        if len(self._texts["names"]) == _FLUSH_ROWS:
            self._flush()

    def columns(self) -> Columns:
        """Return what was added; nothing is added afterwards."""
        self._flush()
        texts = {
            name: join_texts(parts or [empty_texts(0)]) for name, parts in self._flushed.items()
        }
        kind, samples, raw, stored = (np.array(a, np.int64) for a in self._numbers.values())
        start, part = (np.array(a, np.int64) for a in self._extra.values())
        return Columns(
            kinds=tuple(Kind(*values) for values in self._kinds),
            kind=kind,
            samples=samples,
            raw_bytes=raw,
            stored_bytes=stored,
            names=texts["names"],
            digests=texts["digests"],
            zip_names=texts["zip_names"],
            start=start,
            part=part,
        ).canonical()

    def _flush(self) -> None:
        for name, texts in self._texts.items():
            if texts:
                self._flushed[name].append(texts_of(texts))
                texts.clear()


def _digests(where: str, hashes: dict[str, str]) -> list[tuple[str, bytes]]:
    found = []
    for algorithm, text in sorted(hashes.items()):
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        if 2 * len(data) != len(text):
            raise ShardError(f"{where}: hashes must be texts of hexadecimal digits, not {text!r}")
        found.append((algorithm, data))
    return found


def _split(digits: str, sizes: tuple[tuple[str, int], ...]) -> dict[str, str]:
    found, at = {}, 0
    for algorithm, size in sizes:
        found[algorithm] = digits[at : at + 2 * size]
        at += 2 * size
    return found
