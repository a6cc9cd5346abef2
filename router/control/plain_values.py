"""Dataclasses as plain values, which are what JSON has, and back: strictly, naming the field that is wrong.

Operators' verbs travel in this form and the coordinator's state is saved in it. The annotations of a dataclass are its
schema; nothing is written twice.

    dataclass               an object with every field, under its name or its `plain_name`
    dataclass in `rows`     a list of the values of its fields; the last ones may be left out (`left_out`)
    class with `to_dict`    what that returns, read by `from_dict`
    Mapping, keys are text  an object
    Mapping, other keys     a list of [*key, value]: JSON has no other keys
    tuple, frozenset        a list; a set's is sorted
    enum                    its value

Reading is strict: a field that is missing or unknown, a value of another type, NaN and a number out of its `Bounds` are
`InvalidInput`, naming the place, as in `spec.versions[0].tables['item']`, and what would be right there. A class with
rules of its own checks them itself (`__post_init__`). A value is as deep as its type, and no type may contain itself.

pydantic could do most of it. To import it takes 0.13 s of processor time, where the whole command line takes 0.2 s, and
10 MB in an installation that is to be light. msgspec takes 0.04 s, but reads past fields that a dataclass does not
have. Neither knows mappings by tuples and dataclasses as lists, of which saved states are full.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Bounds

T = TypeVar("T")

MAX_SHOWN: Final = 80
"""Characters of a wrong value that an error shows."""

_PLAIN_NAME: Final = "plain_name"
_LEFT_OUT: Final = "left_out"

_SCALARS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
}


def plain_name(name: str) -> dict[str, str]:
    """Return the metadata of a dataclass field whose plain form goes by another name."""
    return {_PLAIN_NAME: name}


def left_out() -> dict[str, bool]:
    """Return the metadata of a dataclass field that is left out of the plain form while it has its default.

    So what an earlier build has written is read, and written as it was.
    """
    return {_LEFT_OUT: True}


@dataclass(frozen=True, slots=True)
class _Form:
    """The plain form of one type."""

    what: str
    """Description of what is right, for errors."""
    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]
    """Reads a plain value, given its place."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    plain: str
    form: _Form
    default: Any = None
    left_out: bool = False
    """Whether it is left out while it has its default."""


