"""Requests of TensorFlow Serving's REST API: from their JSON to named tensors.

    {"instances": [2.0, 5.0]}                                  rows: values of the model's only input,
    {"instances": [{"item": 7, "genres": [1, 2]}, ...]}        or objects of the same names
    {"inputs": {"user": 3, "item": [7, 8]}}                    columns; a bare list where there is one input
    {"context": {"user": 3}, "examples": [{"item": 7}, ...]}   classify and regress: a value or a list under each name

Rows of a feature with many values are lists of any length, and become values end to end with `NAME_offsets`; columns
may be sent so at once. `NAME_weights` are shaped like the values they go with. A column of one row beside others of
more stands for all rows, and so does everything in `context`, which is taken beside `instances` and `inputs`, too.

Lists are joined, counted and converted by C, long ones in chunks, so that other threads get their turns. Python loops
over rows, examples and names, and over the values of an input that has a `{"b64": ...}`.
"""

from __future__ import annotations

import binascii
import string
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.frontends.tensors import CHUNK, OFFSETS, WEIGHTS, has_many, owner_of
from ringpull.inference.head.request.received import Limits, check_count
from ringpull.inference.schema.kinds import Dense, SentFeature
from ringpull.ps.errors import InvalidInput, LimitExceeded

Tensors = dict[str, NDArray[Any]]
"""Name -> array; strings as `str` in arrays of objects."""
Features = Mapping[str, SentFeature]
"""Name -> feature that a version takes in requests."""

_B64: Final = "b64"
_BETWEEN: Final = string.whitespace.encode()
"""What may lie between characters of base64."""
_MAX_LISTED: Final = 20
"""Names that an error lists."""
_MAX_SHOWN_CHARS: Final = 100
"""Characters of a name or a value that an error shows."""
_MAX_LEVELS: Final = 8
"""Lists within lists that a row may be."""
_JSON_TYPES: Final = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}
_OBJECT, _FLOAT64 = np.dtype(object), np.dtype(np.float64)
_INT64, _UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
_NUMBERS: Final = {int, float, bool}
"""Types of JSON's values that are numbers here: true and false are 1 and 0, as in an Example."""


class SentTensors(NamedTuple):
    """Tensors of a request."""

    tensors: Tensors
    rows: int | None
    """Number of rows that they came in, so that the answer goes in as many. None: they came in columns."""


def object_of(document: Any) -> dict[str, Any]:
    """Return a request's body, which is a JSON object.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(document, dict):
        raise InvalidInput(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_of(body: Mapping[str, Any]) -> str:
    """Return the name of the signature that a request asks for; empty: the default one.

    Raises:
        InvalidInput: It is no string.
    """
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidInput(
            f"JSON Value: {_shown(name)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_tensors(body: Mapping[str, Any], features: Features, limits: Limits) -> SentTensors:
    """Return the tensors of a request to predict.

    Raises:
        InvalidInput: It has not one of `instances` and `inputs`, or they are not shaped as they have to be; the message
            names the row or the input.
        LimitExceeded: It has too many rows or columns.
    """
    in_rows, in_columns = "instances" in body, "inputs" in body
    if in_rows and in_columns:
        raise InvalidInput("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if not in_rows and not in_columns:
        raise InvalidInput("Missing 'inputs' or 'instances' key")
    rows: int | None = None
    if in_rows:
        instances = _rows_of(body["instances"], "instances", limits)
        rows, columns = len(instances), _columns_of_rows(instances, features, limits)
    elif type(inputs := body["inputs"]) is dict and not _is_base64(inputs):
        check_count(len(inputs), limits.max_columns)
        columns = {name: _listed(values) for name, values in inputs.items()}
    else:
        columns = {_only(features, "inputs is a plain value/list, but expecting an object"): _listed(inputs)}
    reading = _Reading(features, limits)
    if in_rows:
        reading.check_rows(columns)
    reading.add_columns(columns)
    reading.add_context(body.get("context", {}))
    return SentTensors(reading.tensors(), rows)


def example_tensors(body: Mapping[str, Any], features: Features, limits: Limits) -> SentTensors:
    """Return the tensors of a request to classify or to regress.

    Raises:
        InvalidInput: It has no `examples`, or they or the `context` are not shaped as they have to be; the message
            names the example or the feature.
        LimitExceeded: It has too many examples or features.
    """
    if "examples" not in body:
        raise InvalidInput("key 'examples' is expected and was not found")
    examples = _rows_of(body["examples"], "examples", limits)
    names: dict[str, None] = {}
    for place, example in enumerate(examples):
        if type(example) is not dict:
            raise InvalidInput(f"Example must be JSON object but got JSON {_json_type(example)}, at item {place}")
        check_count(len(example), limits.max_columns)
        names.update(dict.fromkeys(example))
        check_count(len(names), limits.max_columns)
    reading = _Reading(features, limits, max_levels=1)
    reading.check_rows(names)
    for name in names:  # One at a time: what examples leave out takes room here that it took none of in the request.
        reading.add_columns({name: _of_examples(name, features.get(name), examples)})
    reading.add_context(body.get("context", {}))
    return SentTensors(reading.tensors(), len(examples))


class _Absent:
    """Value of a name that an example has not."""


_ABSENT: Final = _Absent()


def _of_examples(name: str, feature: SentFeature | None, examples: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the values under a name in each example, as lists; a bag that an example leaves out is empty."""
    values = [example.get(name, _ABSENT) for example in examples]
    if _ABSENT in values:
        if feature is not None and not has_many(feature):
            raise InvalidInput(f"Feature: {name} is required but could not be found in example {values.index(_ABSENT)}")
        nothing: list[Any] = []
        values = [nothing if value is _ABSENT else value for value in values]
    return [value if type(value) is list else [value] for value in values]


