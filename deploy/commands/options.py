"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

Target = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="gRPC of the deployment; default: the last one served from here."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, for programs.")]
