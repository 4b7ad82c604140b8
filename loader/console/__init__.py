# SPDX-License-Identifier: Apache-2.0
"""The console: combines the agents' votes, credits agents with rewards, publishes policies.

`config` has the settings, `console` the object, `policy` what is in force when, and one file each
the ways of updating: `default`, `published`, `fixed`; `table` is a policy over stored labels.
"""

from .config import ConsoleConfig
from .console import Console
from .policy import Policy
from .table import acceptance, cell_scores

__all__ = ["Console", "ConsoleConfig", "Policy", "acceptance", "cell_scores"]
