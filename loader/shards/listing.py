# SPDX-License-Identifier: Apache-2.0
"""What foreign formats share in finding their files: names, and the options of a format.

Files are those that the option `files` names, or else those of the right ending anywhere below the
store, sorted; hidden ones (a part of the name begins with `.` or `_`) are left out, as every reader
of such folders does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ShardError
from ..storage import Store

# Files that lie beside shards and hold no samples.
BESIDE = ("labels.parquet", "moot.index.parquet", "truth.parquet")


def find_files(store: Store, options: Mapping[str, Any], endings: Sequence[str]) -> list[str]:
    """Return the names of the files of a format; in the order of the option `files` if it is given.

    Raises:
        ShardError: A name in `files` leaves the store, or a web server would have to be listed.
        StorageError: The store cannot be listed.
    """
    if "files" not in options:
        return [name for name in _names(store) if is_of(name, endings) and not _is_hidden(name)]
    return [name for name in texts_of(store.url, "files", options["files"]) if is_of(name, endings)]


def is_of(name: str, endings: Sequence[str]) -> bool:
    """Tell whether a name has one of the endings and is a proper name below a store.

    Raises:
        ShardError: It is absolute or has `..` in it.
    """
    if not name.endswith(tuple(endings)):
        return False
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ShardError(f"the file name {name!r} leaves the corpus; it is refused")
    return True


def texts_of(where: str, option: str, value: Any) -> list[str]:
    """Return a list of texts, given as such or as one text with commas.

    Raises:
        ShardError: It is something else, or a text occurs twice.
    """
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ShardError(f"{where}: option {option!r} is {value!r}; give texts, or one with commas")
    texts = [text.strip() for text in texts]
    if len(set(texts)) != len(texts) or not all(texts):
        raise ShardError(f"{where}: option {option!r} names something twice or nothing: {texts}")
    return texts


def whole_number(where: str, options: Mapping[str, Any], option: str, default: int) -> int:
    """Return an option that is a positive whole number.

    Raises:
        ShardError: It is not.
    """
    value = options.get(option, default)
    text = str(value)
    if not text.isdecimal() or int(text) < 1:
        raise ShardError(f"{where}: option {option!r} is {value!r}; give a whole number from 1 on")
    return int(text)


def check_options(
    where: str, format_name: str, options: Mapping[str, Any], known: Sequence[str]
) -> None:
    """Refuse an option that a format does not have.

    Raises:
        ShardError: It is unknown; the nearest known one is named.
    """
    for name in options:
        if name in known:
            continue
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ShardError(f"{where}: {format_name} shards have no option {name!r}; {hint}")


def _names(store: Store) -> list[str]:
    if store.url.startswith(("http://", "https://")):
        raise ShardError(
            f"{store.url}: a web server cannot be listed, and no index was found there; name the "
            "files by the option 'files'"
        )
    return store.list()


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] in BESIDE or any(part.startswith((".", "_")) for part in parts)
