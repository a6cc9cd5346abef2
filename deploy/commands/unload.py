"""`ringpull unload`: serve a model no more; the others serve on."""

from __future__ import annotations

from typing import Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line


@with_credentials
def unload(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model no more, with all its versions and labels.

    Requests in flight are answered; later ones get NOT_FOUND. Its files stay where they are, so `ringpull load` brings
    it back. The last model stays: `ringpull stop` ends the deployment.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.view.change_watch import change_fields, follow
    from ringpull.router.control.operations import UnloadModel

    with StopSignals(), connect(served.resolve_target(target)) as operations:
        done = follow(operations, operations.call(UnloadModel(model=model)), err)
    if as_json:
        print_json(change_fields(done))
    else:
        print_line(f"{done.subject} is served no more")
