"""`import_savedmodel`: from a SavedModel of TensorFlow to a version folder that serves without it.

folder -> a process that has TensorFlow: one graph of its signatures, as ONNX (`converter`, `process`)
       -> schema of its inputs (`description`) -> tables cut out, checked against TensorFlow's own answers, written
       (`ringpull.inference.importers.onnx`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from rich.console import Console

from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.stages import stage
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.export.version_folder import new_version
from ringpull.inference.importers.made_rows import fingerprinted
from ringpull.inference.importers.onnx.guess import Guess
from ringpull.inference.importers.onnx.model import MAX_DENSE_BYTES, import_onnx
from ringpull.inference.importers.savedmodel.description import BigVariable, Description
from ringpull.inference.importers.savedmodel.folder import check_folder
from ringpull.inference.importers.savedmodel.process import TIMEOUT_S, Converter
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Fingerprint
from ringpull.ps.errors import ExportError

Score = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
"""TensorFlow's own answers: outputs in the order of the description, of inputs as the SavedModel takes them."""


def import_savedmodel(
    folder: str | Path,
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    signatures: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    schema: Schema | None = None,
    lengths: Mapping[str, int] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    max_dense_bytes: int = MAX_DENSE_BYTES,
    check_rows: int = 64,
    check_columns: Mapping[str, Column] | None = None,
    check_scores: Mapping[str, NDArray[Any]] | None = None,
    python: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
    legacy_keras: bool = True,
    quiet: bool = False,
) -> ExportReport:
    """Split a SavedModel into tables and a dense program, and write them as `out_dir/VERSION/`.

    Args:
        folder: The SavedModel: the folder of `saved_model.pb`.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        signatures: Signatures to serve; default: `serving_default`, and all that take the same inputs.
        tags: Tags of the graph; default: `serve`.
        schema: Features of some or all inputs, by their names, in the place of those that the SavedModel tells.
        lengths: Number of values a row, by input, where the SavedModel takes any.
        texts: Texts that an input may have, where the graph changes them, or salts their hash, and so does not say so.
        tables: Options per table.
        max_dense_bytes: The largest table that may stay in the dense program.
        check_rows: Made-up rows for the check.
        check_columns: Rows of your own, by input: checked too.
        check_scores: Scores of these rows, by output: compared too.
        python: Interpreter that has tensorflow-cpu and tf2onnx; default: this one.
        timeout_s: Seconds that one answer of it may take.
        legacy_keras: Whether `TF_USE_LEGACY_KERAS` is set there, as models of Keras 2 want.
        quiet: Print no report and no progress.

    Raises:
        InvalidInput: It is no SavedModel, an argument is not valid, or an input needs a length.
        CorruptData: It is damaged.
        MissingExtra: The interpreter has no TensorFlow, or no tf2onnx.
        ExportError: It has what only TensorFlow can do, the process of its own died, or what was made of it gives other
            scores. Nothing is written then.
    """
    source, target = Path(folder), Path(out_dir)
    check_folder(source)
    new_version(target, target.resolve().name if name is None else name, version)
    console = None if quiet else Console()
    with Converter(python, timeout_s=timeout_s, legacy_keras=legacy_keras) as converter:
        with stage(console, f"reading {source} with TensorFlow"):
            told = converter.convert(source, tags=tags, signatures=signatures, texts=texts)
        description = Description.of(told)
        if console is not None:
            for note in description.notes:
                console.print(note, markup=False, style="yellow")
        options: dict[str, Any] = {"name": name, "tables": tables, "max_dense_bytes": max_dense_bytes, "quiet": quiet}
        options |= {"check_rows": check_rows, "check_columns": check_columns, "check_scores": check_scores}
        options |= {"lengths": lengths, "schema": schema}
        graph = onnx.load(str(converter.folder / "model.onnx"))
        return import_converted(graph, description, converter.score, target, version, **options)


def guess_savedmodel(
    folder: str | Path,
    *,
    signatures: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    lengths: Mapping[str, int] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    python: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Guess:
    """Return the schema that a SavedModel's inputs tell, to be corrected; see `import_savedmodel`."""
    check_folder(Path(folder))
    with Converter(python, timeout_s=timeout_s) as converter:
        description = Description.of(converter.convert(Path(folder), tags=tags, signatures=signatures, texts=texts))
    return description.guess(lengths)


def import_converted(
    model: ModelProto,
    description: Description,
    score: Score,
    out_dir: Path,
    version: int,
    *,
    lengths: Mapping[str, int] | None = None,
    schema: Schema | None = None,
    **options: Any,
) -> ExportReport:
    """Write what a converter made of a SavedModel as `out_dir/VERSION/`; see `import_savedmodel`.

    Args:
        model: The graph; its big variables are inputs of it.
        description: What the converter tells of it.
        score: What TensorFlow itself answers.
    """
    schema = description.schema(lengths, schema)
    _bring_in(model, description.variables)
    return import_onnx(
        model,
        schema,
        out_dir,
        version,
        arguments={each.tensor: each.name for each in description.inputs if each.tensor is not None},
        outputs={each.tensor: each.served_as for each in description.outputs},
        reference=_reference(description, score, _raw_of_fingerprints(schema, options.get("check_columns") or {})),
        folder=Path("/"),  # where files of variables lie is told by our own converter
        **options,
    )


def _raw_of_fingerprints(schema: Schema, columns: Mapping[str, Column]) -> dict[int, Any]:
    """Return what the fingerprints in rows of a check are of: made-up values, and those of rows that are given."""
    raw: dict[int, Any] = {}
    for feature in schema.features:
        made = fingerprinted(feature)
        if made is None:
            continue
        values = made.tolist()
        if feature.name in columns:
            given = as_column(feature.name, columns[feature.name])
            values += (given if isinstance(given, np.ndarray) else given.values).reshape(-1).tolist()
        raw |= zip(Fingerprint().apply(np.array(values, np.object_)).tolist(), values, strict=True)
    return raw


def _reference(
    description: Description, score: Score, raw: Mapping[int, Any]
) -> Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]:
    def reference(arguments: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        needed = next(each.name for each in description.inputs if each.tensor is not None)
        rows = len(arguments[needed])
        nothing = np.zeros(0)
        found = score(
            {each.name: each.values(arguments.get(each.name, nothing), rows, raw) for each in description.inputs}
        )
        scores = {}
        for output, values in zip(description.outputs, found, strict=True):
            if values.shape[:1] != (rows,):
                raise ExportError(
                    f"output {output.served_as}: TensorFlow answers {rows} rows with the shape {values.shape}; an"
                    " output has a row for each"
                )
            scores[output.served_as] = values
        return scores

    return reference


def _bring_in(model: ModelProto, variables: Sequence[BigVariable]) -> None:
    """Turn the inputs that stand for big variables into initializers, whose values stay in their files."""
    names = {each.tensor for each in variables}
    kept = [each for each in model.graph.input if each.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for each in variables:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype))
        size = int(np.prod(each.shape, dtype=np.int64)) * np.dtype(each.dtype).itemsize
        tensor = TensorProto(name=each.tensor, data_type=kind, dims=each.shape, data_location=TensorProto.EXTERNAL)
        location = str(each.file.resolve().relative_to("/"))
        for key, value in (("location", location), ("offset", str(each.offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