def _rows_of(rows: Any, key: str, limits: Limits) -> list[Any]:
    """Return what is in the list under a key."""
    if type(rows) is not list:
        raise InvalidInput(f"JSON Value: {_shown(rows)} Expecting '{key}' to be an list/array")
    if not rows:
        raise InvalidInput(f"No values in '{key}' array")
    _check_rows(len(rows), limits)
    return rows


def _check_rows(rows: int, limits: Limits) -> None:
    if rows > limits.max_candidates:
        raise LimitExceeded(f"the request has {rows} rows; max_candidates is {limits.max_candidates}")


def _columns_of_rows(rows: list[Any], features: Features, limits: Limits) -> dict[str, list[Any]]:
    """Return the values under each name, row by row."""
    first = rows[0]
    if type(first) is not dict or _is_base64(first):
        name = _only(features, "instances is a plain list, but expecting list of objects")
        return {name: rows}
    names = first.keys()
    check_count(len(names), limits.max_columns)
    for place, row in enumerate(rows):
        if type(row) is not dict:
            raise InvalidInput(f"Expecting object but got {_json_type(row)} at item {place} of input list")
        if row.keys() != names:
            raise InvalidInput(
                f"Failed to process element: {place} of 'instances' list. JSON object: its keys must be equal to those"
                f" of element 0: {_listing(names)}"
            )
    return {name: [row[name] for row in rows] for name in names}


def _only(features: Features, what: str) -> str:
    """Return the name of the only input."""
    if len(features) != 1:
        raise InvalidInput(f"{what} as multiple input tensors required: {_listing(features)}")
    (name,) = features
    return name


def _listed(values: Any) -> list[Any]:
    """Return a column: what is no list is one row."""
    return values if type(values) is list else [values]


