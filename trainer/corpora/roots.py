# SPDX-License-Identifier: Apache-2.0
"""Roots: the folders of this machine that hold text, and what each file in them is.

`find_roots` names the folders, `list_files` walks them: sorted by name, symbolic links not
followed, no root walked twice. A file's *domain* is the kind of text, its *package* the work it
belongs to (a distribution, a standard library module, a header folder, a system package), so that
a reference set can be kept apart from training text by package. Copies under a `_vendor` folder
belong to the package they were copied from.
"""

import os
import re
import site
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .documents import seeded_hash

DOMAINS = ("python", "header", "docs", "docstring", "manual", "data", "licence")
PYTHON, HEADER, DOCS, DOCSTRING, MANUAL, DATA, LICENCE = DOMAINS
ROOT_KINDS = ("stdlib", "site", "include", "doc", "man", "share", "licences")

_HEADER_SUFFIXES = (".h", ".hh", ".hpp", ".hxx", ".cuh", ".inl", ".ipp", ".tcc")
_DOCS_SUFFIXES = (".rst", ".md", ".txt")
_DATA_SUFFIXES = (".json", ".csv", ".xml", ".toml")
_LICENCE_NAME = re.compile(r"(licen[cs]e|copying|copyright|notice|authors|metadata|pkg-info)\b")
_CHANGES_NAME = re.compile(r"(changelog|changes|news|history)\b")
_VENDOR_FOLDERS = frozenset({"_vendor", "vendor", "vendored", "_vendored", "extern", "externals"})
# Site folders are roots of their own, also where one lies in another root that was given alone.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
# Our own distribution: its metadata changes with every build of the project.
_OWN_PACKAGE = "moot"


class Root(NamedTuple):
    """A folder to walk; `kind` is one of ROOT_KINDS and decides how its files are read."""

    path: str
    kind: str


class SourceFile(NamedTuple):
    """A file that may become a document of `domain`; files are taken in the order of `key`."""

    key: int
    path: str
    domain: str
    package: str
    size_bytes: int


def find_roots() -> tuple[Root, ...]:
    """Return the folders of text that exist on this machine, each once."""
    paths = sysconfig.get_paths()
    places = [("stdlib", paths["stdlib"])]
    places += [("site", path) for path in [paths["purelib"], paths["platlib"], *_site_folders()]]
    places += [("include", paths["include"]), ("include", "/usr/include")]
    places += [("doc", "/usr/share/doc"), ("man", "/usr/share/man")]
    places += [("licences", "/usr/share/common-licenses"), ("share", "/usr/share")]
    found: dict[str, Root] = {}
    for kind, place in places:
        path = os.path.realpath(place)
        if os.path.isdir(path):
            found.setdefault(path, Root(path, kind))
    return tuple(found.values())


def list_files(roots: Sequence[Root], seed: int) -> dict[str, list[SourceFile]]:
    """Return domain -> its files in seeded order; a Python file stands for code and docstrings."""
    files: dict[str, list[SourceFile]] = {name: [] for name in DOMAINS}
    barriers = frozenset(os.path.realpath(root.path) for root in roots)
    for root in roots:
        owners = _owners(root.path) if root.kind == "site" else {}
        for relative, size_bytes in _walk(root, barriers):
            package = _package_of(root.kind, relative, owners)
            if package == _OWN_PACKAGE:
                continue
            for domain in _domains_of(root.kind, relative):
                key = seeded_hash(f"{domain}/{root.kind}/{relative}", seed)
                path = os.path.join(root.path, relative)
                files[domain].append(SourceFile(key, path, domain, package, size_bytes))
    for listed in files.values():
        listed.sort()
    return files


def _site_folders() -> list[str]:
    """Site folders of this interpreter, and of the one below a virtual environment's."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = os.path.join(sys.base_prefix, "lib", version, "site-packages")
    return [*site.getsitepackages(), base, "/usr/lib/python3/dist-packages"]


def _walk(root: Root, barriers: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield (path below the root, size) of the regular files, sorted, other roots left out."""
    top = os.path.realpath(root.path)
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(os.path.join(top, folder)), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            relative = os.path.join(folder, entry.name)
            if entry.is_symlink() or entry.name.startswith("."):
                continue
            if entry.is_file(follow_symlinks=False):
                yield relative, entry.stat(follow_symlinks=False).st_size
            elif entry.name not in _SKIPPED_FOLDERS and entry.path not in barriers:
                pending.append(relative)


