"""Results of the user's method as outputs by name: which there are, whatever they come in, and which are served.

A method returns a tensor; or a dict, a tuple, a list, a named tuple, a dataclass or an object of tensors, nested or
not, in which `None` stands where there is nothing. Beside scores it may return what is no score of a row: a loss,
attention weights, positions of the best. `outputs=["score"]` says which of all are served.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ringpull.ps.errors import ExportError, InvalidInput


def check_wanted(outputs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of outputs that the exporter wants, as a tuple; None: all.

    Raises:
        InvalidInput: They are no list of different names.
    """
    if outputs is None:
        return None
    if isinstance(outputs, str):
        raise InvalidInput(f"outputs is {outputs!r}; it must be a list of names, as [{outputs!r}]")
    names = tuple(outputs)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"outputs is {list(names)!r}; it must be a list of one or more names, all different")
    return names


def results(returned: Any, wanted: tuple[str, ...] | None, described: str) -> Any:
    """Return a method's outputs as a dict by name; one tensor that it returns alone as it is.

    Raises:
        ExportError: One that is wanted is not there, or two have one name.
    """
    if isinstance(returned, Tensor) and wanted is None:
        return returned
    found: dict[str, Any] = {}
    for name, value in _named(returned, ""):
        if name in found:
            raise ExportError(f"{described} returns two outputs of the name {name!r}; give them keys that differ")
        found[name] = value
    if wanted is None:
        return found
    for name in wanted:
        if name not in found:
            raise ExportError(f"outputs names {name!r}, which {described} does not return; it returns {_said(found)}")
    return {name: found[name] for name in wanted}


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield all that is in a result, by name: keys and fields, and `output_0`, `output_1` of a tuple."""
    if value is None:
        return
    entries = _entries(value, "" if name else "output_")
    if entries is None:
        yield name or "output", value
        return
    for key, entry in entries.items():
        yield from _named(entry, f"{name}.{key}" if name else str(key))


def _entries(value: Any, before: str) -> Mapping[Any, Any] | None:
    """Return what a structure holds, by key, field or place; None of what is no structure."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        fields: Sequence[str] = getattr(value, "_fields", ())
        return dict(zip(fields or [f"{before}{at}" for at in range(len(value))], value, strict=True))
    public = {key: each for key, each in getattr(value, "__dict__", {}).items() if not key.startswith("_")}
    of_tensors = not isinstance(value, Tensor) and any(isinstance(each, Tensor) for each in public.values())
    return public if of_tensors else None


def _said(found: Mapping[str, Any]) -> str:
    return ", ".join(found) or "nothing"