class _Reading:
    """Reading of one request's values into tensors."""

    def __init__(self, features: Features, limits: Limits, max_levels: int = _MAX_LEVELS) -> None:
        self._features = features
        self._limits = limits
        self._max_levels = max_levels
        self._found: Tensors = {}

    def add_columns(self, columns: Mapping[str, list[Any]]) -> None:
        """Add columns: a value, or a list of values, for each row."""
        check_count(len(self._found) + len(columns), self._limits.max_columns)
        for name, values in columns.items():
            self._add(name, values)

    def add_context(self, context: Any) -> None:
        """Add one row that stands for all."""
        if type(context) is not dict:
            raise InvalidInput(f"context: must be a JSON object, name -> value or list, not {_shown(context)}")
        check_count(len(self._found) + len(context), self._limits.max_columns)
        for name in context:
            if name in self._found:
                raise InvalidInput(f"context: {_cut(name)} is in the rows, too; send it in one of them")
        self.add_columns({name: [value] for name, value in context.items()})

    def check_known(self, name: str) -> None:
        """Check that the version takes such an input.

        Raises:
            InvalidInput: It does not; the message says what it takes.
        """
        if name not in self._features and self._owner_of(name) is None:
            raise InvalidInput(
                f"JSON object: does not have named input: {_cut(name)}; the model has {_listing(self._features)}"
            )

    def check_rows(self, names: Iterable[str]) -> None:
        """Check names that rows have values under.

        Raises:
            InvalidInput: The version takes no such input, or it is the offsets of one: rows have lists.
        """
        for name in names:
            self.check_known(name)
            if name.endswith(OFFSETS) and self._owner_of(name) is not None:
                raise InvalidInput(f"input {_cut(name)}: offsets go with 'inputs'; here each row has a list of values")

    def tensors(self) -> Tensors:
        """Return what was found."""
        for name, values in list(self._found.items()):
            owner = self._owner_of(name)
            if owner is not None and name.endswith(WEIGHTS):  # of bags of one, that came without lists
                self._found.setdefault(owner + OFFSETS, np.arange(len(values) + 1))
        return self._found

    def _owner_of(self, name: str) -> str | None:
        """Return the feature with many values that a tensor is the offsets or weights of; None: of none."""
        owner = owner_of(name, self._features)
        return owner if owner is not None and has_many(self._features[owner]) else None

    def _add(self, name: str, values: list[Any]) -> None:
        feature = self._features.get(name)
        owner = self._owner_of(name) or name
        self.check_known(name)
        if feature is not None and not has_many(feature):  # Others may lie end to end.
            _check_rows(len(values), self._limits)
        flat, kinds, levels = self._flattened(name, values)
        whole = (feature is not None and not isinstance(feature, Dense)) or name.endswith(OFFSETS)
        array = _array(name, flat, kinds, whole=whole)
        if not levels:
            known = self._found.setdefault(name, array)
            if known is not array and not np.array_equal(known, array):
                raise _other_lengths(name, owner)
        elif feature is None or has_many(feature):
            self._add_ragged(name, owner, array, levels)
        else:
            array = array.reshape(len(values), *(_same(name, lengths) for lengths in levels))
            # A dense feature is flat: a row of it may be any tensor of so many numbers.
            self._found[name] = array.reshape(len(values), -1) if isinstance(feature, Dense) and array.size else array

    def _flattened(self, name: str, values: list[Any]) -> tuple[list[Any], set[type], list[NDArray[np.int64]]]:
        """Return values without the lists they are in, their types, and the lengths of the lists, outer ones first."""
        levels: list[NDArray[np.int64]] = []
        while list in (kinds := _kinds(values)):
            if len(kinds) > 1:
                raise InvalidInput(f"input {_cut(name)}: has values beside lists; each row must be a list, or none")
            if len(levels) == self._max_levels:
                raise InvalidInput(f"input {_cut(name)}: a row is lists within lists, {self._max_levels} at most")
            if not levels:
                _check_rows(len(values), self._limits)
            lengths = np.fromiter(map(len, values), np.int64, len(values))
            if (longest := int(lengths.max())) > self._limits.max_values_per_row:
                raise LimitExceeded(
                    f"input {_cut(name)}: a list has {longest} values; max_values_per_row is"
                    f" {self._limits.max_values_per_row}"
                )
            levels.append(lengths)
            values = _joined(values, int(lengths.sum()))
        return values, kinds, levels

    def _add_ragged(self, name: str, owner: str, array: NDArray[Any], levels: list[NDArray[np.int64]]) -> None:
        """Add the values, or the weights, of bags."""
        if len(levels) > 1 or name == owner + OFFSETS:
            raise InvalidInput(f"input {name}: takes one list{' of values per row' if name != owner + OFFSETS else ''}")
        if owner + OFFSETS in self._features:
            # What would be taken for that feature's values cannot go with these: only bags of one length can be sent.
            self._found[name] = array.reshape(len(levels[0]), _same(name, levels[0]))
            return
        offsets = np.zeros(len(levels[0]) + 1, np.int64)
        np.cumsum(levels[0], out=offsets[1:])
        self._found[name] = array
        if not np.array_equal(self._found.setdefault(owner + OFFSETS, offsets), offsets):
            raise _other_lengths(name, owner)


