"""`import_pmml`: from a PMML document to a version folder that serves.

document -> fields and model (fields, expressions, predicates, kinds) -> graph (nodes) -> `import_onnx`, held against
the same document evaluated a row at a time (evaluator).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from rich.console import Console

from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.check_file import read_check_file
from ringpull.inference.importers.onnx.model import MAX_DENSE_BYTES, import_onnx
from ringpull.inference.importers.pmml.defined_functions import DefinedFunctions
from ringpull.inference.importers.pmml.document import Element, read_document
from ringpull.inference.importers.pmml.evaluator.fields import InvalidRow, Row
from ringpull.inference.importers.pmml.evaluator.models import Prediction, predicted
from ringpull.inference.importers.pmml.expressions import read_derived
from ringpull.inference.importers.pmml.fields import LARGE, DataField, read_dictionary
from ringpull.inference.importers.pmml.inputs import (
    Input,
    inputs_of,
    mentioned_numbers,
    schema_of,
    telling_rows,
)
from ringpull.inference.importers.pmml.kinds.model import MODELS, Model, classes_of, read_model
from ringpull.inference.importers.pmml.mentions import mentioned_values
from ringpull.inference.importers.pmml.nodes.graph import Category, Graph, Number, Value
from ringpull.inference.importers.pmml.nodes.models import build_model
from ringpull.inference.importers.pmml.nodes.scope import Scope
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData, InvalidInput

Array = NDArray[Any]

TELLING_ROWS: Final = 512
"""Rows that are made of what a document compares fields with."""
_VERSIONS: Final = ("3.", "4.")
_PARTS: Final = ("Header", "DataDictionary", "TransformationDictionary", "MiningBuildTask", "Extension")


@dataclass(frozen=True, slots=True)
class PmmlModel:
    """A model of a document, read."""

    dictionary: Mapping[str, DataField]
    model: Model
    inputs: tuple[Input, ...]
    numbers: Mapping[str, list[float]]
    """Numbers that fields are compared with."""
    notes: tuple[str, ...]
    """What is left out."""

    @property
    def schema(self) -> Schema:
        """Schema of its features."""
        return schema_of(self.inputs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, in the order of their probabilities."""
        return classes_of(self.model)

    def graph(self) -> ModelProto:
        """Return it as a graph, whose inputs are called like its features.

        Raises:
            InvalidInput: It has what is not known here; the message names line and element.
        """
        graph = Graph()
        fields: dict[str, Value] = {}
        for each in self.inputs:
            if each.values is None:
                given = graph.input(each.name, TensorProto.FLOAT, ["batch", 1])
                fields[each.field.name] = Number(graph.cast(given), single=True)
            else:
                given = graph.input(each.name, TensorProto.INT64, ["batch"])
                fields[each.field.name] = Category.of(given, each.values, each.field.data_type)
        outer = Scope(graph, self.dictionary, fields=fields)
        result, outputs = build_model(outer, self.model)
        served: dict[str, tuple[str, list[int]]] = {}
        if self.model.function == "classification":
            assert result.probabilities is not None
            count = len(result.classes)
            served["probabilities"] = graph.rows_of(result.probabilities, count), [count]
            served["label"] = graph.full_column(result.value), [1]
        elif result.distances is not None:
            served["cluster"] = graph.full_column(result.value), [1]
            served["distances"] = result.distances, [_clusters(self.model)]
        else:
            served["prediction"] = graph.full_column(result.value), [1]
        for name, field in _named_outputs(self.model).items():
            value, declared = outputs[field], next(each for each in self.model.outputs if each.name == field)
            if declared.declared_text:  # its texts are numbers
                value = graph.number(value)
            if not isinstance(value, Number):
                raise InvalidInput(
                    f"line {declared.line}: <OutputField> {field!r} is a text, and its dataType that of a number"
                )
            served[name] = graph.full_column(value.name), [1]
        return graph.model(served)

    def evaluate(self, arguments: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, of the schema's arguments, a row at a time."""
        columns = {each.field.name: each.given(arguments[each.name]) for each in self.inputs}
        rows = len(next(iter(columns.values())))
        large = frozenset(each.field.name for each in self.inputs if len(each.values or ()) > LARGE)
        found: list[tuple[Prediction, dict[str, Any]]] = []
        memory: dict[Any, Any] = {}
        for place in range(rows):
            values = {name: each[place] for name, each in columns.items()}
            row = Row(self.dictionary, values, {}, large=large, memory=memory)
            try:
                with np.errstate(all="ignore"):
                    prediction = predicted(self.model, row)
            except InvalidRow:
                prediction = Prediction()
            found.append((prediction, row.values))
        predictions = [each for each, _ in found]
        named = _named_outputs(self.model)
        more = {name: [values.get(field) for _, values in found] for name, field in named.items()}
        return self._arrays(predictions) | {name: _column(each) for name, each in more.items()}

    def _arrays(self, found: list[Prediction]) -> dict[str, Array]:
        if self.model.function == "classification":
            places = {name: place for place, name in enumerate(self.classes)}
            shares = [
                [each.probabilities.get(name, 0.0) if each.value is not None else np.nan for name in self.classes]
                for each in found
            ]
            return {
                "probabilities": np.array(shares),
                "label": _column([None if each.value is None else places[each.value] for each in found]),
            }
        if self.model.function == "clustering":
            none = [np.nan] * _clusters(self.model)
            return {
                "cluster": _column([each.value for each in found]),
                "distances": np.array([each.distances or none for each in found]),
            }
        return {"prediction": _column([each.value for each in found])}


def _column(values: list[Any]) -> Array:
    return np.array([np.nan if each is None else float(each) for each in values], np.float64)[:, None]


def _clusters(model: Model) -> int:
    return len(getattr(model.body, "centers", ()))


def _named_outputs(model: Model) -> dict[str, str]:
    """Return the outputs that are computed of others and are numbers, by the names that they are served under."""
    found: dict[str, str] = {}
    for each in model.outputs:
        if each.feature in ("transformedValue", "decision") and each.numeric:
            name = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in each.name)
            if name in ("prediction", "probabilities", "label", "cluster", "distances"):
                name = f"output_{name}"  # the model's own is called so
            if name in found:
                raise InvalidInput(
                    f"line {each.line}: outputs {found[name]!r} and {each.name!r} would both be {name}; rename one"
                )
            found[name] = each.name
    return found


