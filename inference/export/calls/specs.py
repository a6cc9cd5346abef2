"""Reading of `arguments={...}`: what the exporter says that a parameter, or a key that is read, is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ringpull.inference.export.calls.jagged import BagNames, Jagged, is_jagged
from ringpull.inference.export.calls.sources import Constant, Entries, Flat, Matrix, Several, Source, Stack
from ringpull.inference.schema.arguments import Argument
from ringpull.inference.schema.kinds import Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput


def read_spec(where: str, spec: object, schema: Schema) -> Source:
    """Return the source that a spec describes.

    Args:
        where: The parameter or key, for messages; what lies in it is named `where[0]` or `where['key']`.
        spec: Name of an argument, a list, tuple or dict of specs, a constant, or a class of features by key, alone or
            in a tuple with what `read_jagged` takes.
        schema: The schema that makes the arguments.

    Raises:
        InvalidInput: It is none of these.
        ExportError: The schema makes no such argument.
    """
    made = schema.argument_names()
    if isinstance(spec, str):
        if spec not in made:
            close = get_close_matches(spec, made, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ExportError(
                f"arguments[{where!r}] is {spec!r}, which the schema does not make{meant}; it makes {', '.join(made)}"
            )
        return source_of(made[spec])
    if spec is None or isinstance(spec, bool | int | float):
        return Constant(spec)
    if inspect.isclass(spec) and is_jagged(spec):
        return read_jagged(where, spec, None, schema)
    if isinstance(spec, tuple) and len(spec) == 2 and inspect.isclass(spec[0]) and is_jagged(spec[0]):
        return read_jagged(where, spec[0], spec[1], schema)
    if isinstance(spec, list | tuple):
        items = tuple(read_spec(f"{where}[{place}]", each, schema) for place, each in enumerate(spec))
        return Several(list if isinstance(spec, list) else tuple, items)
    if isinstance(spec, Mapping) and all(isinstance(key, str) for key in spec):
        entries = {key: read_spec(f"{where}[{key!r}]", each, schema) for key, each in spec.items()}
        return Entries(entries, set(), lambda what, key: _missing(where, what, entries))
    raise InvalidInput(
        f"arguments[{where!r}] is {spec!r}; it must be the name of an argument of the schema, a list, tuple or dict of"
        " such, a constant (bool, int, float or None), or the class of features by key that the module takes"
    )


def source_of(argument: Argument) -> Source:
    """Return the source of one argument of the schema."""
    if argument.part == "matrix":
        return Matrix(argument.members, ids_alone=not argument.dense)
    return Stack(argument.name) if argument.part == "id_stack" else Flat(argument.name)


def read_jagged(where: str, kind: type, spec: object, schema: Schema) -> Jagged:
    """Return the source of features by key.

    Args:
        where: The parameter or key, for messages.
        kind: Class that the module takes.
        spec: Names of features, which are the keys; or features by key. None: all features with `many`.
        schema: The schema that has the features.

    Raises:
        InvalidInput: The spec is none of these.
        ExportError: There is no such feature, or it has no bags.
    """
    if spec is None:
        spec = [each.name for each in schema.features if isinstance(each, Sparse) and each.many]
        if not spec:
            raise ExportError(
                f"{where!r} is {kind.__name__}, of features with any number of ids per row; the schema has none:"
                " declare them Sparse with many=True"
            )
    names: Any = [spec] if isinstance(spec, str) else spec
    by_key = names if isinstance(names, Mapping) else {each: each for each in names} if _is_names(names) else {}
    if not by_key or not _is_names([*by_key, *by_key.values()]):
        raise InvalidInput(
            f"arguments[{where!r}] is {spec!r}; for {kind.__name__} it must be a list of features, or a dict of"
            " features by key"
        )
    return Jagged(kind, tuple(_bag_names(where, key, name, schema) for key, name in by_key.items()))


def _is_names(names: object) -> bool:
    return isinstance(names, list | tuple) and all(isinstance(each, str) for each in names)


def _bag_names(where: str, key: str, name: str, schema: Schema) -> BagNames:
    feature = schema.get(name)
    if not isinstance(feature, Sparse):
        having = ", ".join(each.name for each in schema.features if isinstance(each, Sparse)) or "none"
        raise ExportError(f"{where!r}: the schema has no Sparse feature {name!r} for key {key!r}; it has {having}")
    if not feature.many:
        return BagNames(key, name, None, None)
    if not feature.include_last_offset:
        raise ExportError(
            f"feature {name}: the offsets of features by key end with the last; leave include_last_offset"
        )
    return BagNames(key, name, f"{name}_offsets", f"{name}_weights" if feature.weighted else None)


def _missing(where: str, what: str, entries: Mapping[str, Source]) -> str:
    return f"the module {what}, that is of arguments[{where!r}], which has {', '.join(entries)}; add it there"
