# SPDX-License-Identifier: Apache-2.0
"""The columns of a shard index: about 70 bytes a shard, whatever the number of shards.

What many shards have in common is a `Kind`, stored once. Names and digests are bytes laid end to
end. Nothing here checks what it is given; the readers of an index do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash

_MAX_U32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What shards have in common, apart from their names, sizes and digests.

    Attributes:
        zip_suffix: What the compressed file's name adds to the raw one's; "" where that name is
            listed shard by shard, None where nothing is compressed.
        raw_hashes: (algorithm, bytes of its digest), sorted; zip_hashes likewise.
    """

    format: str
    compression: str | None
    zip_suffix: str | None
    raw_hashes: tuple[tuple[str, int], ...]
    zip_hashes: tuple[tuple[str, int], ...]
    column_names: tuple[str, ...]
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]

    def to_list(self) -> list:
        """Return it as JSON knows it; `Kind(*values)` with tuples for lists is the way back."""
        return [getattr(self, name) for name in self.__slots__]


@dataclass(frozen=True, eq=False, slots=True)
class Texts:
    """Byte strings laid end to end: the i-th is `data[offsets[i] : offsets[i + 1]]`.

    `data` is uint8; `offsets` [n + 1] ascends, uint32 unless the data is 4 GiB or more.
    """

    data: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()

    @property
    def lengths(self) -> np.ndarray:
        """[n] int64."""
        return np.diff(self.offsets.astype(np.int64))

    @property
    def used(self) -> np.ndarray:
        """The bytes of all texts: uint8, a view."""
        return self.data[self.offsets[0] : self.offsets[-1]]

    def take(self, rows: np.ndarray) -> Texts:
        """Return some of them, int64 [m] of any order."""
        begin = self.offsets[:-1].astype(np.int64)[rows]
        lengths = self.lengths[rows]
        offsets = ends_of(lengths)
        within = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        return Texts(self.data[np.repeat(begin, lengths) + within], narrow(offsets))


