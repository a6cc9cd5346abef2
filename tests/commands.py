"""The commands of `ringpull` as the command line has them: each one's parameters, with their options and defaults."""

from __future__ import annotations

from typing import Any

import typer.main

from ringpull.deploy.cli import COMMANDS_OF, app

GROUP: Any = typer.main.get_command(app)
_CONTEXT = GROUP.make_context("ringpull", [], resilient_parsing=True)


def _own_commands(name: str) -> dict[str, Any]:
    command = GROUP.get_command(_CONTEXT, name)
    if name not in COMMANDS_OF:
        return {name: command}
    return {f"{name} {each}": command.get_command(_CONTEXT, each) for each in command.list_commands(_CONTEXT)}


COMMANDS: dict[str, Any] = {
    full_name: command for name in GROUP.list_commands(_CONTEXT) for full_name, command in _own_commands(name).items()
}
"""Commands by name, in the order of the help; `import onnx` and its like, which are commands of a command, too."""
