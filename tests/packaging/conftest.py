# SPDX-License-Identifier: Apache-2.0
"""The command line as its users see it: every command with its options and arguments."""

import pytest


@pytest.fixture(scope="session")
def command_options() -> dict[str, list[str]]:
    """Map each command, such as "corpus local", to its sorted options and ARGUMENTS."""
    import typer
    from moot.trainer.cli import app

    found: dict[str, list[str]] = {}

    def walk(command, trail):
        if children := getattr(command, "commands", None):
            for name, child in children.items():
                walk(child, (*trail, name))
            return
        found[" ".join(trail)] = sorted(
            name if parameter.param_type_name == "option" else parameter.name.upper()
            for parameter in command.params
            for name in (*parameter.opts, *parameter.secondary_opts)
        )

    walk(typer.main.get_command(app), ())
    return found