class PlainValues:
    """The way to plain values and back. Thread-safe.

    Args:
        rows: Dataclasses that are written as lists, without the names of their fields.
    """

    def __init__(self, rows: Collection[type] = ()) -> None:
        self._rows = frozenset(rows)
        self._forms: dict[Any, _Form] = {}

    def encode(self, kind: type[T], value: T) -> Any:
        """Return the plain form of a value of a type.

        Raises:
            TypeError: The type has none.
        """
        return self._form(kind).write(value)

    def decode(self, kind: type[T], plain: Any) -> T:
        """Return the value whose plain form this is.

        Raises:
            InvalidInput: It is not the form of such a value; names the first place that is wrong.
            TypeError: The type has no plain form.
        """
        value: T = self._form(kind).read(plain, "")
        return value

    def to_json(self, kind: type[T], value: T) -> str:
        """Return the plain form of a value as JSON."""
        return json.dumps(self.encode(kind, value))

    def from_json(self, kind: type[T], text: str) -> T:
        """Return the value that `to_json` wrote. Raises what `decode` does."""
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidInput(f"the value is not JSON: {exc}") from exc
        return self.decode(kind, plain)

    def _form(self, kind: Any) -> _Form:
        form = self._forms.get(kind)
        if form is None:
            form = self._forms[kind] = self._new_form(kind)
        return form

    def _new_form(self, kind: Any) -> _Form:
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in _SCALARS:
            return _Form(_SCALARS[kind], _same, partial(_read_scalar, kind))
        if origin is Annotated:
            return _bounded(self._form(arguments[0]), arguments[1])
        if origin in (Union, types.UnionType):
            return _union([self._form(each) for each in arguments])
        if origin is Literal:
            return _choice({each: each for each in arguments}, _same)
        if origin is tuple:
            return self._tuple(arguments)
        if origin is frozenset:
            item = self._form(arguments[0])
            return _listed(item, lambda value: sorted(map(item.write, value)), frozenset)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(*arguments)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return _choice({each.value: each for each in kind}, lambda value: value.value)
        if hasattr(kind, "to_dict"):
            return _Form("an object", kind.to_dict, partial(_read_by_itself, kind))
        if dataclasses.is_dataclass(kind):
            return self._row(kind) if kind in self._rows else self._object(kind)
        raise TypeError(f"{kind} has no plain form")

    def _tuple(self, arguments: tuple[Any, ...]) -> _Form:
        if arguments[-1] is Ellipsis:
            item = self._form(arguments[0])
            return _listed(item, lambda value: [item.write(each) for each in value], tuple)
        items = [self._form(each) for each in arguments]

        def read(plain: Any, at: str) -> tuple[Any, ...]:
            if not isinstance(plain, list) or len(plain) != len(items):
                raise _wrong(at, plain, what)
            return tuple(item.read(each, f"{at}[{i}]") for i, (item, each) in enumerate(zip(items, plain, strict=True)))

        what = f"a list of {len(items)}"
        return _Form(what, lambda value: [item.write(each) for item, each in zip(items, value, strict=True)], read)

    def _mapping(self, key: Any, item: Any) -> _Form:
        if key is not str:
            return self._pairs(key, item)
        form = self._form(item)

        def read(plain: Any, at: str) -> dict[str, Any]:
            if not isinstance(plain, dict):
                raise _wrong(at, plain, "an object")
            return {name: form.read(each, f"{at}[{name!r}]") for name, each in plain.items()}

        return _Form("an object", lambda value: {name: form.write(each) for name, each in value.items()}, read)

    def _pairs(self, key: Any, item: Any) -> _Form:
        """Return the form of a mapping whose keys are no text: a row per entry, the key's parts and the value."""
        composed = get_origin(key) is tuple
        row = self._tuple((*get_args(key), item) if composed else (key, item))

        def write(value: Mapping[Any, Any]) -> list[Any]:
            return [row.write((*key, each) if composed else (key, each)) for key, each in value.items()]

        def read(plain: Any, at: str) -> dict[Any, Any]:
            if not isinstance(plain, list):
                raise _wrong(at, plain, "a list")
            rows = [row.read(each, f"{at}[{i}]") for i, each in enumerate(plain)]
            found = {tuple(parts) if composed else parts[0]: each for *parts, each in rows}
            if len(found) < len(rows):
                raise InvalidInput(f"{at or 'the value'} has two entries for one key")
            return found

        return _Form("a list", write, read)

    def _fields(self, kind: Any) -> list[_Field]:
        hints = get_type_hints(kind, include_extras=True)
        return [
            _Field(
                each.name,
                each.metadata.get(_PLAIN_NAME, each.name),
                self._form(hints[each.name]),
                each.default if each.default_factory is dataclasses.MISSING else each.default_factory(),
                each.metadata.get(_LEFT_OUT, False),
            )
            for each in dataclasses.fields(kind)
        ]

    def _object(self, kind: Any) -> _Form:
        fields = self._fields(kind)
        names = {each.plain for each in fields}

        def read(plain: Any, at: str) -> Any:
            if not isinstance(plain, dict):
                raise _wrong(at, plain, "an object")
            for each in fields:
                if each.plain not in plain and not each.left_out:
                    raise InvalidInput(f"{_inside(at, each.plain)} is missing")
            if unknown := plain.keys() - names:
                known = f"the fields are {', '.join(sorted(names))}" if names else "there are no fields"
                raise InvalidInput(f"{_inside(at, min(unknown))} is unknown; {known}")
            return _made(
                kind,
                {
                    each.name: each.form.read(plain[each.plain], _inside(at, each.plain))
                    for each in fields
                    if each.plain in plain
                },
                at,
            )

        def write(value: Any) -> dict[str, Any]:
            return {
                each.plain: each.form.write(found)
                for each in fields
                if (found := getattr(value, each.name)) != each.default or not each.left_out
            }

        return _Form("an object", write, read)

    def _row(self, kind: Any) -> _Form:
        fields = self._fields(kind)
        what = f"a list of {', '.join(each.plain for each in fields)}"
        least = len(fields)
        while least and fields[least - 1].left_out:
            least -= 1

        def read(plain: Any, at: str) -> Any:
            if not isinstance(plain, list) or not least <= len(plain) <= len(fields):
                raise _wrong(at, plain, what)
            found = {}
            for each, value in zip(fields, plain, strict=False):
                found[each.name] = each.form.read(value, _inside(at, each.plain))
            return _made(kind, found, at)

        def write(value: Any) -> list[Any]:
            told = len(fields)
            while told > least and getattr(value, fields[told - 1].name) == fields[told - 1].default:
                told -= 1
            return [each.form.write(getattr(value, each.name)) for each in fields[:told]]

        return _Form(what, write, read)