def _other_lengths(name: str, owner: str) -> InvalidInput:
    return InvalidInput(f"input {name}: its rows are not as long as {owner}, its weights or its offsets say")


def _same(name: str, lengths: NDArray[np.int64]) -> int:
    """Return the length of lists that all have the same."""
    first = int(lengths[0])
    others = np.flatnonzero(lengths != first)
    if others.size:
        raise InvalidInput(
            f"Failed to process element: {others[0]} of input {name}. Expecting tensor size: {first} but got:"
            f" {lengths[others[0]]}"
        )
    return first


def _kinds(values: list[Any]) -> set[type]:
    """Return the types of values."""
    if len(values) <= CHUNK:
        return set(map(type, values))
    kinds: set[type] = set()
    for at in range(0, len(values), CHUNK):
        kinds.update(map(type, values[at : at + CHUNK]))
    return kinds


def _joined(lists: list[list[Any]], count: int) -> list[Any]:
    """Return what is in lists, end to end; `count` values in all."""
    if count <= CHUNK:
        return list(chain.from_iterable(lists))
    flat: list[Any] = []
    step = max(1, CHUNK * len(lists) // count)
    for at in range(0, len(lists), step):
        flat.extend(chain.from_iterable(lists[at : at + step]))
    return flat


def _array(name: str, values: list[Any], kinds: set[type], *, whole: bool) -> NDArray[Any]:
    """Return a flat list as an array. numpy alone would turn [1, "a"] into strings and large integers into floats.

    Args:
        kinds: Types of the values.
        whole: Whether integers must stay as they are.
    """
    if dict in kinds:
        values = [_decoded(name, value) if type(value) is dict else value for value in values]
        kinds = _kinds(values)
    if kinds == {str}:
        return _filled(_OBJECT, values)
    if not kinds <= _NUMBERS:
        types = ", ".join(sorted({_json_type(value) for value in values}))
        raise InvalidInput(f"input {name}: values of JSON type {types}; give all numbers or all strings")
    try:
        if float in kinds or not whole:
            return _filled(_FLOAT64, values)
        try:
            return _filled(_INT64, values)
        except OverflowError:
            return _filled(_UINT64, values)
    except OverflowError as exc:
        raise InvalidInput(
            f"input {name}: {'its integers fit neither int64 nor uint64' if whole else 'holds a number too large'}"
        ) from exc


def _filled(dtype: np.dtype[Any], values: list[Any]) -> NDArray[Any]:
    """Return values as an array of a type that they convert to; OverflowError where one does not."""
    if len(values) <= CHUNK:
        return np.fromiter(values, dtype, len(values))
    array = np.empty(len(values), dtype)
    for at in range(0, len(values), CHUNK):
        array[at : at + CHUNK] = values[at : at + CHUNK]
    return array


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and type(value.get(_B64)) is str


def _decoded(name: str, value: dict[str, Any]) -> str:
    """Return the text that is meant by `{"b64": ...}`."""
    if not _is_base64(value):
        raise InvalidInput(f"input {name}: JSON Value: Object not formatted correctly for base64 data")
    try:
        compact = value[_B64].encode().translate(None, _BETWEEN)
        bare = compact.rstrip(b"=")
        if bare != compact and (len(compact) % 4 or len(compact) - len(bare) > 2):
            raise ValueError("its padding is wrong")
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"input {name}: what is in base64 is not UTF-8; features are texts") from exc
    except ValueError as exc:
        raise InvalidInput(f"input {name}: Unable to base64 decode: {exc}") from exc


def _json_type(value: Any) -> str:
    return str(value) if type(value) is bool else _JSON_TYPES.get(type(value), "Object")


def _shown(value: Any) -> str:
    """Return the type of a value, and a plain one itself."""
    kind = _json_type(value)
    return kind if isinstance(value, dict | list | bool | None) else f"{_cut(str(value))} Type: {kind}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def _listing(names: Iterable[str]) -> str:
    """Return names, the first of them, as one text."""
    first = [_cut(name) for name in islice(names, _MAX_LISTED + 1)]
    return ", ".join(first[:_MAX_LISTED]) + (", ..." if len(first) > _MAX_LISTED else "")
