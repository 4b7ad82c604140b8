# SPDX-License-Identifier: Apache-2.0
"""The reference and the held-out set: whole packages taken out of reach of the train set.

Packages are offered in seeded order to the set that lacks more, relative to its size; a package
that gives a document to one set gives none to any other. Large packages are not offered, so that
the train set keeps most of every domain.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping

from ...loader.errors import ConfigError
from .documents import Document, num_bytes, seeded_hash, water_fill
from .reader import Reader
from .roots import DOCSTRING, DOMAINS, SourceFile

# Docstrings per byte of Python code, to judge beforehand how much of them there is.
_DOCSTRING_YIELD = 0.1
# What both sets together may take of a domain.
_SIDES_SHARE = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is to be set aside; sizes in bytes of text."""

    domains: tuple[str, ...]
    reference_bytes: int
    heldout_bytes: int
    package_share: float
    seed: int


class Side:
    """The reference or the held-out set while packages are given to it."""

    def __init__(self, wanted: Mapping[str, float]) -> None:
        self.wanted = wanted
        self.lack = dict(wanted)
        self.packages: set[str] = set()
        self.documents: list[Document] = []

    @property
    def hunger(self) -> float:
        """Bytes still wanted, as a share of all wanted."""
        lack = sum(max(0.0, bytes_left) for bytes_left in self.lack.values())
        return lack / max(1.0, sum(self.wanted.values()))

    def take(self, package: str, files: Mapping[str, list[SourceFile]], reader: Reader) -> None:
        """Take what is wanted of a package, of each domain at most an eighth of what it needs."""
        for domain, listed in files.items():
            limit = min(self.lack[domain], max(self.wanted[domain] / 8, 4096.0))
            for file in listed:
                if limit <= 0:
                    break
                if (document := reader.read(file)) is None:
                    continue
                size = num_bytes(document.text)
                limit -= size
                self.lack[domain] -= size
                self.packages.add(package)
                self.documents.append(document)


def set_aside(
    files: Mapping[str, list[SourceFile]], request: Request, reader: Reader
) -> tuple[Side, Side]:
    """Give whole packages to the reference and the held-out set, in seeded order."""
    domains = request.domains
    sizes = {name: _package_sizes(files[name]) for name in domains}
    totals = {name: sum(sizes[name].values()) for name in domains}
    too_big = {
        package
        for name in domains
        for package, size in sizes[name].items()
        if size > request.package_share * totals[name]
    }
    by_package: dict[str, dict[str, list[SourceFile]]] = defaultdict(lambda: defaultdict(list))
    for name in domains:
        for file in files[name]:
            if file.package not in too_big:
                by_package[file.package][name].append(file)
    wanted = (request.reference_bytes, request.heldout_bytes)
    shares = _affordable(by_package, totals, sum(wanted))
    sides = tuple(
        Side({name: share * size / max(1, sum(wanted)) for name, share in shares.items()})
        for size in wanted
    )
    for package in sorted(by_package, key=lambda one: (seeded_hash(one, request.seed), one)):
        side = max(sides, key=lambda one: one.hunger)
        if side.hunger <= 0.0:
            break
        side.take(package, by_package[package], reader)
    for label, side, size in zip(("reference", "held-out"), sides, wanted, strict=True):
        _check_side(label, side, size)
    return sides[0], sides[1]


def _affordable(
    by_package: Mapping[str, Mapping[str, list[SourceFile]]],
    totals: Mapping[str, int],
    wanted: int,
) -> dict[str, float]:
    """Bytes per domain that both sets may take together, even where the text allows."""
    available: dict[str, float] = dict.fromkeys(totals, 0.0)
    for domains in by_package.values():
        for name, listed in domains.items():
            available[name] += sum(_text_size(file) for file in listed)
    limits = {name: min(available[name], totals[name]) * _SIDES_SHARE for name in totals}
    return water_fill(limits, wanted)


def _check_side(label: str, side: Side, size: int) -> None:
    """Refuse a set that holds less than half of what was asked for."""
    found = Counter[str]()
    for document in side.documents:
        found[DOMAINS[document.domain]] += num_bytes(document.text)
    if sum(found.values()) * 2 < size:
        listed = ", ".join(f"{name} {found[name] / 1e6:.2f} MB" for name in side.wanted)
        raise ConfigError(
            f"too little text for the {label} set: {size / 1e6:.2f} MB wanted, found {listed} in "
            "packages that can be spared; ask for a smaller --size, or install more packages"
        )


def _text_size(file: SourceFile) -> float:
    """Bytes of text to expect from a file, without opening it."""
    size = min(file.size_bytes, 1 << 16)
    return size * _DOCSTRING_YIELD if file.domain == DOCSTRING else size


def _package_sizes(files: list[SourceFile]) -> Counter[str]:
    """Bytes of files per package."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.package] += file.size_bytes
    return sizes
