"""Reading of `arguments={...}`: what the exporter says that a parameter, or a key that is read, is given."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from ringpull.inference.export.calls.sources import Constant, Entries, Flat, Several, Source
from ringpull.inference.schema.arguments import Argument
from ringpull.ps.errors import ExportError, InvalidInput


def read_spec(where: str, spec: object, made: Mapping[str, Argument]) -> Source:
    """Return the source that a spec describes.

    Args:
        where: The parameter or key, for messages; what lies in it is named `where[0]` or `where['key']`.
        spec: Name of an argument, a list, tuple or dict of specs, or a constant.
        made: The schema's arguments.

    Raises:
        InvalidInput: It is none of these.
        ExportError: The schema makes no such argument.
    """
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
    if isinstance(spec, list | tuple):
        items = tuple(read_spec(f"{where}[{place}]", each, made) for place, each in enumerate(spec))
        return Several(list if isinstance(spec, list) else tuple, items)
    if isinstance(spec, Mapping) and all(isinstance(key, str) for key in spec):
        entries = {key: read_spec(f"{where}[{key!r}]", each, made) for key, each in spec.items()}
        return Entries(entries, set(), lambda what: _missing(where, what, entries))
    raise InvalidInput(
        f"arguments[{where!r}] is {spec!r}; it must be the name of an argument of the schema, a list, tuple or dict of"
        " such, or a constant (bool, int, float or None)"
    )


def source_of(argument: Argument) -> Source:
    """Return the source of one argument of the schema."""
    return Flat(argument.name)


def _missing(where: str, what: str, entries: Mapping[str, Source]) -> str:
    return f"the module {what}, that is of arguments[{where!r}], which has {', '.join(entries)}; add it there"
