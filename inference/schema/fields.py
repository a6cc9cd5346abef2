"""Typed reading of JSON that may be damaged: each field is checked, and an error names the file and the field."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from ringpull.ps.errors import CorruptData, InvalidInput

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object: exactly the fields expected, none read without a check. Every method raises `CorruptData`."""

    file: Path
    at: str
    """Place of the object in the document, as in `tables[2]`; empty at the top."""
    values: dict[str, Any]

    @classmethod
    def of(cls, file: Path, at: str, value: object, names: Iterable[str]) -> Fields:
        """Check that `value` is an object with exactly these fields."""
        place = at or "the document"
        if not isinstance(value, dict):
            raise CorruptData(f"{file}: {place} must be an object, not {_kind(value)}")
        wanted = set(names)
        if missing := sorted(wanted - set(value)):
            raise CorruptData(f"{file}: {place} lacks the field {missing[0]!r}")
        if unknown := sorted(set(value) - wanted):
            raise CorruptData(f"{file}: {place} has an unknown field {unknown[0]!r}")
        return cls(file, at, value)

    def error(self, name: str, message: str) -> CorruptData:
        """Return (not raise) the error about the field `name`."""
        return CorruptData(f"{self.file}: {self._path(name)}: {message}")

    def absent(self, name: str) -> bool:
        """Return whether the field is null."""
        return self.values[name] is None

    def text(self, name: str) -> str:
        """Return a string that is not empty."""
        value = self.values[name]
        if not isinstance(value, str) or not value:
            raise self.error(name, f"must be a string that is not empty, not {value!r:.80}")
        return value

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        value = self.values[name]
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, not {value!r:.80}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return self._integer(name, self.values[name], low, high)

    def integers(self, name: str, low: int, high: int) -> list[int]:
        """Return a list of whole numbers from `low` to `high`."""
        return [self._integer(f"{name}[{i}]", value, low, high) for i, value in enumerate(self._list(name))]

    def number(self, name: str) -> float:
        """Return a number."""
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
            raise self.error(name, f"must be a number that a float64 holds, not {value!r:.80}")
        return float(value)

    def numbers(self, name: str) -> list[float]:
        """Return a list of numbers."""
        values = self._list(name)
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.error(f"{name}[{i}]", f"must be a number, not {value!r:.80}")
        try:
            return [float(value) for value in values]
        except OverflowError as exc:
            raise self.error(name, f"must be numbers that a float64 holds: {exc}") from exc

    def texts(self, name: str) -> list[str]:
        """Return a list of strings that are not empty."""
        values = self._list(name)
        for i, value in enumerate(values):
            if not isinstance(value, str) or not value:
                raise self.error(f"{name}[{i}]", f"must be a string that is not empty, not {value!r:.80}")
        return values

    def choice(self, name: str, kind: type[E]) -> E:
        """Return one of the values of a `StrEnum`."""
        try:
            return kind(self.values[name])
        except ValueError as exc:
            raise self.error(
                name, f"must be one of {[member.value for member in kind]}, not {self.values[name]!r:.80}"
            ) from exc

    def checked(self, name: str, check: Callable[[str], None]) -> str:
        """Return a string that `check` accepts; what it raises as `InvalidInput` becomes `CorruptData`."""
        value = self.text(name)
        try:
            check(value)
        except InvalidInput as exc:
            raise self.error(name, str(exc)) from exc
        return value

    def inner(self, name: str, names: Iterable[str]) -> Fields:
        """Return the object in a field, with exactly the fields `names`."""
        return Fields.of(self.file, self._path(name), self.values[name], names)

    def items(self, name: str, names: Iterable[str]) -> list[Fields]:
        """Return the objects of the list in a field, each with exactly the fields `names`."""
        wanted = tuple(names)
        return [
            Fields.of(self.file, f"{self._path(name)}[{i}]", value, wanted) for i, value in enumerate(self._list(name))
        ]

    def variants(self, name: str, kinds: Mapping[str, Iterable[str]]) -> list[Fields]:
        """Return the objects of the list in a field, each with a `kind` and exactly the fields of its kind."""
        found = []
        for i, value in enumerate(self._list(name)):
            at = f"{self._path(name)}[{i}]"
            if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
                raise CorruptData(f"{self.file}: {at} must be an object that says its kind")
            names = kinds.get(value["kind"])
            if names is None:
                raise CorruptData(
                    f"{self.file}: {at}.kind: {value['kind']!r:.80} is none that this build knows: {', '.join(kinds)}"
                )
            found.append(Fields.of(self.file, at, value, ("kind", *names)))
        return found

    def _path(self, name: str) -> str:
        return f"{self.at}.{name}" if self.at else name

    def _list(self, name: str) -> list[Any]:
        value = self.values[name]
        if not isinstance(value, list):
            raise self.error(name, f"must be a list, not {_kind(value)}")
        return value

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"must be a whole number from {low} to {high}, not {value!r:.80}")
        return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
