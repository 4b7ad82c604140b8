# SPDX-License-Identifier: Apache-2.0
"""What an index may claim about shards, whatever text or table it comes from.

Sizes within bounds, names inside the corpus, encodings that are read here (`pkl` is not). Whole
columns are checked at once; the first shard that is wrong is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShardError
from .columns import Columns, Kind, Texts
from .compression import compression_level
from .encodings import fixed_size
from .index import MAX_SHARD_BYTES

_MAX_BYTES = 2**53  # of a shard of another format than MDS
_MAX_SAMPLES = 2**36
_MAX_DIGEST_BYTES = 1024
_CHECK_ROWS = 1 << 17  # checked together; all at once would take more memory than the index


def leaves_corpus(name: str) -> bool:
    """Tell whether the name of a file is empty, absolute, or leads out of the corpus."""
    is_odd = any(part in ("", ".", "..") for part in name.split("/"))
    return is_odd or "\\" in name or "\0" in name


def check_compression(where: str, compression: str) -> None:
    """Refuse a compression that is not read here, with a ShardError."""
    try:
        compression_level(compression)
    except ShardError as error:
        raise ShardError(f"{where}: {error}") from None


def check_columns(where: str, names: tuple, encodings: tuple, sizes: tuple, *, fixed: bool) -> None:
    """Refuse columns that do not fit each other, or are not read here.

    Args:
        where: The name for messages.
        names: Of the columns.
        encodings: As many.
        sizes: As many, None where variable.
        fixed: The sizes must be those of the encodings; else they may also be unknown.

    Raises:
        ShardError: It says which column and why.
    """
    are_texts = all(isinstance(text, str) for text in names + encodings)
    if not are_texts or not len(names) == len(encodings) == len(sizes) or not names:
        raise ShardError(f"{where}: names, encodings and sizes of the columns do not match")
    if len(set(names)) != len(names):
        raise ShardError(f"{where}: a column is named twice in {list(names)}")
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        try:
            expected = fixed_size(encoding)
        except ShardError as error:
            raise ShardError(f"{where}, column {name!r}: {error}") from None
        if size is None and not fixed:
            continue
        if size != expected or isinstance(size, bool):
            raise ShardError(
                f"{where}, column {name!r}: {encoding} has size {expected}, the index says {size!r}"
            )


def check_claims(where: str, columns: Columns) -> None:
    """Check the columns of an index that came as a table.

    Raises:
        ShardError: It says which shard and why.
    """
    for kind in columns.kinds:
        _check_kind(f"{where}, {kind.format} shards", kind)
    if columns.kind.size and int(columns.kind.max()) >= len(columns.kinds):
        raise ShardError(f"{where}: a shard is of no kind that is described; make it again")
    for first in range(0, len(columns), _CHECK_ROWS):
        _check_rows(where, columns.slice(first, first + _CHECK_ROWS), first)


def _check_rows(where: str, columns: Columns, first: int) -> None:
    _check_sizes(where, columns, first)
    kinds = columns.kinds
    sizes = [sum(size for _, size in (*kind.raw_hashes, *kind.zip_hashes)) for kind in kinds]
    lengths = columns.digests.lengths
    wrong = lengths != np.array(sizes, np.int64)[columns.kind]
    _refuse(where, first, wrong, lengths, "bytes of digests are not what its kind has")
    _check_names(where, first, columns.names, np.ones(len(columns), bool))
    listed = np.array([kind.zip_suffix == "" for kind in kinds], bool)[columns.kind]
    if columns.zip_names is not None:
        _check_names(where, first, columns.zip_names, listed)
    elif listed.any():
        raise ShardError(f"{where}: names of compressed files are missing; make it again")


def _check_kind(where: str, kind: Kind) -> None:
    from .formats import FORMATS

    if kind.format not in FORMATS:
        raise ShardError(f"{where}: unknown format; known are {', '.join(FORMATS)}")
    suffix, compression = kind.zip_suffix, kind.compression
    if suffix is not None and (not isinstance(suffix, str) or leaves_corpus(f"x{suffix}")):
        raise ShardError(f"{where}: the file name suffix {suffix!r} leaves the corpus")
    if compression is not None:
        if not isinstance(compression, str):
            raise ShardError(f"{where}: compression {compression!r} is not a text")
        check_compression(where, compression)
    if (compression is None) != (suffix is None) and kind.format == "mds":
        raise ShardError(f"{where}: compression {compression!r}, but file name suffix {suffix!r}")
    lists = (kind.column_names, kind.column_encodings, kind.column_sizes)
    if not all(isinstance(values, tuple) for values in lists):
        raise ShardError(f"{where}: its columns are no lists")
    check_columns(where, *lists, fixed=kind.format == "mds")
    for hashes in (kind.raw_hashes, kind.zip_hashes):
        if not isinstance(hashes, tuple) or not all(map(_is_hash, hashes)):
            raise ShardError(f"{where}: hashes must be texts, with the bytes of their digests")


def _is_hash(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
        return False
    return type(pair[1]) is int and 0 <= pair[1] <= _MAX_DIGEST_BYTES


def _check_sizes(where: str, columns: Columns, first: int) -> None:
    is_mds = np.array([kind.format == "mds" for kind in columns.kinds], bool)[columns.kind]
    raw, stored, samples = columns.raw_bytes, columns.stored_bytes, columns.samples
    most = np.where(is_mds, MAX_SHARD_BYTES, _MAX_BYTES)
    for size in (raw, stored):
        _refuse(where, first, (size < 0) | (size > most), size, "bytes is not the size of a shard")
    too_many = (samples < 0) | (samples > _MAX_SAMPLES) | (is_mds & (4 * (samples + 2) > raw))
    _refuse(where, first, too_many, samples, "samples cannot be in it")
    for values in (columns.start, columns.part):
        if values is not None:
            _refuse(
                where, first, (values < 0) | (values > _MAX_BYTES), values, "is no part of a file"
            )


def _refuse(where: str, first: int, is_wrong: np.ndarray, values: np.ndarray, why: str) -> None:
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise ShardError(f"{where}, shard {first + row}: {values[row]} {why}; make it again")


def _check_names(where: str, first: int, texts: Texts, is_used: np.ndarray) -> None:
    """Refuse names that lead out of the corpus; only those that might are looked at singly."""
    data, offsets = texts.used, texts.offsets - texts.offsets[0]
    suspect = np.diff(offsets) == 0
    filled = np.flatnonzero(~suspect)
    begins, ends = data[offsets[filled]], data[offsets[filled + 1] - 1]
    slash, dot = ord("/"), ord(".")
    suspect[filled[(begins == slash) | (begins == dot) | (ends == slash)]] = True
    inner = np.flatnonzero(data[:-1] == slash)
    after = data[inner + 1]
    odd = (inner[(after == slash) | (after == dot)], np.flatnonzero(data == ord("\\")))
    places = np.concatenate([*odd, np.flatnonzero(data == 0)])
    suspect[np.searchsorted(offsets, places, side="right") - 1] = True
    for row in np.flatnonzero(suspect & is_used).tolist():
        name = texts[row].decode("utf-8")
        if leaves_corpus(name):
            raise ShardError(
                f"{where}, shard {first + row}: the file name {name!r} leaves the corpus; refused"
            )
