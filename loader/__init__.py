# SPDX-License-Identifier: Apache-2.0
"""Stream a corpus from a bucket as batches that a console of agents may select."""

from .agents import AgentInfo, AgentSet
from .config import LoaderConfig
from .console import Console, ConsoleConfig, Policy
from .corpus import Corpus, Stream, open_corpus
from .errors import AgentError, ConfigError, MootError, ShardError, StateError, StorageError
from .loader import Loader
from .probes import ProbeBatch

__all__ = [
    "AgentError",
    "AgentInfo",
    "AgentSet",
    "ConfigError",
    "Console",
    "ConsoleConfig",
    "Corpus",
    "Loader",
    "LoaderConfig",
    "MootError",
    "Policy",
    "ProbeBatch",
    "ShardError",
    "StateError",
    "StorageError",
    "Stream",
    "open_corpus",
]
