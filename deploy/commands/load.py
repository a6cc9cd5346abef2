"""`ringpull load`: serve another model, beside those that are served, without a failed request."""

from __future__ import annotations

from typing import Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, TrustFiles, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import MAX_VERSION, RANGE


@with_credentials
def load(
    model_dir: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_DIR",
            help="The model's folder NAME/, with NAME/VERSION/ in it, as the actors see it; or its URL.",
        ),
    ],
    version: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION",
            help="Version to serve, and to stay with: `serve --watch` publishes no other."
            " Default: the highest complete one.",
        ),
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE=R", help="Copies of a table: a number, or `all`. Default: as exported. Repeatable."
        ),
    ] = None,
    trust_files: TrustFiles = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Serve another model on a running deployment.

    It is opened and checked on all shards and heads first; if anything is wrong with it, nothing changes. Other models
    answer on meanwhile. Models come from folders that `serve --models-root` allows. What is served so already is left
    as it is; another version of a served model is published (`ringpull publish`). One that was loaded with --version
    stays with it, also where `serve --watch` looks for newer ones, until `ringpull publish NAME` takes the newest.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.model_folders import absolute, parse_replicas
    from ringpull.deploy.view.change_watch import change_fields, follow
    from ringpull.router.control.operations import LoadModel

    if version is not None and not 1 <= version <= MAX_VERSION:
        raise InvalidInput(f"--version is {version}; it must be {RANGE}")
    request = LoadModel(
        folder=absolute(model_dir),
        version=version or 0,
        pinned=version is not None,
        replicas=dict(map(parse_replicas, replicas or ())),
        trust_files=trust_files,
    )
    with StopSignals(), connect(served.resolve_target(target)) as operations:
        done = follow(operations, operations.call(request), err)
    if as_json:
        print_json(change_fields(done))
    else:
        print_line(f"{done.subject} is live" if done.id else f"{done.subject} is live already")
