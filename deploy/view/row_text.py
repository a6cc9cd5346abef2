"""Parser of rows on the command line: `user_id=7,genres=drama|crime`, typed by the model's description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import InvalidInput

SEPARATOR: Final = "|"
"""Separator of the values of a list."""

_READERS: Final[Mapping[int, tuple[Callable[[str], Any], str]]] = {
    pb.INT64: (int, "an integer"),
    pb.UINT64: (int, "an integer"),
    pb.FLOAT32: (float, "a number"),
    pb.STRING: (str, "a string"),
}


def columns_of_rows(rows: Sequence[str], features: Sequence[pb.FeatureInfo]) -> dict[str, list[Any]]:
    """Return the columns of rows: one entry, or one list, per row.

    Args:
        rows: Rows as `NAME=VALUE,...`, all with the same features. Values of a list are separated by `|`; nothing after
            the `=` is an empty list. A string that contains `,` or `|` needs a request in JSON.
        features: Features of the model.

    Raises:
        InvalidInput: A row has another form, or names a feature that the model or another row does not have.
    """
    infos = {info.name: info for info in features}
    read = [_row(text, infos) for text in rows]
    for text, row in zip(rows[1:], read[1:], strict=True):
        if row.keys() != read[0].keys():
            differing = ", ".join(sorted(row.keys() ^ read[0].keys()))
            raise InvalidInput(f"row {text!r}: every row names the same features; {differing} is not in all of them")
    return {name: [row[name] for row in read] for name in (read[0] if read else ())}


def _row(text: str, infos: Mapping[str, pb.FeatureInfo]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"row {text!r}: {pair!r} is not NAME=VALUE")
        if name in row:
            raise InvalidInput(f"row {text!r}: feature {name} is given twice")
        if name not in infos:
            raise InvalidInput(f"feature {name} is not one of this model; it takes {', '.join(sorted(infos))}")
        row[name] = _value(infos[name], value)
    if not row:
        raise InvalidInput(f"row {text!r}: it names no feature; write NAME=VALUE,...")
    return row


def _value(info: pb.FeatureInfo, text: str) -> Any:
    reader, what = _READERS[info.dtype]
    listed = info.many or info.width > 1
    try:
        if listed:
            return [reader(part) for part in text.split(SEPARATOR)] if text else []
        return reader(text)
    except ValueError as exc:
        raise InvalidInput(f"feature {info.name}: {text!r} is not {what}{' per value' if listed else ''}") from exc