def _same(value: Any) -> Any:
    return value


def _read_scalar(kind: type, plain: Any, at: str) -> Any:
    if kind is float and type(plain) is int:
        try:
            return float(plain)
        except OverflowError:
            raise _wrong(at, plain, "a number that fits a double") from None
    if type(plain) is not kind or plain != plain:
        raise _wrong(at, plain, _SCALARS[kind])
    return plain


def _read_by_itself(kind: Any, plain: Any, at: str) -> Any:
    if not isinstance(plain, dict):
        raise _wrong(at, plain, "an object")
    try:
        return kind.from_dict(plain)
    except InvalidInput as exc:
        raise InvalidInput(f"{at or 'the value'}: {exc}") from exc


def _made(kind: Any, values: dict[str, Any], at: str) -> Any:
    """Make a dataclass; what it refuses by itself is told with its place."""
    try:
        return kind(**values)
    except InvalidInput as exc:
        raise InvalidInput(f"{at}: {exc}" if at else str(exc)) from exc


def _bounded(form: _Form, bounds: Bounds) -> _Form:
    low, high = bounds.minimum, bounds.maximum
    what = f"{form.what} of {low:g} or more" if high == math.inf else f"{form.what} from {low:g} to {high:g}"

    def read(plain: Any, at: str) -> Any:
        if not isinstance(plain, int | float) or not bounds.allows(plain):
            raise _wrong(at, plain, what)
        return form.read(plain, at)

    return _Form(what, form.write, read)


def _choice(values: Mapping[str, Any], write: Callable[[Any], Any]) -> _Form:
    """Return the form of one of few values, which are given by their plain forms."""
    names = [repr(each) for each in values]
    what = " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"

    def read(plain: Any, at: str) -> Any:
        if not isinstance(plain, str) or plain not in values:
            raise _wrong(at, plain, what)
        return values[plain]

    return _Form(what, write, read)


def _union(forms: list[_Form]) -> _Form:
    """Return the form of one of several types: any one or None, or several that are their own plain form."""
    others = [form for form in forms if form.what != _SCALARS[types.NoneType]]
    if len(others) == 1:
        [form] = others
        what = f"{form.what}, or null"
        return _Form(
            what,
            lambda value: None if value is None else form.write(value),
            lambda plain, at: None if plain is None else form.read(plain, at),
        )
    if any(form.write is not _same for form in forms):
        raise TypeError("a union of several types has a plain form only where each is its own")
    what = " or ".join(form.what for form in forms)

    def read(plain: Any, at: str) -> Any:
        for form in forms:
            try:
                return form.read(plain, at)
            except InvalidInput:
                continue
        raise _wrong(at, plain, what)

    return _Form(what, _same, read)


def _listed(item: _Form, write: Callable[[Any], list[Any]], make: Callable[[list[Any]], Any]) -> _Form:
    """Return the form of any number of one type."""

    def read(plain: Any, at: str) -> Any:
        if not isinstance(plain, list):
            raise _wrong(at, plain, "a list")
        return make([item.read(each, f"{at}[{i}]") for i, each in enumerate(plain)])

    return _Form("a list", write, read)


def _inside(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _wrong(at: str, plain: Any, what: str) -> InvalidInput:
    shown = repr(plain)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return InvalidInput(f"{at or 'the value'} is {shown}; it must be {what}")
