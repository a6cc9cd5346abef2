"""`ringpull import onnx`: an ONNX graph becomes tables and what onnxruntime runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ringpull.deploy.commands.export import row_types_of
from ringpull.deploy.commands.importing.options import Check, MaxDenseBytes, OutDir, RowTypes, Version
from ringpull.deploy.commands.importing.report import print_guess, print_import
from ringpull.deploy.commands.importing.schema_file import SchemaFile, read_schema_file
from ringpull.deploy.commands.options import AsJson
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput

SchemaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.py|.json",
        help="The features: Python with a `schema` (and perhaps `keys`, `arguments`, `tables`, `outputs`), or JSON."
        " Default: they are guessed, and printed.",
    ),
]
ArgumentOption = Annotated[
    list[str] | None,
    typer.Option(metavar="INPUT=ARGUMENT", help="What an input of the graph is given; repeatable."),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[=SERVED]", help="An output to serve, and under which name; repeatable."),
]


def onnx(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The graph: FILE.onnx, external data beside it.")],
    out_dir: OutDir,
    version: Version = None,
    schema: SchemaOption = None,
    guess: Annotated[
        bool, typer.Option("--guess", help="Print the guessed schema, to be corrected, and write nothing.")
    ] = False,
    check: Check = None,
    argument: ArgumentOption = None,
    output: OutputOption = None,
    row_type: RowTypes = None,
    max_dense_bytes: MaxDenseBytes = None,
    as_json: AsJson = False,
) -> None:
    """Import an ONNX graph: what it looks up by ids becomes tables, onnxruntime runs the rest.

    The graph is run on made-up rows, and what it looks up is found by what comes out, however it is written. Scores
    before and after are compared, at the edges of every table too; where they differ, nothing is written.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("import", "ringpull import onnx"):
        from ringpull.inference.importers.check_file import read_check_file
        from ringpull.inference.importers.onnx.guess import guess_schema
        from ringpull.inference.importers.onnx.model import MAX_DENSE_BYTES, import_onnx
        from ringpull.inference.importers.onnx.source import read_source
    from ringpull.inference.model.manifest import versions

    if guess:
        print_guess(guess_schema(read_source(file)))
        return
    given = None if schema is None else read_schema_file(schema)
    number = max(versions(out_dir), default=0) + 1 if version is None else version
    with StopSignals():
        report = import_onnx(
            file,
            None if given is None else given.schema,
            out_dir,
            number,
            max_dense_bytes=MAX_DENSE_BYTES if max_dense_bytes is None else max_dense_bytes,
            check_columns=None if check is None else read_check_file(check),
            quiet=as_json,
            **_more(given, argument or [], output or [], row_type or []),
        )
    print_import(report, out_dir, as_json=as_json)


def _more(
    given: SchemaFile | None, argument: Sequence[str], output: Sequence[str], row_type: Sequence[str]
) -> dict[str, Any]:
    """Return arguments of the import: what a file of Python says, and options before it."""
    from ringpull.inference.export.table_options import TableOptions

    more: dict[str, Any] = {} if given is None else dict(given.more)
    options: dict[str, TableOptions] = dict(more.get("tables") or {})
    for table, wanted in row_types_of(row_type).items():
        options[table] = replace(options.get(table, TableOptions()), row_type=wanted)
    more["tables"] = options
    more["arguments"] = {**(more.get("arguments") or {}), **_pairs("--argument", argument)}
    if output:
        more["outputs"] = _pairs("--output", output, alone=True)
    return more


def _pairs(option: str, given: Sequence[str], *, alone: bool = False) -> dict[str, str]:
    """Return NAME=OTHER by name; where a name may be alone, it is its own other."""
    pairs = {}
    for each in given:
        name, equals, other = each.rpartition("=") if "=" in each else (each, "", each)
        if not name or not other or not (equals or alone):
            raise InvalidInput(f"{option} {each!r}: write NAME=OTHER")
        pairs[name] = other
    return pairs