def texts_of(texts: Sequence[bytes]) -> Texts:
    """Lay byte strings end to end."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return Texts(np.frombuffer(b"".join(texts), np.uint8), narrow(ends_of(lengths)))


def join_texts(parts: Sequence[Texts]) -> Texts:
    """Return the texts of all parts in a row; the part itself where there is one."""
    if len(parts) == 1:
        return parts[0]
    ends = ends_of(np.array([part.used.size for part in parts], np.int64))
    shifted = [part.offsets[1:].astype(np.int64) - int(part.offsets[0]) for part in parts]
    offsets = [shift + end for shift, end in zip(shifted, ends[:-1], strict=True)]
    data = np.concatenate([part.used for part in parts])
    return Texts(data, narrow(np.concatenate([np.zeros(1, np.int64), *offsets])))


def ends_of(lengths: np.ndarray) -> np.ndarray:
    """[n] lengths to [n + 1] int64 offsets that begin with 0."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def narrow(offsets: np.ndarray) -> np.ndarray:
    """Return offsets as uint32 where they fit."""
    return offsets.astype(np.uint32) if offsets[-1] <= _MAX_U32 else offsets


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """A shard index as columns of equal length n.

    Attributes:
        kinds: What `kind` counts.
        kind: [n] uint16 or uint32.
        samples, raw_bytes, stored_bytes: [n] int64.
        names: Of the raw files, UTF-8.
        digests: The raw file's, then the compressed file's, in the order of their kind.
        zip_names: Of the compressed files whose kind does not tell; empty for the others. None
            where there is no such shard.
        start, part: [n] int64, None where all are 0.
    """

    kinds: tuple[Kind, ...]
    kind: np.ndarray
    samples: np.ndarray
    raw_bytes: np.ndarray
    stored_bytes: np.ndarray
    names: Texts
    digests: Texts
    zip_names: Texts | None = None
    start: np.ndarray | None = None
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        arrays = [self.kind, self.samples, self.raw_bytes, self.stored_bytes, self.start, self.part]
        for texts in (self.names, self.digests, self.zip_names):
            arrays += [] if texts is None else [texts.data, texts.offsets]
        return sum(array.nbytes for array in arrays if array is not None)

    def slice(self, first: int, stop: int) -> Columns:
        """Return the shards of a range, which share this memory."""
        arrays = {name: getattr(self, name) for name in self.__slots__[1:]}
        texts = {name: a for name, a in arrays.items() if isinstance(a, Texts)}
        cut: dict[str, Any] = {
            name: None if array is None else array[first:stop]
            for name, array in arrays.items()
            if name not in texts
        }
        for name, text in texts.items():
            cut[name] = Texts(text.data, text.offsets[first : min(stop, len(self)) + 1])
        return Columns(kinds=self.kinds, **cut)

    def take(self, rows: np.ndarray) -> Columns:
        """Return some shards, int64 [m] of any order."""
        return Columns(
            kinds=self.kinds,
            kind=self.kind[rows],
            samples=self.samples[rows],
            raw_bytes=self.raw_bytes[rows],
            stored_bytes=self.stored_bytes[rows],
            names=self.names.take(rows),
            digests=self.digests.take(rows),
            zip_names=None if self.zip_names is None else self.zip_names.take(rows),
            start=None if self.start is None else self.start[rows],
            part=None if self.part is None else self.part[rows],
        )

    def canonical(self) -> Columns:
        """Number the kinds by first appearance and drop columns that say nothing."""
        found, first, codes = np.unique(self.kind, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        kinds, kind = merge_kinds([self.kinds[i] for i in found[order].tolist()])
        numbered = kind[place[codes.reshape(-1)]] if len(self) else np.zeros(0, np.int64)
        zip_names = self.zip_names
        return replace(
            self,
            kinds=kinds,
            kind=narrow_codes(numbered, len(kinds)),
            zip_names=None if zip_names is None or not zip_names.used.size else zip_names,
            start=None if self.start is None or not self.start.any() else self.start,
            part=None if self.part is None or not self.part.any() else self.part,
        )

    def digest(self) -> str:
        """Return a name for all of it, 32 hexadecimal digits, equal however it was built."""
        columns = self.canonical()
        kinds = [kind.to_list() for kind in columns.kinds]
        state = xxhash.xxh3_128(json.dumps([len(self), kinds]).encode())
        _feed(state, columns.kind.astype("<u4"))
        none = np.zeros(0, np.int64)
        for name in ("samples", "raw_bytes", "stored_bytes", "start", "part"):
            array = getattr(columns, name)
            _feed(state, np.asarray(none if array is None else array, "<i8"))
            state.update(name.encode())
        for texts in (columns.names, columns.digests, columns.zip_names):
            if texts is not None:
                _feed(state, texts.lengths.astype("<i8"))
                _feed(state, texts.used)
        return state.hexdigest()


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Return the shards of all parts in a row."""
    if len(parts) == 1:
        return parts[0]
    kinds, codes = merge_kinds([kind for part in parts for kind in part.kinds])
    first = ends_of(np.array([len(part.kinds) for part in parts], np.int64)).tolist()
    moved = [codes[at:][part.kind] for at, part in zip(first, parts, strict=False)]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    def joined_if_any(name: str) -> np.ndarray | None:
        given = [getattr(part, name) for part in parts]
        if all(array is None for array in given):
            return None
        sizes = map(len, parts)
        filled = zip(given, sizes, strict=True)
        return np.concatenate([np.zeros(n, np.int64) if a is None else a for a, n in filled])

    zip_names = None
    if any(part.zip_names is not None for part in parts):
        zip_names = join_texts([part.zip_names or empty_texts(len(part)) for part in parts])
    return Columns(
        kinds=kinds,
        kind=narrow_codes(np.concatenate(moved), len(kinds)),
        samples=joined("samples"),
        raw_bytes=joined("raw_bytes"),
        stored_bytes=joined("stored_bytes"),
        names=join_texts([part.names for part in parts]),
        digests=join_texts([part.digests for part in parts]),
        zip_names=zip_names,
        start=joined_if_any("start"),
        part=joined_if_any("part"),
    )


def merge_kinds(kinds: Iterable[Kind]) -> tuple[tuple[Kind, ...], np.ndarray]:
    """Return the different kinds, and the place among them of each: int64."""
    places: dict[Kind, int] = {}
    codes = [places.setdefault(kind, len(places)) for kind in kinds]
    return tuple(places), np.array(codes, np.int64)


def empty_texts(count: int) -> Texts:
    """Return so many empty texts."""
    return Texts(np.zeros(0, np.uint8), np.zeros(count + 1, np.uint32))


def _feed(state: Any, array: np.ndarray) -> None:
    state.update(memoryview(np.ascontiguousarray(array).view(np.uint8)))  # type: ignore[arg-type]


def narrow_codes(codes: np.ndarray, num_kinds: int) -> np.ndarray:
    """Return codes below `num_kinds` as uint16 where they fit, else as uint32."""
    is_wide = num_kinds > 1 << 16 or (codes.size and int(codes.max()) >= 1 << 16)
    return codes.astype(np.uint32 if is_wide else np.uint16)
