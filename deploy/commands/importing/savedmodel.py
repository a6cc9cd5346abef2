"""`ringpull import savedmodel`: a SavedModel of TensorFlow becomes tables and what onnxruntime runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ringpull.deploy.commands.export import row_types_of
from ringpull.deploy.commands.importing.options import Check, MaxDenseBytes, OutDir, RowTypes, Version
from ringpull.deploy.commands.importing.report import print_guess, print_import
from ringpull.deploy.commands.importing.schema_file import SchemaFile, read_schema_file
from ringpull.deploy.commands.keys import lines_of
from ringpull.deploy.commands.options import AsJson
from ringpull.deploy.folders import as_folder
from ringpull.deploy.signals import StopSignals
from ringpull.extras import needing
from ringpull.ps.errors import InvalidInput

_MAX_TEXTS_BYTES: Final = 1 << 30


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The SavedModel: the folder of saved_model.pb.")]
Signatures = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A signature to serve; repeatable. Default: serving_default, and all that take the same inputs.",
    ),
]
Tags = Annotated[str, typer.Option(metavar="TAG,...", help="Tags of the graph. Default: serve.")]
SchemaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.py|.json",
        help="Features of some or all inputs: Python with a `schema` (and perhaps `tables`), or JSON, as --guess prints"
        " it. Default: what the SavedModel tells.",
    ),
]
Guessing = Annotated[
    bool, typer.Option("--guess", help="Print the schema that the SavedModel tells, to be corrected; write nothing.")
]
Lengths = Annotated[
    list[str] | None,
    typer.Option(metavar="INPUT=NUMBER", help="Values a row of an input that the SavedModel takes any of; repeatable."),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INPUT=FILE",
        help="Texts that an input may have, one a line, where the model changes them or salts their hash; repeatable.",
    ),
]
Python = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Interpreter of an environment that has tensorflow-cpu, tf-keras and tf2onnx. Default: this one's.",
    ),
]
TimeoutS = Annotated[
    float, typer.Option(min=1.0, help="Seconds that TensorFlow may take for one answer, of which there are a few.")
]


def savedmodel(
    folder: Folder,
    out_dir: OutDir,
    version: Version = None,
    signature: Signatures = None,
    tags: Tags = "",
    schema: SchemaOption = None,
    guess: Guessing = False,
    length: Lengths = None,
    texts: Texts = None,
    check: Check = None,
    row_type: RowTypes = None,
    max_dense_bytes: MaxDenseBytes = None,
    python: Python = None,
    timeout_s: TimeoutS = 1_800.0,
    as_json: AsJson = False,
) -> None:
    """Import a SavedModel of TensorFlow: what it looks up by ids becomes tables, onnxruntime runs the rest.

    TensorFlow runs in a process of its own, now and never when it is served; its scores and those of what was made are
    compared, and where they differ, nothing is written. Clients of TensorFlow Serving ask as they did.
    """
    as_folder("OUT_DIR", out_dir)
    with needing("import", "ringpull import savedmodel"):
        from ringpull.inference.export.table_options import TableOptions
        from ringpull.inference.importers.check_file import read_check_file
        from ringpull.inference.importers.onnx.model import MAX_DENSE_BYTES
        from ringpull.inference.importers.savedmodel.model import guess_savedmodel, import_savedmodel
    from ringpull.inference.model.manifest import versions

    asked: dict[str, Any] = {"signatures": signature, "tags": tags.split(",") if tags else None, "python": python}
    asked |= {"lengths": lengths_of(length or []), "texts": texts_of(texts or []), "timeout_s": timeout_s}
    if guess:
        print_guess(guess_savedmodel(folder, **asked))
        return
    given = None if schema is None else read_schema_file(schema)
    tables: dict[str, TableOptions] = {} if given is None else tables_of(schema, given)
    for table, wanted in row_types_of(row_type or []).items():
        tables[table] = replace(tables.get(table, TableOptions()), row_type=wanted)
    number = max(versions(out_dir), default=0) + 1 if version is None else version
    with StopSignals():
        report = import_savedmodel(
            folder,
            out_dir,
            number,
            schema=None if given is None else given.schema,
            tables=tables,
            max_dense_bytes=MAX_DENSE_BYTES if max_dense_bytes is None else max_dense_bytes,
            check_columns=None if check is None else read_check_file(check),
            quiet=as_json,
            **asked,
        )
    print_import(report, out_dir, as_json=as_json)


def tables_of(file: Path | None, given: SchemaFile) -> dict[str, Any]:
    """Return the options per table that a file of a schema says.

    Raises:
        InvalidInput: It says what only the graph of ONNX's own inputs has.
    """
    if others := sorted(given.more.keys() - {"tables"}):
        raise InvalidInput(f"--schema {file}: a SavedModel has no `{others[0]}`; it may have `schema` and `tables`")
    return dict(given.more.get("tables") or {})


def lengths_of(given: Sequence[str]) -> dict[str, int]:
    """Return numbers by input, from INPUT=NUMBER each.

    Raises:
        InvalidInput: One is not of this form.
    """
    lengths = {}
    for each in given:
        name, _, number = each.rpartition("=")
        if not name or not number.isdecimal() or int(number[:9]) < 1 or len(number) > 9:
            raise InvalidInput(f"--length {each!r}: write INPUT=NUMBER, such as genres=5")
        lengths[name] = int(number)
    return lengths


def texts_of(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of files by input, from INPUT=FILE each.

    Raises:
        InvalidInput: One is not of this form, or its file cannot be read.
    """
    texts = {}
    for each in given:
        name, _, file = each.partition("=")
        if not name or not file:
            raise InvalidInput(f"--texts {each!r}: write INPUT=FILE, a file of one text a line")
        try:
            if Path(file).stat().st_size > _MAX_TEXTS_BYTES:
                raise InvalidInput(f"--texts {file}: has more than 1 GiB")
        except OSError as exc:
            raise InvalidInput(f"--texts {file}: cannot be read: {exc}") from exc
        lines = lines_of("--texts", file)
        if not lines:
            raise InvalidInput(f"--texts {file}: is empty; give one text a line")
        texts[name] = list(dict.fromkeys(lines))
    return texts
