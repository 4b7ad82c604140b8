# SPDX-License-Identifier: Apache-2.0
"""A corpus of real text from what lies on this machine.

Files come from `roots.list_files` in seeded order. First the reference and held-out sets take
whole packages, then the train set takes what is left, all domains alike as far as their text goes.
The same files, configuration and seed give the same corpus, byte for byte. Source: docs/corpus.md.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ...loader.errors import ConfigError
from .build import CorpusConfig, Progress, build_corpus, silent
from .documents import Document, Splits, num_bytes
from .reader import Reader
from .roots import DOMAINS, ROOT_KINDS, Root, SourceFile, find_roots, list_files
from .sides import Request, set_aside


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LocalConfig(CorpusConfig):
    """Settings of `build_local`; sizes count bytes of text."""

    size_bytes: int = 60_000_000
    """Bytes of text in the train set, degraded copies included."""
    degraded_share: float = 0.25
    """Share of the train documents that are degraded copies, in [0, 0.5]."""
    reference_domains: tuple[str, ...] = ("python", "docs", "docstring")
    """What the model should become good at: domains of the reference and held-out sets."""
    package_share: float = 0.05
    """A package with more than this share of a reference domain's files stays in the train set."""
    roots: tuple[Root, ...] | None = None
    """Folders to walk; None finds them on this machine."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be met."""
        self.check()
        if not 0.0 < self.package_share <= 1.0:
            raise ConfigError(f"package_share={self.package_share}: must lie in (0, 1]")
        unknown = sorted(set(self.reference_domains) - set(DOMAINS))
        if unknown or not self.reference_domains:
            raise ConfigError(
                f"reference_domains={list(self.reference_domains)}: choose from {list(DOMAINS)}"
            )
        for root in self.roots or ():
            if root.kind not in ROOT_KINDS:
                raise ConfigError(f"root {root.path}: kind {root.kind!r} is not in {ROOT_KINDS}")


def build_local(
    out_url: str, config: LocalConfig, progress: Progress | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Build a corpus from this machine's text, or return the one that is there.

    Args:
        out_url: where the corpus goes; an earlier one of the same configuration is reused.
        config: sizes, seed, roots.
        progress: called as progress(stage, done, total, detail).
        force: replace a corpus of another configuration.

    Returns:
        The contents of corpus.json; "reused" tells whether anything was built.

    Raises:
        ConfigError: too little text, or another corpus stands at `out_url`.
    """
    report = progress or silent
    return build_corpus(out_url, config, lambda: collect_local(config, report), report, force=force)


def collect_local(config: LocalConfig, progress: Progress) -> Splits:
    """Read the documents of all splits; raises ConfigError where there is too little text."""
    roots = config.roots or find_roots()
    progress("list files", 0, None, f"{len(roots)} folders")
    files = list_files(roots, config.seed)
    progress("list files", 1, 1, f"{sum(map(len, files.values()))} files")
    reader = Reader(config.min_chars)
    request = Request(
        config.reference_domains,
        config.side_bytes(config.reference_bytes, config.size_bytes),
        config.side_bytes(config.heldout_bytes, config.size_bytes),
        config.package_share,
        config.seed,
    )
    progress("set aside", 0, None, "reference and held-out packages")
    sides = set_aside(files, request, reader)
    progress("set aside", 1, 1, " and ".join(f"{len(side.packages)} packages" for side in sides))
    taken = {package for side in sides for package in side.packages}
    kept = {
        name: [file for file in listed if file.package not in taken]
        for name, listed in files.items()
    }
    train = _fill_train(kept, config, reader, progress)
    reference, heldout = (side.documents for side in sides)
    notes: dict[str, object] = {
        "split": "packages",
        "roots": [list(root) for root in roots],
        "reference_packages": sorted(sides[0].packages),
        "heldout_packages": sorted(sides[1].packages),
    }
    return Splits(DOMAINS, train, reference, heldout, reader.skipped, notes)


class _Stream:
    """One domain of the train set: files read in order until a level of bytes is reached.

    A package beyond its share waits until the rest of the domain is used up.
    """

    def __init__(self, files: list[SourceFile], package_limit: float, reader: Reader) -> None:
        self.reader = reader
        self.documents: list[Document] = []
        self.size_bytes = 0
        self.is_dry = False
        self._files = self._in_turn(files, package_limit)
        self._of_package: Counter[str] = Counter()

    def fill(self, level: float) -> None:
        """Read until `level` bytes are there or the domain is dry."""
        while self.size_bytes < level and not self.is_dry:
            if (file := next(self._files, None)) is None:
                self.is_dry = True
            elif (document := self.reader.read(file)) is not None:
                size = num_bytes(document.text)
                self.size_bytes += size
                self._of_package[file.package] += size
                self.documents.append(document)

    def _in_turn(self, files: list[SourceFile], limit: float) -> Iterator[SourceFile]:
        """Files in order; those of a package beyond the limit after all others."""
        waiting = []
        for file in files:
            if self._of_package[file.package] < limit:
                yield file
            else:
                waiting.append(file)
        yield from waiting


def _fill_train(
    files: Mapping[str, list[SourceFile]],
    config: LocalConfig,
    reader: Reader,
    progress: Progress,
) -> list[Document]:
    """Read clean train documents, all domains to one level except those that run dry."""
    wanted = round(config.size_bytes * (1.0 - config.degraded_share))
    limit = wanted / len(DOMAINS) / 5
    streams = {name: _Stream(files[name], limit, reader) for name in DOMAINS}
    while (found := sum(stream.size_bytes for stream in streams.values())) < wanted:
        wet = [stream for stream in streams.values() if not stream.is_dry]
        if not wet:
            break
        dry_bytes = sum(stream.size_bytes for stream in streams.values() if stream.is_dry)
        for stream in wet:
            stream.fill((wanted - dry_bytes) / len(wet))
            done = sum(one.size_bytes for one in streams.values())
            progress("read text", min(done, wanted), wanted, f"{done / 1e6:.1f} MB")
    if found < 0.9 * wanted:
        listed = ", ".join(f"{name} {one.size_bytes / 1e6:.2f}" for name, one in streams.items())
        most = found / wanted * config.size_bytes / 1e6
        raise ConfigError(
            f"too little text: {wanted / 1e6:.2f} MB of clean text wanted, {found / 1e6:.2f} MB "
            f"found (MB per domain: {listed}); ask for --size {most:.1f}MB or less, or install "
            "more packages"
        )
    return [document for stream in streams.values() for document in stream.documents]
