# SPDX-License-Identifier: Apache-2.0
"""The command line as its users see it: every command with its options and arguments."""

import pytest


@pytest.fixture(scope="session")
def command_options() -> dict[str, list[str]]:
    """Map each command, such as "corpus local", to its sorted options and ARGUMENTS.

    The empty name has the options that stand before every command.
    """
    import typer
    from moot.trainer.cli import app

    found: dict[str, list[str]] = {}

    def walk(command, trail):
        children = getattr(command, "commands", {})
        for name, child in children.items():
            walk(child, (*trail, name))
        options = sorted(
            name if parameter.param_type_name == "option" else parameter.name.upper()
            for parameter in command.params
            for name in (*parameter.opts, *parameter.secondary_opts)
        )
        if options or not children:
            found[" ".join(trail)] = options

    walk(typer.main.get_command(app), ())
    return found
