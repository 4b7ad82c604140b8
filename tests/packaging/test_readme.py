# SPDX-License-Identifier: Apache-2.0
"""The README shows what is there: the example as it runs, every command, links that lead on."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)


def test_example_is_shown_verbatim():
    assert (ROOT / "examples" / "plain_loop.py").read_text() in blocks("python")


def test_commands_are_all_shown(command_options):
    shown = re.findall(r"^moot ((?:[a-z]+ ?)+)", "\n".join(blocks("")), re.M)
    assert {command.strip() for command in shown} == set(command_options) - {""}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    for link in links:
        if not link.startswith("https://"):
            assert ((ROOT / page).parent / link.split("#")[0]).exists(), f"{page}: {link}"


def test_example_settings_are_the_defaults():
    from moot.trainer.config import DataConfig, RunConfig

    path = ROOT / "examples" / "train.toml"
    run = RunConfig.from_toml(path)
    data = DataConfig(corpus=run.data.corpus)
    assert run == RunConfig(out=run.out, data=data), "a default changed: follow it in the example"
    settings = run.to_dict()
    keys = set(settings) | {
        key for value in settings.values() if type(value) is dict for key in value
    }
    shown = set(re.findall(r"[a-z0-9_]+", path.read_text()))
    assert keys <= shown
