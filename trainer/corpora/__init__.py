# SPDX-License-Identifier: Apache-2.0
"""Corpora: text found on this machine, or a user's own, written as shards into a bucket."""

from .build import CorpusConfig, read_meta
from .inspect import inspect_corpus
from .local import LocalConfig, build_local
from .roots import DOMAINS, Root, find_roots
from .text import TextConfig, build_text

__all__ = [
    "DOMAINS",
    "CorpusConfig",
    "LocalConfig",
    "Root",
    "TextConfig",
    "build_local",
    "build_text",
    "find_roots",
    "inspect_corpus",
    "read_meta",
]
