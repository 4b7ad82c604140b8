# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON in memory: cut, counted, and parsed by Arrow into flat columns without the GIL.

A line that holds nothing but white space is no sample; every other one is exactly one object. That
it begins as one is checked first: Arrow 26 crashes on a file that begins with the line `null`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ShardError
from .arrow_columns import ColumnBuilder
from .encodings import scalar_dtype

PIECE_BYTES = 1 << 22  # parsed at once; a longer line makes a longer piece
_NEWLINE, _BRACE = b"\n{"
_BLANKS, _MARK = b" \t\r", b"\xef\xbb\xbf"


def count_lines(data: np.ndarray) -> int:
    """Return the lines of uint8 data that are not blank."""
    return len(_starts(data))


def without_mark(data: np.ndarray) -> np.ndarray:
    """Return the beginning of a file without the byte order mark that some editors put there."""
    return data[len(_MARK) :] if data[: len(_MARK)].tobytes() == _MARK else data


def parse_lines(
    where: str, data: np.ndarray, builders: Mapping[str, ColumnBuilder], schema: Any, start: int
) -> int:
    """Parse lines into columns; return how many there were.

    Args:
        where: The file, for messages.
        data: uint8, whole lines; the last newline may be missing.
        builders: The columns to fill, by the name of their field.
        schema: The Arrow schema of those fields.
        start: Where the lines begin in the file, for messages.

    Raises:
        ShardError: A line is no object, or lacks a field or has it of another type.
    """
    num = 0
    lines = without_mark(data) if start == 0 else data
    start += data.size - lines.size
    for piece in _pieces(lines):
        held = count_lines(piece)
        if held:
            table = _parse(piece, schema)
            if isinstance(table, str) or table.num_rows != held:
                row, at, reason = _find_bad(piece, schema)
                raise ShardError(
                    f"{where}, sample {num + row} (the line at byte {start + at}): {reason}; mend "
                    "it, then index the file again"
                )
            for name, builder in builders.items():
                builder.extend(table.column(name))
        num, start = num + held, start + piece.size
    return num


def arrow_type(encoding: str) -> Any:
    """Return the Arrow type that a field of an encoding is parsed as.

    Raises:
        ShardError: Fields of that encoding are not read.
    """
    import pyarrow

    if encoding == "str":
        return pyarrow.large_string()
    name, _, element = encoding.partition(":")
    dtype = scalar_dtype(element if name == "ndarray" else encoding)
    if dtype is None or dtype.name == "float16" or encoding == "int":
        raise ShardError(f"{encoding!r} is not read; use str, int64, float64, ndarray:int32 ...")
    kind = pyarrow.from_numpy_dtype(dtype)
    return pyarrow.list_(kind) if name == "ndarray" else kind


def _starts(data: np.ndarray) -> np.ndarray:
    """Return where the lines that are not blank begin, white space left out."""
    starts = np.concatenate(([0], np.flatnonzero(data == _NEWLINE) + 1))
    ends = np.append(starts[1:] - 1, data.size)
    starts, ends = starts[ends > starts], ends[ends > starts]
    is_odd = np.isin(data[starts], np.frombuffer(_BLANKS, np.uint8))  # begins with white space
    for i in np.flatnonzero(is_odd).tolist():
        line = data[starts[i] : ends[i]].tobytes().lstrip(_BLANKS)
        is_odd[i] = not line
        starts[i] = ends[i] - len(line)
    return starts[~is_odd]


def _pieces(data: np.ndarray) -> Iterator[np.ndarray]:
    """Cut data at newlines."""
    at = 0
    while at < data.size:
        end = at + PIECE_BYTES
        cut = _last_newline(data, at, end)
        while cut < 0 and end < data.size:
            end += end - at
            cut = _last_newline(data, at, end)
        stop = data.size if cut < 0 or end >= data.size else cut + 1
        yield data[at:stop]
        at = stop


def _last_newline(data: np.ndarray, start: int, stop: int) -> int:
    found = np.flatnonzero(data[start:stop] == _NEWLINE)
    return start + int(found[-1]) if found.size else -1


def _parse(piece: np.ndarray, schema: Any) -> Any:
    """Return a table, or the reason why there is none."""
    import pyarrow
    from pyarrow import json

    if (piece[_starts(piece)] != _BRACE).any():
        return "not an object"
    read = json.ReadOptions(use_threads=False, block_size=piece.size + 1)
    parse = json.ParseOptions(
        explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
    )
    try:
        source = pyarrow.BufferReader(pyarrow.py_buffer(piece))
        return json.read_json(source, read_options=read, parse_options=parse)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        return str(error).partition(" in row ")[0]


def _find_bad(piece: np.ndarray, schema: Any) -> tuple[int, int, str]:
    """Return the first line of a bad piece that is not one row, its first byte, and the reason."""
    starts = np.append(_starts(piece), piece.size)
    low, high = 0, starts.size - 1  # the lines before `low` are good, those before `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        part = _parse(piece[starts[low] : starts[middle]], schema)
        is_good = not isinstance(part, str) and part.num_rows == middle - low
        low, high = (middle, high) if is_good else (low, middle)
    reason = _parse(piece[starts[low] : starts[low + 1]], schema)
    reason = reason if isinstance(reason, str) else "several objects, or a part of one"
    return low, int(starts[low]), reason
