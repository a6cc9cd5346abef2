"""JSON Schemas of what a model takes and gives, off its own schema and manifest, with requests that it answers.

A feature of single values is a list with one value per row, one of many values a list of lists. In `context` there is
one row, which stands for all: a plain value, or a list of one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ringpull.inference.head.frontends.tensors import has_many
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, MadeFeature, SentFeature, Sparse

JsonSchema = dict[str, Any]

_VALUES: Final[dict[str, JsonSchema]] = {
    "int64": {"type": "integer", "format": "int64"},
    "uint64": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    "float32": {"type": "number", "format": "float"},
    "string": {"type": "string"},
}
_TYPED: Final = {"int64": "int64s", "uint64": "uint64s", "float32": "floats", "string": "strings"}
"""Field of the contract's `Column` that holds values of a type."""
_EXAMPLES: Final[dict[str, tuple[Any, Any]]] = {
    "int64": (1, 2),
    "uint64": (1, 2),
    "float32": (0.5, 1.5),
    "string": ("a", "b"),
}
NUMBER: Final[JsonSchema] = {"type": ["number", "null"], "description": "null: not finite, or not scored under load"}


def sent_features(loaded: LoadedVersion) -> list[SentFeature]:
    """Return the features that a request carries: crosses are made here."""
    return [each for each in loaded.schema.features if not isinstance(each, MadeFeature)]


def features_schema(features: Sequence[SentFeature]) -> JsonSchema:
    """Return the schema of features with a row per candidate."""
    return {
        "type": "object",
        "description": f"A row per candidate. {_required(features)}",
        "properties": {each.name: _column(each) for each in features},
        "additionalProperties": False,
        "minProperties": 1,
    }


def context_schema(features: Sequence[SentFeature]) -> JsonSchema:
    """Return the schema of features of one row, which stands for all candidates."""
    return {
        "type": "object",
        "description": "Features that all candidates have in common: one row.",
        "properties": {each.name: _context(each) for each in features},
        "additionalProperties": False,
    }


def outputs_schema(outputs: Sequence[ProgramOutput]) -> JsonSchema:
    """Return the schema of an answer's outputs."""
    return {
        "type": "object",
        "properties": {each.name: _rows_of_numbers(each.shape) | _classes(each.classes) for each in outputs},
        "additionalProperties": False,
    }


def row_schema(features: Sequence[SentFeature]) -> JsonSchema:
    """Return the schema of one row as an object, for TensorFlow Serving's `instances`."""
    return {
        "type": "object",
        "description": _required(features),
        "properties": {each.name: _row(each) for each in features},
    }


def example_features(features: Sequence[SentFeature]) -> dict[str, Any]:
    """Return two rows of every feature, in plain JSON."""
    return {each.name: _example_column(each) for each in features}


def example_context(features: Sequence[SentFeature]) -> dict[str, Any]:
    """Return one row of every feature, as it is in `context`."""
    examples = {}
    for each in features:
        column = _example_column(each)
        examples[each.name] = _one_weighted_row(each) if isinstance(column, dict) else _one_row(each, column[0])
    return examples


def example_rows(features: Sequence[SentFeature]) -> list[dict[str, Any]]:
    """Return two rows as objects, for TensorFlow Serving's `instances`."""
    columns = {each.name: _plain_column(each) for each in features}
    rows = [{name: column[place] for name, column in columns.items()} for place in range(2)]
    for row in rows:
        row |= {f"{each.name}_weights": [1.0] * len(row[each.name]) for each in features if _is_weighted(each)}
    return rows


def _required(features: Sequence[SentFeature]) -> str:
    needed = ", ".join(each.name for each in features if each.missing is None)
    return f"Required, here or in context: {needed}." if needed else "All features are optional."


def _column(feature: SentFeature) -> JsonSchema:
    plain: JsonSchema = {"type": "array", "items": _row(feature)}
    return {**_either(feature, plain), "description": _told(feature)}


def _context(feature: SentFeature) -> JsonSchema:
    row = _row(feature)
    if row["type"] == "array":
        row = {"type": "array", "items": row, "minItems": 1, "maxItems": 1}
    return {**_either(feature, row), "description": _told(feature)}


def _either(feature: SentFeature, plain: JsonSchema) -> JsonSchema:
    """Return the schema of a column in its plain form, and where it has weights in the contract's, which has those."""
    if not _is_weighted(feature):
        return plain
    values = {"type": "object", "properties": {"values": {"type": "array", "items": _VALUES[_type_of(feature)]}}}
    weighted = {
        "type": "object",
        "description": "Values of all rows end to end, where rows start, and a weight for each value.",
        "properties": {
            _TYPED[_type_of(feature)]: values,
            "offsets": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "weights": {"type": "array", "items": {"type": "number", "format": "float"}},
        },
        "required": [_TYPED[_type_of(feature)], "offsets"],
        "additionalProperties": False,
    }
    return {"anyOf": [plain, weighted]}


def _row(feature: SentFeature) -> JsonSchema:
    """Return the schema of one row of a feature."""
    value = dict(_VALUES[_type_of(feature)])
    if has_many(feature):
        return {"type": "array", "items": value}
    if isinstance(feature, Dense) and feature.width > 1:
        return {"type": "array", "items": value, "minItems": feature.width, "maxItems": feature.width}
    return value


def _told(feature: SentFeature) -> str:
    """Return what a reader is to know of a feature besides its type."""
    parts = [feature.KIND, _type_of(feature)]
    if isinstance(feature, Dense) and feature.width > 1:
        parts.append(f"{feature.width} values a row")
    elif has_many(feature):
        parts.append("any number of values a row")
    if _is_weighted(feature):
        parts.append("weighted")
    parts.append("required" if feature.missing is None else "optional")
    return ", ".join(parts)


def _rows_of_numbers(shape: Sequence[int]) -> JsonSchema:
    schema = dict(NUMBER)
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return {"type": "array", "items": schema}


def _classes(classes: Sequence[str]) -> JsonSchema:
    return {"description": f"Scores of the classes {', '.join(classes)}, in this order."} if classes else {}


def _type_of(feature: SentFeature) -> str:
    return "float32" if isinstance(feature, Dense) else feature.dtype


def _is_weighted(feature: SentFeature) -> bool:
    return isinstance(feature, Sparse) and feature.weighted


def _plain_column(feature: SentFeature) -> list[Any]:
    """Return two rows of a feature."""
    first, second = _EXAMPLES[_type_of(feature)]
    if has_many(feature):
        return [[first, second], [second]]
    if isinstance(feature, Dense) and feature.width > 1:
        return [[first] * feature.width, [second] * feature.width]
    return [first, second]


def _example_column(feature: SentFeature) -> Any:
    column = _plain_column(feature)
    if not _is_weighted(feature):
        return column
    (first, second), _ = column
    return {
        _TYPED[_type_of(feature)]: {"values": [first, second, second]},
        "offsets": [0, 2, 3],
        "weights": [1, 0.5, 1],
    }


def _one_row(feature: SentFeature, row: Any) -> Any:
    return [row] if isinstance(row, list) else row


def _one_weighted_row(feature: SentFeature) -> Any:
    value = _EXAMPLES[_type_of(feature)][0]
    return {_TYPED[_type_of(feature)]: {"values": [value]}, "offsets": [0, 1], "weights": [1]}
