"""`ringpull publish`: make a new version of a model the live one, without a failed request."""

from __future__ import annotations

from typing import Annotated

import typer

from ringpull.deploy import served
from ringpull.deploy.commands.options import AsJson, Target, TrustFiles, with_credentials
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import err, print_json, print_line
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import RANGE, version_number


@with_credentials
def publish(
    version: Annotated[
        str, typer.Argument(metavar="NAME/VERSION", help="NAME alone: the highest complete version of the model.")
    ],
    folder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL_DIR",
            help="The model's folder, as the actors see it, or its URL. Default: the live version's.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(metavar="K", help="Versions that stay open behind the live one. Default: as `serve` was told."),
    ] = None,
    trust_files: TrustFiles = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Make a version of a model the live one, on all heads and shards at once.

    It is opened and checked everywhere first; if anything is wrong with it, it never goes live, and the old version
    serves on. Each shard reads the rows that it is to own, unless they were read before and their files are the same.
    Requests in flight finish on the old one, which stays open for `ringpull rollback`.
    """
    from ringpull.deploy.coordinator_client import connect
    from ringpull.deploy.model_folders import absolute
    from ringpull.deploy.view.change_watch import change_fields, follow
    from ringpull.router.control.operations import Publish

    model, number = parse_version(version)
    if keep is not None and keep < 0:
        raise InvalidInput(f"--keep is {keep}; it must be 0 or more")
    request = Publish(
        model=model,
        version=number,
        folder="" if folder is None else absolute(folder),
        keep=keep,
        trust_files=trust_files,
    )
    with StopSignals(), connect(served.resolve_target(target)) as operations:
        done = follow(operations, operations.call(request), err)
    if as_json:
        print_json(change_fields(done))
    else:
        print_line(f"{done.subject} is live")


def parse_version(text: str) -> tuple[str, int]:
    """Read `NAME/VERSION` or `NAME`; the version is 0 where there is none.

    Raises:
        InvalidInput: It is neither.
    """
    model, slash, number = text.partition("/")
    version = version_number(number)
    if not model or (slash and not version):
        raise InvalidInput(f"{text!r:.200}: write NAME/VERSION, VERSION an integer {RANGE}, or NAME")
    return model, version
