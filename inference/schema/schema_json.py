"""The JSON form of a schema: `schema.json` of a version.

    {"format": 1, "features": [{"kind": "sparse", "name": "zip", "dtype": "string",
     "transforms": [{"kind": "hash", "buckets": 1000}]}, ...], "stacks": {"numbers": ["age", "price"]}}

A field at its default is left out; a missing rule of NaN is written "nan". Reading trusts nothing: unknown kinds and
fields are errors, and values go through the same checks as in code.
"""

from __future__ import annotations

import collections.abc
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from ringpull.inference.schema.key_expressions import KeyExpression
from ringpull.inference.schema.kinds import KINDS, Computed, Dense, Feature
from ringpull.inference.schema.transforms import TRANSFORMS, Transform
from ringpull.ps.errors import InvalidInput

FORMAT: Final = 1
_NAN: Final = "nan"


def write_schema(
    features: collections.abc.Sequence[Feature], stacks: Mapping[str, collections.abc.Sequence[str]]
) -> str:
    """Return features and stacks as JSON."""
    body = {"format": FORMAT, "features": [_written(each) for each in features], "stacks": dict(stacks)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def read_schema(text: str | bytes) -> tuple[list[Feature], dict[str, list[str]]]:
    """Read what `write_schema` wrote.

    Raises:
        InvalidInput: The text is not that; the message names the feature and field.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"schema: not JSON: {exc}") from exc
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise InvalidInput(f"schema: must be a JSON object of format {FORMAT}")
    features, stacks = body.get("features"), body.get("stacks", {})
    if not isinstance(features, list):
        raise InvalidInput("schema: features must be a list")
    if not isinstance(stacks, dict) or not all(_is_names(members) for members in stacks.values()):
        raise InvalidInput("schema: stacks must map names to lists of feature names")
    return [_read_feature(place, each) for place, each in enumerate(features)], stacks


def _is_names(members: object) -> bool:
    return isinstance(members, list) and all(isinstance(each, str) for each in members)


def _written(value: Feature | Transform) -> dict[str, Any]:
    written: dict[str, Any] = {"kind": value.KIND}
    for each in fields(value):
        given = getattr(value, each.name)
        if each.default is MISSING or given != each.default:
            written[each.name] = _plain(given)
    return written


def _plain(given: Any) -> Any:
    if isinstance(given, KeyExpression):
        return given.to_plain()
    if isinstance(given, float) and math.isnan(given):
        return _NAN
    return (
        [_written(each) if isinstance(each, Transform) else each for each in given] if type(given) is tuple else given
    )


def _read_feature(place: int, entry: object) -> Feature:
    where = f"feature {entry['name']}" if isinstance(entry, dict) and "name" in entry else f"features[{place}]"
    kind, given = _split(where, entry, {each.KIND: each for each in KINDS})
    if "transforms" in given:
        if not isinstance(given["transforms"], list):
            raise InvalidInput(f"{where}: transforms must be a list")
        given["transforms"] = tuple(_read_transform(where, each) for each in given["transforms"])
    if kind is Computed:
        try:
            given["key"] = KeyExpression.from_plain(given["key"])
        except InvalidInput as exc:
            raise InvalidInput(f"{where}: key: {exc}") from exc
    if given.get("missing") == []:
        given["missing"] = ()
    if kind is Dense and given.get("missing") == _NAN:
        given["missing"] = math.nan
    feature: Feature = kind(**given)
    return feature


def _read_transform(where: str, entry: object) -> Transform:
    kind, given = _split(f"{where}: transform", entry, {each.KIND: each for each in TRANSFORMS})
    transform: Transform = kind(**given)
    return transform


def _split(where: str, entry: object, kinds: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class that `entry` names, and its fields, all of which the class has."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or entry["kind"] not in kinds:
        raise InvalidInput(f"{where}: must be an object with a kind, one of {', '.join(kinds)}")
    kind = kinds[entry["kind"]]
    given = {name: value for name, value in entry.items() if name != "kind"}
    known = {each.name: each for each in fields(kind)}
    for name in given.keys() - known.keys():
        raise InvalidInput(f"{where}: {entry['kind']} has no field {name!r}")
    for name, each in known.items():
        if each.default is MISSING and name not in given:
            raise InvalidInput(f"{where}: field {name!r} is missing")
    return kind, given
