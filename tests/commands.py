"""The commands of `ringpull` as the command line has them: each one's parameters, with their options and defaults."""

from __future__ import annotations

from typing import Any

import typer.main

from ringpull.deploy.cli import app

GROUP: Any = typer.main.get_command(app)
_CONTEXT = GROUP.make_context("ringpull", [], resilient_parsing=True)

COMMANDS: dict[str, Any] = {name: GROUP.get_command(_CONTEXT, name) for name in GROUP.list_commands(_CONTEXT)}
"""Commands by name, in the order of the help."""
