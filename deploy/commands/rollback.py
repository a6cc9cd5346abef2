"""`ringpull rollback`: make an older version of a model, still open, the live one again."""

from __future__ import annotations

from typing import Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import MAX_VERSION, RANGE


@with_credentials
def rollback(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int | None, typer.Argument(help="Default: the newest open version below the live one.")] = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Go back to an older version of a model that is still open: at once, nothing is loaded.

    How many stay open is `--keep` of `serve` and `publish`; `ringpull status` lists them.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.view.change_watch import change_fields, follow
    from ringpull.router.control.operations import Rollback

    if "/" in model:  # as `publish` has it
        raise InvalidInput(f"{model!r:.200}: write NAME VERSION, with a blank between them, or NAME alone")
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise InvalidInput(f"version is {version}; it must be {RANGE}")
    with StopSignals(), connect(served.resolve_target(target)) as operations:
        done = follow(operations, operations.call(Rollback(model=model, version=version or 0)), err)
    if as_json:
        print_json(change_fields(done))
    else:
        print_line(f"{done.subject} is live")
