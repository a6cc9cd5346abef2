"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Final, TypeVar

import typer

from ringpull.deploy import command_credentials
from ringpull.inference.client.credentials import Credentials
from ringpull.ps.settings import Group

Command = TypeVar("Command", bound=Callable[..., None])

Target = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="gRPC of the deployment; default: the last one served from here."),
]
TrustFiles = Annotated[
    bool, typer.Option("--trust-files", help="Go live without reading the rows against their checksums.")
]
AllRows = Annotated[
    bool, typer.Option("--all", help="Show every table, not just the largest. With --json all are there anyway.")
]
Includes = Annotated[
    str | None,
    typer.Option(
        metavar="SHARD:STAMP,...",
        help="Stamp of the last push that the delta's rows have in them, as `push` returns it: later ones stay."
        " Default: that of the last one before the delta is opened.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, for programs.")]


def _option(name: str, text: str, metavar: str) -> Any:
    variable = f"RINGPULL_{name.upper()}"
    shown = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=metavar,
        help=f"{text} Default: {variable}.",
        rich_help_panel=Group.SECURITY,
    )
    return Annotated[str | None, shown]


CREDENTIALS: Final = {
    "tls_ca": _option("tls_ca", "CA that the deployment's certificate has to be of: speak TLS.", "FILE"),
    "tls_cert": _option("tls_cert", "Certificate to show, where the deployment demands one.", "FILE"),
    "tls_key": _option("tls_key", "Its key, not encrypted.", "FILE"),
    "token": _option(
        "token", "Token that says who asks. Others here see it in the list of processes: prefer the variable.", "TOKEN"
    ),
}
"""Parameter -> type of the options by which commands with `--target` say who they are."""


def with_credentials(command: Command) -> Command:
    """Return a command that also takes the options of `CREDENTIALS`, which `command_credentials.current` returns."""
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def run(*arguments: Any, **given: Any) -> None:
        shown = Credentials.given(**{name: given.pop(name, None) for name in CREDENTIALS}, options="--")
        with command_credentials.using(shown):
            command(*arguments, **given)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in CREDENTIALS.items()
    ]
    parameters = [*own.parameters.values(), *added]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run  # type: ignore[return-value]
