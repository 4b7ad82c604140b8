# SPDX-License-Identifier: Apache-2.0
"""The public surface, name by name. A change here is a change for users: list it in the commit."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path

import moot.loader
import pytest

ROOT = Path(__file__).parents[2]
NAMES = {
    "moot.triton_kernels": {
        "AgentTables",
        "DocumentScores",
        "NgramModel",
        "Selection",
        "document_scores",
        "select",
    },
    "moot.loader": {
        "AgentError",
        "AgentSet",
        "ConfigError",
        "Console",
        "ConsoleConfig",
        "Loader",
        "LoaderConfig",
        "MootError",
        "ProbeBatch",
        "ShardError",
        "StateError",
        "StorageError",
    },
    "moot.trainer": set(),
}
PACKAGES = {
    "moot.loader",
    "moot.loader.agents",
    "moot.loader.batches",
    "moot.loader.console",
    "moot.loader.corpus",
    "moot.loader.label",
    "moot.loader.ledger",
    "moot.loader.order",
    "moot.loader.prefetch",
    "moot.loader.probes",
    "moot.loader.shards",
    "moot.loader.storage",
    "moot.trainer",
    "moot.trainer.corpora",
    "moot.trainer.feedback",
    "moot.trainer.report",
    "moot.triton_kernels",
    "moot.triton_kernels.document_scores",
    "moot.triton_kernels.select",
}
COMMANDS: dict[str, set[str]] = {}
IS_EDITABLE = Path(moot.loader.__file__).is_relative_to(ROOT / "loader")


@pytest.mark.parametrize("module", NAMES)
def test_public_names_are_these(module):
    package = importlib.import_module(module)
    assert set(package.__all__) == NAMES[module]
    assert all(hasattr(package, name) for name in package.__all__)


def test_sub_packages_are_these():
    found = set()
    for top in ("loader", "triton_kernels", "trainer"):
        package = importlib.import_module(f"moot.{top}")
        found.add(package.__name__)
        walk = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        found |= {module.name for module in walk if module.ispkg}
    assert found == PACKAGES


@pytest.mark.skipif(IS_EDITABLE, reason="an editable install sees the repository's root as moot")
def test_the_wheel_holds_three_packages_and_no_more():
    import moot

    assert {module.name for module in pkgutil.iter_modules(moot.__path__)} == {
        "loader",
        "triton_kernels",
        "trainer",
    }
    for name in ("tests", "csrc", "benchmarks", "examples"):
        assert importlib.util.find_spec(f"moot.{name}") is None
    assert getattr(moot, "__file__", None) is None, "moot is a namespace package"


def test_command_line_is_this(command_options):
    assert {name: set(options) for name, options in command_options.items()} == COMMANDS
