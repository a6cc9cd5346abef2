"""`import_onnx`: from an ONNX graph to a version folder that serves.

file -> graph (source) -> its inputs bound to a schema (binding) -> run and read (probing)
     -> cut (cutting, bags, pools) -> rest, look-ups in keys (rest, serving) -> checked and written (version_writer)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from rich.console import Console

from ringpull.inference.export.classes import with_classes
from ringpull.inference.export.keys import Keys
from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.stages import stage
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.onnx.check_rows import as_served, ids_of, make_rows
from ringpull.inference.importers.onnx.guess import Guess, guess_schema
from ringpull.inference.importers.onnx.one_row import open_reshapes
from ringpull.inference.importers.onnx.outputs import open_batch, plain_outputs
from ringpull.inference.importers.onnx.reference import GraphReference
from ringpull.inference.importers.onnx.source import SourceGraph, all_nodes, read_source
from ringpull.inference.importers.onnx.split import Split
from ringpull.inference.importers.version_writer import CheckRows, Reference, write_onnx_version
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.schema.features import Prepared
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput

Array = NDArray[Any]
MAX_DENSE_BYTES: Final = 64 << 20
_DYNAMIC: Final = (
    "The graph has DynamicQuantizeLinear, which takes one scale of all rows of a batch, so that a row's score depends"
    " on the others; import the graph as it was before it was quantised, or quantise it statically"
)


def import_onnx(
    model: ModelProto | str | Path,
    schema: Schema | None,
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    keys: Mapping[str, Keys] | None = None,
    arguments: Mapping[str, str] | None = None,
    outputs: Sequence[str] | Mapping[str, str] | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    max_dense_bytes: int = MAX_DENSE_BYTES,
    reference: Reference | None = None,
    folder: Path | None = None,
    within: Mapping[str, tuple[int, int]] | None = None,
    check_rows: int = 64,
    check_columns: Mapping[str, Column] | None = None,
    check_scores: Mapping[str, Array] | None = None,
    telling_columns: Mapping[str, Column] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Split an ONNX graph into tables and a dense program, and write them as `out_dir/VERSION/`.

    Args:
        model: The graph, or its file. External data is mapped, never loaded whole.
        schema: Schema of its features, whose arguments its inputs are called like; None: it is guessed, and printed.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        keys: Per table the raw id of each row, or the features' Vocabulary, as in `export_model`.
        arguments: Argument of the schema by name of an input, where they are not called alike.
        outputs: Names of the outputs that are served, or what each is to be called; default: all that are numbers.
        tables: Options per table. Ids without a row are refused, as by the graph, unless `TableOptions` has a default.
        max_dense_bytes: The largest table that may stay in the dense program.
        reference: The source's own scoring; default: onnxruntime on the graph as it was.
        folder: Folder of external data, where the graph is not given as a file.
        within: Prepared ids [low, high) that the source takes, by feature; others are refused by the feature's name.
        check_rows: Made-up rows for the check; 0: none.
        check_columns: Rows of the source's own, by feature: checked too. Those called like an output are its scores.
        check_scores: More scores of these rows, by output.
        telling_columns: More rows by feature, without scores, that an importer made of its source's own numbers.
        classes: Names of the classes by output, one for each of the C scores of a row, as in `export_model`.
        quiet: Print no report, no progress and no guess.

    Raises:
        InvalidInput: An argument is not valid, or the graph has what cannot be imported; the message names it.
        CorruptData: The file is damaged.
        ExportError: The graph cannot be split, or what was made of it gives other scores. Nothing is written then.
    """
    console = None if quiet else Console()
    source = open_batch(open_reshapes(plain_outputs(read_source(model, folder))))
    if schema is None:
        guess = _guessed(source, console)
        schema, arguments = guess.schema, {**guess.arguments, **(arguments or {})}
    with stage(console, f"probing {len(source.graph.node):,} nodes"):
        split = Split.of(
            source, schema, arguments or {}, outputs, keys or {}, tables or {}, max_dense_bytes, within or {}
        )
    split = replace(split, program_outputs=with_classes(split.program_outputs, classes or {}))
    reference = GraphReference(source, split.bound, split.outputs) if reference is None else reference
    given, scores = _given(split, check_columns or {})
    check = _checks(split, reference, check_rows, given, {**scores, **(check_scores or {})})
    if telling_columns:
        telling, _ = _given(split, telling_columns)
        assert telling is not None
        check.append(_check(split, telling, "rows at the source's own values", None))
    with _explained(split):
        parts = split.parts()
        return write_onnx_version(parts, out_dir, version, reference=reference, check=check, name=name, quiet=quiet)


