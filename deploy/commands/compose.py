"""`ringpull compose`: vectors of users and items that are there, and a light model on top, as one version."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from ringpull.deploy.commands.export import load_function
from ringpull.deploy.commands.importing.schema_file import read_schema_file
from ringpull.deploy.commands.options import AsJson
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.deploy.view.console import out, print_json, print_written
from ringpull.extras import needing


def compose(
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="The model's folder; the version is written into OUT_DIR/VERSION/."),
    ],
    user: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Version with the users' vectors, or a model's folder: then its newest."),
    ],
    item: Annotated[str, typer.Option(metavar="FOLDER", help="The same of the items' vectors.")],
    score: Annotated[
        str,
        typer.Option(
            metavar="dot|cosine|MODULE:FUNCTION",
            help="The score of a user's and an item's vector: a function of torch tensors (B, D) and features, or what"
            " makes a module. Default: dot.",
        ),
    ] = "dot",
    interests: Annotated[
        int | None,
        typer.Option(metavar="K", help="Vectors of a user, of which the nearest scores: in one row, or each by a key."),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE.py|FILE.json", help="Features for the function, besides user_id and item_id."),
    ] = None,
    user_table: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Table of the users' version. Default: the only one.")
    ] = None,
    item_table: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Table of the items' version. Default: the only one.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Number of the version. Default: one above the highest there.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the name of OUT_DIR.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve vectors that are there, of users and of items, with a score on top: no torch to be written for it.

    Vectors come from `ringpull import table`, `export_tables` or any version; their files are linked, not copied. The
    version predicts from `user_id`, `item_id` and the features of `--schema`.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("export", "ringpull compose"):
        from ringpull.inference.importers.compose.composing import compose as composed
    from ringpull.inference.model.manifest import versions

    # Standard output is for the result, so output of the user's own files goes to standard error.
    with redirect_stdout(sys.stderr):
        given: Any = load_function(score) if ":" in score else score
        features = None if schema is None else read_schema_file(schema).schema
        number = max(versions(out_dir), default=0) + 1 if version is None else version
        tables: Any = {"user": user, "item": item, "user_table": user_table, "item_table": item_table}
        with StopSignals():
            report = composed(
                out_dir, number, score=given, interests=interests, schema=features, name=name, quiet=True, **tables
            )
    folder = out_dir / str(number)
    if not as_json:
        report.print(out)
        print_written("composed", folder)
        return
    written = [{"table": each.name, "features": list(each.features), "rows": each.rows} for each in report.tables]
    print_json({"model": report.manifest.model, "version": number, "folder": str(folder), "tables": written})
