# SPDX-License-Identifier: Apache-2.0
"""A corpus of a user's own text: JSONL, Parquet, plain text files, folders of them.

Each row or text file is a document; its *source* is a column, else the name of its file, and
sources are the corpus's domains. Reference and held-out documents come from the paths given for
them, else from a seeded split of the text itself. The text is held in memory until it is written.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...loader.errors import ConfigError
from .build import CorpusConfig, Progress, build_corpus, silent
from .documents import Document, Splits, cut_text, num_bytes, seeded_hash, text_id
from .tables import Columns, default_source, find_files, read_rows

_MAX_DOMAINS = 255
_OTHER = "other"
_REPORT_ROWS = 2048


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig(CorpusConfig):
    """Settings of `build_text`."""

    text_from: str = "text"
    """Column or JSON key that holds the text."""
    source_from: str | None = None
    """Column or key that names a document's source; None takes the file's name."""
    id_from: str | None = None
    """Column or key with a unique id; None takes the hash of the text."""
    reference: tuple[str, ...] = ()
    """Files and folders of the reference set; none: a seeded split."""
    heldout: tuple[str, ...] = ()
    """Files and folders of the held-out set; none: a seeded split."""
    paths: tuple[str, ...] = ()
    """Files and folders of the train set; `build_text` fills it in."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and what would tell copies from originals."""
        self.check()
        if self.id_from is not None and self.degraded_share > 0.0:
            raise ConfigError(
                f"id_from={self.id_from!r} with degraded_share={self.degraded_share}: the ids of "
                "degraded copies are hashes and would stand out; leave one of the two out"
            )


class _Row(NamedTuple):
    """A document before its source has a number."""

    text: str
    source: str
    id: str


