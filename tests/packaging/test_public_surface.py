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
        "CentroidBank",
        "DocumentScores",
        "HeadInfluence",
        "LogRatioTable",
        "NgramModel",
        "Novelty",
        "PackedDocuments",
        "Quotas",
        "Selection",
        "document_scores",
        "gather_documents",
        "log_ratio_table",
        "ngram_counts",
        "ngram_log_ratio",
        "novelty",
        "gradient_sketch",
        "head_influence",
        "select",
        "sequence_loss",
        "sketch_projection",
        "token_losses",
    },
    "moot.loader": {
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
    },
    "moot.trainer": set(),  # its modules are named one by one: model, feedback, train, ...
    "moot.trainer.feedback": {
        "Feedback",
        "FeedbackConfig",
        "GhostCapture",
        "Influence",
        "ReferenceGradient",
        "check_document_mask",
        "precondition",
    },
}
PACKAGES = {
    "moot.loader",
    "moot.loader.agents",
    "moot.loader.batches",
    "moot.loader.console",
    "moot.loader.convert",
    "moot.loader.corpus",
    "moot.loader.label",
    "moot.loader.ledger",
    "moot.loader.order",
    "moot.loader.prefetch",
    "moot.loader.probes",
    "moot.loader.schedule",
    "moot.loader.shards",
    "moot.loader.storage",
    "moot.trainer",
    "moot.trainer.corpora",
    "moot.trainer.feedback",
    "moot.trainer.report",
    "moot.triton_kernels",
    "moot.triton_kernels.document_scores",
    "moot.triton_kernels.gather_documents",
    "moot.triton_kernels.ghost_influence",
    "moot.triton_kernels.gradient_sketch",
    "moot.triton_kernels.head_influence",
    "moot.triton_kernels.ngram_log_ratio",
    "moot.triton_kernels.novelty",
    "moot.triton_kernels.select",
    "moot.triton_kernels.sequence_loss",
}
COMMANDS = {
    "": "--debug",
    "corpus local": "--out --size --seed --degraded-share --vocab-size "
    "--text-column --no-text-column --force",
    "corpus text": "PATHS --out --text-column --source-column --id-column --reference --heldout "
    "--size --seed --degraded-share --vocab-size --keep-text --no-keep-text --force",
    "convert": "SOURCE TARGET --to --format --compression --hashes --size-limit --workers "
    "--columns --tokenizer --text-column --eod --files --dtype --sample-tokens --drop-empty "
    "--verify --no-verify --force",
    "index": "URL --format --columns --files --dtype --sample-tokens --labels --length-of "
    "--tokenizer --eod",
    "fit": "CORPUS --seed --num-topics --force",
    "doctor": "URL --option",
    "label": "CORPUS",
    "inspect": "URL",
    "train": "--config --out --seed",
    "report": "RUN",
    "demo": "--out --seed --steps --size",
}
IS_EDITABLE = Path(moot.loader.__file__).is_relative_to(ROOT / "loader")


@pytest.mark.parametrize("module", NAMES)
def test_public_names_are_these(module):
    package = importlib.import_module(module)
    names = getattr(package, "__all__", [])
    assert set(names) == NAMES[module]
    assert all(hasattr(package, name) for name in names)


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
    expected = {name: sorted(options.split()) for name, options in COMMANDS.items()}
    assert command_options == expected