@contextmanager
def _explained(split: Split) -> Iterator[None]:
    """Say in an error what of the graph may be its cause."""
    try:
        yield
    except ExportError as exc:
        if any(each.op_type == "DynamicQuantizeLinear" for each in all_nodes(split.rest.graph)):
            raise ExportError(f"{exc}. {_DYNAMIC}") from exc
        raise


def _guessed(source: SourceGraph, console: Console | None) -> Guess:
    guess = guess_schema(source)
    if console is not None:
        console.print("guessed this schema; save it, correct it, and give it as --schema:", style="bold")
        console.print(guess.text, markup=False, highlight=False, soft_wrap=True)
        for note in guess.notes:
            console.print(note, markup=False, style="yellow")
    return guess


def _given(split: Split, columns: Mapping[str, Column]) -> tuple[Prepared | None, dict[str, Array]]:
    """Return the source's own rows, prepared, and the scores that came with them."""
    given = {name: as_column(name, each) for name, each in columns.items()}
    own = {name: each for name, each in given.items() if split.schema.get(name) is not None}
    scores = {name: each for name, each in given.items() if name in split.outputs and name not in own}
    if not own:
        if columns:
            raise InvalidInput(
                f"check rows: no column is called like a feature ({', '.join(f.name for f in split.schema.features)});"
                f" they are {', '.join(columns)}"
            )
        return None, {}
    ragged = [name for name, each in scores.items() if not isinstance(each, np.ndarray)]
    if ragged:
        raise InvalidInput(f"check rows: scores of output {ragged[0]} are lists of different lengths")
    rows = len(next(iter(own.values())))
    shapes = {each.name: each.shape for each in split.program_outputs}
    arrays = {}
    for name, each in scores.items():
        values = np.asarray(each, np.float32)
        arrays[name] = values.reshape(rows, *shapes[name]) if values.size == rows * math.prod(shapes[name]) else values
    return split.schema.prepare(own, rows), arrays


def _checks(
    split: Split, reference: Reference, rows: int, given: Prepared | None, scores: Mapping[str, Array] | None
) -> list[CheckRows]:
    """Return the rows that the import is held against its source with."""
    checks = []
    if rows > 0:
        made = _made_rows(split, reference, rows, fallback=given is not None)
        if made is not None:
            checks.append(_check(split, made, "made-up rows", None))
    if given is not None:
        checks.append(_check(split, given, "the rows given", scores))
    return checks


def _check(split: Split, trained: Prepared, described: str, scores: Mapping[str, Array] | None) -> CheckRows:
    serving = split.serving
    served = as_served(trained, serving.schema, serving.raw)
    return CheckRows(served=served, arguments=split.schema.arguments(trained), expected=scores, described=described)


def _made_rows(split: Split, reference: Reference, rows: int, *, fallback: bool) -> Prepared | None:
    """Return made-up rows that the source takes; None: it takes none, and there is a `fallback`.

    Raises:
        ExportError: It takes none.
    """
    limits = [*split.cut.limits, *split.type_limits]
    ids = ids_of(split.uses, limits, split.schema, split.serving.raw)
    failure: Exception | None = None
    for small in (False, True):
        made = make_rows(split.schema, split.uses, rows, ids, small=small)
        try:
            reference(split.schema.arguments(made))
            return made
        except Exception as exc:  # of any root: the source's own
            failure = exc
    if fallback:
        return None
    raise ExportError(
        f"the source fails on made-up rows, so nothing can be checked: {failure}. Give rows that it takes:"
        " --check ROWS.parquet"
    ) from failure
