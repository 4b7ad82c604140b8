# SPDX-License-Identifier: Apache-2.0
"""What a conversion leaves at its destination, and what the next run finds there.

    convert.json           what conversion this is, and whether it is complete
    convert/00007.json     part 7 is written: its files, samples and digest; gone in the end
    00007/...              the shards of part 7
    index.json             of MDS, last: no reader sees an unfinished corpus

Nothing that a conversion did not write is ever deleted. One run at a time may write to a place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError, StorageError
from ..shards.index import INDEX_NAME
from ..shards.index_table import TABLE_NAME
from ..storage import MissingObjectError, Store
from .plan import Plan, check_same

PLAN_NAME = "convert.json"
MARKS = "convert"
_SHARD = r"shard\.\d{5,}\.(mds(\.\w+)?|parquet)"
_OWN = re.compile(
    rf"{MARKS}/\d{{5,}}\.json|(\d{{5,}}/)?index\.json|\d{{5,}}/{_SHARD}|{re.escape(TABLE_NAME)}"
)
_MARK = re.compile(rf"{MARKS}/\d{{5,}}\.json")
# How a folder holds an object that is being written; a killed process leaves it behind.
_STAGED = re.compile(rf"(?:{_OWN.pattern}|{PLAN_NAME})#\d+")
_NUM_DELETERS = 16

_WRITING, _COMPLETE, _CLEARING = "writing", "complete", "clearing"


@dataclass(frozen=True)
class Part:
    """What was written as one part.

    Attributes:
        samples: Written.
        dropped: Left out.
        digest: Of the contents of the samples; see `ContentDigest`.
        files: Names below the part's folder, with their bytes; without its index.
    """

    samples: int
    dropped: int
    digest: str
    files: dict[str, int]


class Destination:
    """The place a conversion writes to."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store = store
        self.plan = plan
        self.totals: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """Where it is."""
        return self.store.url

    def open(self, *, force: bool) -> bool:
        """Take the place, or find the conversion that was begun there; True if it is complete.

        Raises:
            ConfigError: Another conversion is there and `force` is not set.
            StorageError: Something else is there.
        """
        _sweep(self.store)
        record = self._read_record()
        if record is None:
            self._check_free()
        elif force or record.get("state") == _CLEARING:
            self._clear()
        else:
            check_same(self.url, record["plan"], self.plan.identity)
            if record["state"] == _COMPLETE:
                self.totals = record["totals"]
                self._delete_marks()
                return True
            return False
        self._put_record(_WRITING)
        return False

    def written(self, num_threads: int) -> dict[int, Part]:
        """Return the parts that are written and whose files are all there, in full length."""
        parts = [
            int(name.removeprefix(f"{MARKS}/").removesuffix(".json")) for name in self._marks()
        ]
        with ThreadPoolExecutor(num_threads, thread_name_prefix="moot-convert") as pool:
            found = zip(parts, pool.map(self._read_mark, parts), strict=True)
            return {part: mark for part, mark in found if mark is not None}

    def mark(self, part: int, written: Part) -> None:
        """Note that a part is written."""
        text = json.dumps(dataclasses.asdict(written), sort_keys=True)
        self.store.put(self._mark_name(part), text.encode("utf-8"))

    def unmark(self, part: int) -> None:
        """Note that a part is to be written again."""
        self.store.delete(self._mark_name(part))

    def part_store(self, part: int) -> Store:
        """Return the folder of a part."""
        return self.store.child(self.plan.name(part))

    def finish(self, totals: dict[str, Any]) -> None:
        """Note that all is done."""
        self.totals = totals
        self._put_record(_COMPLETE)
        self._delete_marks()

    def _mark_name(self, part: int) -> str:
        return f"{MARKS}/{self.plan.name(part)}.json"

    def _read_mark(self, part: int) -> Part | None:
        """Return what a mark says, None if it or what it stands for is broken."""
        try:
            mark = Part(**json.loads(self.store.get(self._mark_name(part))))
            sizes = dict(mark.files)
        except (ValueError, TypeError):
            return None
        folder = self.part_store(part)
        is_whole = all(_size(folder, name) == size for name, size in sizes.items())
        has_index = self.plan.identity["to"] != "mds" or folder.exists(INDEX_NAME)
        return mark if is_whole and has_index else None

    def _read_record(self) -> dict[str, Any] | None:
        if not self.store.exists(PLAN_NAME):
            return None
        try:
            record = json.loads(self.store.get(PLAN_NAME))
            if isinstance(record["plan"], dict) and record["state"] in {
                _WRITING, _COMPLETE, _CLEARING,
            }:  # fmt: skip
                return dict(record)
        except (ValueError, LookupError, TypeError):
            pass
        raise StorageError(f"{self.url}/{PLAN_NAME} is not what a conversion writes; delete it")

    def _put_record(self, state: str) -> None:
        record = {"plan": self.plan.identity, "state": state, "totals": self.totals}
        self.store.put(PLAN_NAME, json.dumps(record, sort_keys=True, indent=1).encode("utf-8"))

    def _check_free(self) -> None:
        if not (names := _names(self.store)):
            return
        what = "a corpus" if INDEX_NAME in names else f"{len(names)} objects, such as {names[0]}"
        raise ConfigError(f"{self.url} holds {what}, no conversion; choose an empty place")

    def _clear(self) -> None:
        """Delete all that a conversion wrote; a run that is killed meanwhile clears again."""
        names = [name for name in self.store.list() if name != PLAN_NAME]
        if foreign := [name for name in names if not _OWN.fullmatch(name)]:
            raise ConfigError(
                f"{self.url} also holds {len(foreign)} objects that no conversion wrote, such as "
                f"{foreign[0]}; delete them first"
            )
        self._put_record(_CLEARING)
        for name in (TABLE_NAME, INDEX_NAME):
            self.store.delete(name)
        self._delete(names)

    def _marks(self) -> list[str]:
        return [name for name in self.store.list(f"{MARKS}/") if _MARK.fullmatch(name)]

    def _delete_marks(self) -> None:
        self._delete(self._marks())
        if (folder := _folder(self.store)) is not None:
            with contextlib.suppress(OSError):  # not there, or something else lies in it
                (folder / MARKS).rmdir()

    def _delete(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(_NUM_DELETERS, thread_name_prefix="moot-convert") as pool:
            list(pool.map(self.store.delete, names))


def _size(store: Store, name: str) -> int | None:
    try:
        return store.head(name)
    except MissingObjectError:
        return None


def _folder(store: Store) -> Path | None:
    """Return the folder a store stands for, None for a bucket."""
    parts = urlsplit(store.url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _names(store: Store) -> list[str]:
    folder = _folder(store)
    return [] if folder is not None and not folder.exists() else store.list()


def _sweep(store: Store) -> None:
    """Remove what a killed run was writing into a folder; buckets keep no such thing."""
    folder = _folder(store)
    if folder is None or not folder.is_dir():
        return
    for path in folder.rglob("*#*"):
        if _STAGED.fullmatch(path.relative_to(folder).as_posix()):
            path.unlink(missing_ok=True)