def _domains_of(kind: str, relative: str) -> tuple[str, ...]:
    """Domains a file stands for: none, one, or two for Python code."""
    name = os.path.basename(relative).lower()
    if kind in ("man", "licences"):
        return (MANUAL,) if kind == "man" else (LICENCE,)
    if kind == "doc":
        return _doc_domain(name)
    suffix = os.path.splitext(name)[1]
    if kind == "share":
        return (DATA,) if suffix in _DATA_SUFFIXES else ()
    if suffix == ".py":
        return (PYTHON, DOCSTRING)
    if suffix in _HEADER_SUFFIXES or (kind == "include" and not suffix):
        return (HEADER,)
    return _prose_domain(name, suffix)


def _doc_domain(name: str) -> tuple[str, ...]:
    """Domain of a file under /usr/share/doc."""
    plain = name.removesuffix(".gz")
    if _CHANGES_NAME.match(plain):
        return (MANUAL,)
    suffix = os.path.splitext(plain)[1]
    if not suffix and not _LICENCE_NAME.match(plain):
        return (DOCS,) if plain.isalpha() else ()
    return _prose_domain(plain, suffix)


def _prose_domain(name: str, suffix: str) -> tuple[str, ...]:
    """Domain of a file that is not code."""
    if suffix in _DATA_SUFFIXES:
        return (DATA,)
    if _LICENCE_NAME.match(name):
        return (LICENCE,)
    return (DOCS,) if suffix in _DOCS_SUFFIXES else ()


def _package_of(kind: str, relative: str, owners: dict[str, str]) -> str:
    """The package a file belongs to, named alike in every domain."""
    parts = relative.split(os.sep)
    for position, part in enumerate(parts[:-1]):
        if part.lower() in _VENDOR_FOLDERS:
            return _plain_name(parts[position + 1])
    if kind == "man":
        return _plain_name(re.split(r"[._-]", parts[-1])[0] or parts[-1])
    if kind == "include" and "linux-gnu" in parts[0] and len(parts) > 1:
        parts = parts[1:]
    return owners.get(parts[0]) or _plain_name(parts[0])


def _plain_name(part: str) -> str:
    """A folder's, file's or metadata folder's name without version and suffix, in one spelling."""
    if part.endswith((".dist-info", ".egg-info")):
        part = part.rpartition(".")[0].split("-")[0]
    stem = os.path.splitext(part)[0] or part
    return re.sub(r"[-_.]+", "-", stem).strip("-").lower().removeprefix("python3-") or stem


def _owners(path: str) -> dict[str, str]:
    """Map each top-level name of a site folder to its distribution.

    Distributions that share a folder (google, nvidia) are one package, named after that folder.
    """
    names_of: dict[str, list[str]] = {}
    users: dict[str, set[str]] = defaultdict(set)
    for folder in sorted(os.listdir(path)):
        if folder.endswith((".dist-info", ".egg-info")):
            names_of[folder] = [folder, *_top_names(os.path.join(path, folder))]
            for name in names_of[folder]:
                users[name].add(folder)
    shared = {name: _plain_name(name) for name, folders in users.items() if len(folders) > 1}
    owners: dict[str, str] = {}
    for folder, names in names_of.items():
        package = next((shared[name] for name in names if name in shared), _plain_name(folder))
        owners |= {name: shared.get(name, package) for name in names}
    return owners


def _top_names(folder: str) -> list[str]:
    """Top-level files and folders that a distribution's metadata claims, sorted."""
    names = set()
    for listing in ("RECORD", "top_level.txt"):
        try:
            with open(os.path.join(folder, listing), encoding="utf-8") as lines:
                names |= {re.split(r"[/,\n]", line, maxsplit=1)[0] for line in lines}
        except (OSError, UnicodeDecodeError):
            continue
    kept = {name for name in names if name and not name.startswith((".", '"'))}
    return sorted(name for name in kept - _SKIPPED_FOLDERS if not name.endswith(".dist-info"))
