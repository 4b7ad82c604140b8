# SPDX-License-Identifier: Apache-2.0
"""Files of a user's own text, read row by row: JSONL, Parquet, plain text."""

import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from ...loader.errors import ConfigError
from .documents import SkippedError, read_text

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst")
_PARQUET = (".parquet",)
_PLAIN = (".txt", ".md", ".rst", ".text", ".txt.gz", ".md.gz", ".rst.gz")
_BATCH_ROWS = 1024


class Columns(NamedTuple):
    """Names of the columns, or JSON keys, to read."""

    text: str
    source: str | None = None
    id: str | None = None


def find_files(path: str) -> list[str]:
    """The files a path stands for, sorted."""
    known = _JSONL + _PARQUET + _PLAIN
    if os.path.isfile(path):
        if not path.endswith(known):
            raise ConfigError(f"{path}: not a kind of file this reads ({' '.join(known)})")
        return [path]
    if not os.path.isdir(path):
        raise ConfigError(f"{path}: no such file or folder")
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(known)]
    if not found:
        raise ConfigError(f"{path}: holds none of {' '.join(known)}")
    return found


def default_source(file: str) -> str:
    """Default source: the folder of a text file; the name of a table without part numbers."""
    folder, name = os.path.split(file)
    folder = os.path.basename(folder) or "text"
    if file.endswith(_PLAIN):
        return folder
    return re.sub(r"([-_.]?\d+)?([-_]of[-_]\d+)?$", "", name.split(".")[0]) or folder


def read_rows(
    file: str, columns: Columns, min_chars: int, skipped: Counter[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for messages, the columns asked for) of each document in a file.

    Args:
        file: one of those `find_files` returns.
        columns: the names to read; a text file has its folder for a source and its path for an id.
        min_chars: shorter text files are refused.
        skipped: counts refused text files by reason.

    Raises:
        ConfigError: not readable, or without one of the columns.
    """
    names = [name for name in columns if name is not None]
    if file.endswith(_PARQUET):
        yield from _parquet(file, names)
    elif file.endswith(_JSONL):
        yield from _jsonl(file, names)
    else:
        try:
            text = read_text(file, min_chars)
        except SkippedError as error:
            skipped[error.reason] += 1
            return
        extra = {columns.source: default_source(file), columns.id: file}
        yield file, {columns.text: text} | {name: extra[name] for name in names[1:]}


def _parquet(file: str, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _require(file, names, table.schema_arrow.names)
        row = 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            for fields in batch.to_pylist():
                yield f"{file} row {row}", fields
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{file}: not a readable Parquet file: {error}") from error


def _jsonl(file: str, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file, plain or compressed."""
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f'{where}: not a JSON object; each line is one, as {{"text": ...}}')
        _require(where, names, list(fields))
        yield where, fields


def _lines(file: str) -> Iterator[str]:
    """Lines of a text file; what cannot be read is an error that names it."""
    try:
        with _open_lines(file) as lines:
            yield from lines
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{file}: not readable as lines of UTF-8: {error}") from error


def _open_lines(file: str) -> IO[str]:
    """Open a text file for reading by lines, decompressed by its suffix."""
    if file.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8")
    if not file.endswith(".zst"):
        return open(file, encoding="utf-8")
    import pyarrow as pa

    return io.TextIOWrapper(pa.input_stream(file, compression="zstd"), encoding="utf-8")


def _require(where: str, names: list[str], found: list[str]) -> None:
    """Refuse a document without a column that was asked for."""
    for name in names:
        if name not in found:
            raise ConfigError(
                f"{where}: no column {name!r}; it has {', '.join(map(repr, found)) or 'none'} "
                "(--text-column, --source-column, --id-column name columns)"
            )
