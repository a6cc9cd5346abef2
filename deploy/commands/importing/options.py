"""Options that several commands of `ringpull import` have, so that they mean the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OutDir = Annotated[
    Path,
    typer.Argument(metavar="OUT_DIR", help="The model's folder; the version is written into OUT_DIR/VERSION/."),
]
Version = Annotated[int | None, typer.Option(help="Number of the version. Default: one above the highest there.")]
Check = Annotated[
    Path | None,
    typer.Option(
        metavar="ROWS.parquet",
        help="Rows of features that are scored by both before anything is written; columns called like an output are"
        " compared too.",
    ),
]
RowTypes = Annotated[
    list[str] | None,
    typer.Option(metavar="TABLE=TYPE", help="How a table's rows are stored, as in `ringpull export`; repeatable."),
]
MaxDenseBytes = Annotated[
    int | None, typer.Option(help="The largest table that may stay in the dense program, in bytes.")
]