def build_text(
    out_url: str,
    paths: Sequence[str | os.PathLike[str]],
    config: TextConfig,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Build a corpus from the given files and folders, or return the one that is there.

    Args:
        out_url: where the corpus goes; an earlier one of the same configuration is reused.
        paths: files (.jsonl, .parquet, .txt, .md, .rst; .gz, and .jsonl.zst) and folders of them.
        config: columns, sizes, seed.
        progress: called as progress(stage, done, total, detail).
        force: replace a corpus of another configuration.

    Returns:
        The contents of corpus.json; "reused" tells whether anything was built.

    Raises:
        ConfigError: no such file, column or text, or another corpus stands at `out_url`.
    """
    full = dataclasses.replace(
        config,
        paths=_absolute(paths),
        reference=_absolute(config.reference),
        heldout=_absolute(config.heldout),
    )
    report = progress or silent
    return build_corpus(out_url, full, lambda: _collect(full, report), report, force=force)


def _collect(config: TextConfig, progress: Progress) -> Splits:
    """Read all documents and split them."""
    reader = _Reader(config, progress)
    reference = reader.read_all(config.reference)
    heldout = reader.read_all(config.heldout)
    train = reader.read_all(config.paths)
    if not train:
        raise ConfigError(
            f"no document of at least {config.min_chars} characters in {_listed(config.paths)}; "
            f"skipped: {dict(reader.skipped) or 'nothing'}"
        )
    total = sum(num_bytes(row.text) for row in train)
    wanted = config.side_bytes(config.heldout_bytes, config.size_bytes or total)
    if not heldout and reference:
        reference, heldout = _take(reference, sum(num_bytes(row.text) for row in reference) / 2)
    elif not heldout:
        heldout, train = _take(train, wanted)
    if not reference:
        wanted = config.side_bytes(config.reference_bytes, config.size_bytes or total)
        reference, train = _take(train, wanted)
    clean_bytes = (config.size_bytes or total) * (1.0 - config.degraded_share)
    train, _ = _take(train, clean_bytes if config.size_bytes else float("inf"))
    if not (train and reference and heldout):
        raise ConfigError(
            f"{len(train)} train, {len(reference)} reference and {len(heldout)} held-out documents "
            f"from {_listed(config.paths)}: give more text, or --reference and --heldout paths"
        )
    domains = _domains([*train, *reference, *heldout])
    numbers = {name: position for position, name in enumerate(domains)}
    notes: dict[str, object] = {"split": "given" if config.reference else "seeded"}
    return Splits(
        domains,
        _documents(train, numbers),
        _documents(reference, numbers),
        _documents(heldout, numbers),
        reader.skipped,
        notes,
    )


def _absolute(paths: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Paths as corpus.json keeps them."""
    return tuple(os.path.abspath(path) for path in paths)


def _documents(rows: Sequence[_Row], numbers: dict[str, int]) -> list[Document]:
    """Number the sources; rare ones are `other`."""
    return [
        Document(row.text, numbers.get(row.source, numbers.get(_OTHER, 0)), row.source, row.id)
        for row in rows
    ]


def _take(rows: Sequence[_Row], size_bytes: float) -> tuple[list[_Row], list[_Row]]:
    """Cut rows, which are in seeded order, after `size_bytes` of text."""
    for position, row in enumerate(rows):
        if size_bytes <= 0:
            return list(rows[:position]), list(rows[position:])
        size_bytes -= num_bytes(row.text)
    return list(rows), []


def _domains(rows: Sequence[_Row]) -> tuple[str, ...]:
    """Names of the sources, sorted; the rarest beyond 255 go under `other`."""
    counts = Counter(row.source for row in rows)
    if len(counts) <= _MAX_DOMAINS:
        return tuple(sorted(counts))
    common = sorted(counts, key=lambda name: (-counts[name], name))[: _MAX_DOMAINS - 1]
    return (*sorted(set(common) - {_OTHER}), _OTHER)


class _Reader:
    """Files to rows: each text once, everything refused counted."""

    def __init__(self, config: TextConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress
        self.skipped: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.ids: set[str] = set()

    def read_all(self, paths: Sequence[str]) -> list[_Row]:
        """Read every document below the paths; returns them in seeded order."""
        rows: list[_Row] = []
        files = [file for path in paths for file in find_files(path)]
        for position, file in enumerate(files):
            for row in self._rows(file):
                rows.append(row)
                if len(rows) % _REPORT_ROWS == 0:
                    self.progress("read text", position, len(files), f"{len(rows)} documents")
        if files:
            self.progress("read text", len(files), len(files), f"{len(rows)} documents")
        return sorted(rows, key=lambda row: (seeded_hash(row.id, self.config.seed), row.id))

    def _rows(self, file: str) -> Iterator[_Row]:
        """Usable documents of one file."""
        config = self.config
        columns = Columns(config.text_from, config.source_from, config.id_from)
        place = default_source(file)
        for where, fields in read_rows(file, columns, config.min_chars, self.skipped):
            text = fields[config.text_from]
            if text is None:
                self.skipped["null"] += 1
                continue
            if not isinstance(text, str):
                raise ConfigError(
                    f"{where}: column {config.text_from!r} holds {type(text).__name__}, not text; "
                    "name another with --text-column"
                )
            row = self._row(where, text, fields, place)
            if row is not None:
                yield row

    def _row(self, where: str, text: str, fields: dict[str, Any], place: str) -> _Row | None:
        """One row, or None where the text is short or known."""
        config = self.config
        # A lone surrogate can stand in JSON; it has no bytes in UTF-8.
        text = cut_text(text.encode(errors="replace").decode())
        new_id = text_id(text)
        if len(text.strip()) < config.min_chars or new_id in self.seen:
            self.skipped["duplicate" if new_id in self.seen else "short"] += 1
            return None
        self.seen.add(new_id)
        own_id = str(fields[config.id_from]) if config.id_from else new_id
        if own_id in self.ids:
            raise ConfigError(f"{where}: id {own_id!r} stands twice; ids must be unique")
        self.ids.add(own_id)
        return _Row(text, str(fields[config.source_from]) if config.source_from else place, own_id)


def _listed(paths: Sequence[str]) -> str:
    """Paths for a message."""
    return ", ".join(paths) or "(no paths)"