def read_pmml(path: str | Path) -> PmmlModel:
    """Read a document of PMML, of one model.

    Raises:
        CorruptData: It is no XML.
        InvalidInput: It has what is not known here; the message names file, line and element.
    """
    path = Path(path)
    document = read_document(path)
    try:
        return _read(document)
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc}") from exc


def _read(document: Element) -> PmmlModel:
    version = document.get("version")
    if not version.startswith(_VERSIONS):
        raise document.refusal(f"has version={version[:20]!r}; 3.x and 4.x are known here")
    dictionary = read_dictionary(document)
    models = [each for each in document.children if each.tag not in _PARTS]
    if len(models) != 1:
        raise (models or [document])[-1].refusal(f"is one of {len(models)} models; documents of one are read")
    if models[0].tag not in MODELS:
        raise models[0].refusal(f"is a model not known here; known are {', '.join(MODELS)}")
    transformations = document.first("TransformationDictionary")
    functions = DefinedFunctions(transformations)
    model = read_model(models[0], dictionary, functions=functions)
    shared = read_derived(transformations, functions)
    for field in [*shared.values(), *model.derived.values()]:  # what derives of fields takes them as the model does
        given = {each.name for each in model.schema.inputs}
        if field.name in given or (field.name in shared and field.name in model.derived):
            raise InvalidInput(f"line {field.line}: <DerivedField> {field.name[:80]!r} is a name of another field, too")
    model = replace(model, derived={**shared, **model.derived})
    inputs = inputs_of(model.schema, dictionary, mentioned_values(document, dictionary))
    notes = [f"output {each!r} is of a kind that is left out" for each in model.unserved]
    for each in model.outputs:
        if each.declared_text and each.feature in ("transformedValue", "decision"):
            said = "its values are numbers, and served as such" if each.numeric else "left out: numbers are served"
            notes.append(f"output {each.name!r} is declared to be a text; {said}")
    notes += [
        f"field {each.field.name!r} is the feature {each.name}" for each in inputs if each.name != each.field.name
    ]
    return PmmlModel(
        dictionary=dictionary,
        model=model,
        inputs=tuple(inputs),
        numbers=mentioned_numbers(document),
        notes=tuple(notes),
    )


def import_pmml(
    path: str | Path,
    out_dir: str | Path,
    version: int,
    *,
    name: str | None = None,
    tables: Mapping[str, TableOptions] | None = None,
    max_dense_bytes: int = MAX_DENSE_BYTES,
    check_columns: Mapping[str, Column] | None = None,
    check_file: Path | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Write a model of PMML as `out_dir/VERSION/`, held against the document evaluated a row at a time.

    Args:
        path: The document.
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        name: The model's name; default: the name of `out_dir`.
        tables: Options of tables, by name: of coefficients of categories with many values.
        max_dense_bytes: The largest table that may stay in the dense program.
        check_columns: Rows of your own, by feature, to check; columns called like an output are scores of them.
        check_file: The same from a Parquet file, where a null is a missing value.
        quiet: Print no report and no progress.

    Raises:
        CorruptData: The document is no XML.
        InvalidInput: It has what is not known here; the message names file, line and element.
        ExportError: What was made of it gives other scores. Nothing is written then.
    """
    read = read_pmml(path)
    try:
        graph = read.graph()
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc}") from exc
    except RecursionError as exc:
        raise CorruptData(f"{path}: its elements lie too deep within each other") from exc
    if not quiet:
        for note in read.notes:
            Console().print(note, markup=False, style="yellow")
    rows = telling_rows(read.inputs, read.numbers, TELLING_ROWS)
    return import_onnx(
        graph,
        read.schema,
        out_dir,
        version,
        name=name,
        tables=tables,
        max_dense_bytes=max_dense_bytes,
        reference=read.evaluate,
        check_columns=check_columns if check_file is None else read_check_file(check_file, read.schema),
        telling_columns=rows,
        classes={"probabilities": read.classes} if read.classes else None,
        quiet=quiet,
    )
