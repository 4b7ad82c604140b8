# SPDX-License-Identifier: Apache-2.0
"""The errors users meet: each message says what is wrong, where, and what to do."""


class MootError(Exception):
    """The base of every error that the world, not a bug, can cause."""


class StorageError(MootError):
    """A bucket could not be reached, read or written."""


class ShardError(MootError):
    """A shard, or the index that names it, does not hold what it claims."""


class StateError(MootError):
    """A saved state does not fit, or feedback arrived for a step that has passed."""


class AgentError(MootError):
    """An agent is missing, not fitted, or does not fit the corpus."""


class ConfigError(MootError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""
