"""A predict call written as JSON: what `ringpull predict` reads.

Either the public contract's own JSON form (what grpcurl sends), or shorter: a column may be a plain value, a list with
one entry per row, or a list of lists. Both may be mixed in one request.

    {"model": "ranker", "features": {"item_id": [10, 11], "genres": [["drama"], []]}, "context": {"user_id": 7}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.columns import Column, as_column
from ringpull.inference.wire.codec import PredictCall, as_call
from ringpull.inference.wire.column_codec import decode_column
from ringpull.inference.wire.json_reading import parse_json
from ringpull.inference.wire.messages import read_column
from ringpull.ps.errors import InvalidInput

_PARTS: Final = ("features", "context")


def call_from_json(text: str | bytes) -> PredictCall:
    """Read a whole request. Bytes are UTF-8, as JSON that travels is, whatever the language of this machine.

    Raises:
        InvalidInput: It is not JSON, has an unknown field, or a column is no column; the message names it.
    """
    try:
        body = parse_json(text)
    except InvalidInput as exc:
        raise InvalidInput(f"request: {exc}") from exc
    return call_of(body)


def call_of(body: object) -> PredictCall:
    """Return the call that a request's JSON says, once it is read.

    Raises:
        InvalidInput: It is no object, has an unknown field, or a column is no column; the message names it.
    """
    if not isinstance(body, dict):
        raise InvalidInput("request: must be a JSON object")
    rest = {name: value for name, value in body.items() if name not in _PARTS}
    try:
        message = json_format.ParseDict(rest, pb.PredictRequest())
    except json_format.ParseError as exc:
        raise InvalidInput(f"request: {_one_line(exc)}") from exc
    features, context = (columns_from_json(body.get(part, {})) for part in _PARTS)
    return as_call(
        message.model,
        features,
        context,
        version=message.version or None,
        outputs=list(message.outputs),
        with_timings=message.with_timings,
        with_unknown=message.with_unknown,
        request_id=message.request_id,
        label=message.label,
    )


def columns_from_json(columns: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of a JSON object, feature name -> values in the short form or the contract's.

    Raises:
        InvalidInput: A column is neither; the message names the feature.
    """
    if not isinstance(columns, Mapping):
        raise InvalidInput("request: features and context must be JSON objects, feature name -> values")
    return {name: _column(name, values) for name, values in columns.items()}


def _column(feature: str, values: object) -> Column:
    if not isinstance(values, dict):
        return as_column(feature, values)
    try:
        return decode_column(feature, read_column(feature, json_format.ParseDict(values, pb.Column())))
    except json_format.ParseError as exc:
        raise InvalidInput(f"feature {feature}: {_one_line(exc)}") from exc


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())
