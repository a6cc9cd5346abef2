"""What `ringpull import sklearn`, `lightgbm` and `xgboost` have in common: options, and what they do with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ringpull.deploy.commands.importing.report import print_import
from ringpull.deploy.folders import as_folder
from ringpull.extras import needing

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


def run_import(
    maker: str,
    read: Callable[[], Any],
    out_dir: Path,
    version: int | None,
    check: Path | None,
    *,
    as_json: bool,
) -> None:
    """Read a model, import it, and say so.

    Args:
        maker: Command of `ringpull import`, for messages.
        read: Reads the model; it imports what it needs for that.
        out_dir: The model's folder.
        version: Number of the version; None: the next one.
        check: File of rows.
        as_json: Whether to print JSON.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("import", f"ringpull import {maker}"):
        from ringpull.inference.importers.check_file import read_check_file
    with needing("trees", f"ringpull import {maker}"):
        from ringpull.inference.importers.trees.model import import_estimator

        model = read()
    from ringpull.inference.model.manifest import versions

    number = max(versions(out_dir), default=0) + 1 if version is None else version
    columns = None if check is None else read_check_file(check)
    report = import_estimator(model, out_dir, number, check_columns=columns, quiet=as_json)
    print_import(report, out_dir, as_json=as_json)
