"""Fields of a frame's header, read in order, each held against the type and the bounds that it must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import le
from reprlib import repr as brief
from typing import Any, Final, NoReturn

from ringpull.ps.errors import ProtocolError
from ringpull.ps.wire.frames import Frame

MAX_INT: Final = 2**63 - 1
MAX_UINT: Final = 2**64 - 1


class Layout:
    """Types and bounds of fields that follow each other, for `HeaderFields.several`."""

    __slots__ = ("highest", "numbers", "texts", "types")

    def __init__(self, texts: Sequence[str], numbers: Mapping[str, int]) -> None:
        """Note what is due.

        Args:
            texts: Names of those that are text, which come first.
            numbers: Highest number of each of the rest, of one at least.
        """
        self.texts: Final = texts
        self.numbers: Final = numbers
        self.types: Final = [str] * len(texts) + [int] * len(numbers)
        self.highest: Final = list(numbers.values())


class HeaderFields:
    """The fields of one header, read in order, each with the type it must have."""

    __slots__ = ("_kind", "_next", "_values")

    def __init__(self, frame: Frame, values: list[Any] | None = None) -> None:
        self._kind = frame.kind
        self._values = frame.fields if values is None else values
        self._next = 0

    def text(self, name: str) -> str:
        value = self._take(name)
        if type(value) is not str:
            self._refuse(name, value, "text")
        return value

    def number(self, name: str, highest: int = MAX_INT, lowest: int = 0) -> int:
        at = self._next  # `_take`, without the call: most fields are numbers
        if at == len(self._values):
            self._take(name)
        self._next = at + 1
        value = self._values[at]
        if type(value) is not int or not lowest <= value <= highest:
            self._refuse(name, value, f"an integer from {lowest} to {highest}")
        return value

    def several(self, layout: Layout) -> list[Any]:
        """Return the fields of a layout: as `text` and `number` would one by one, and in a third of the time."""
        begin, end = self._next, self._next + len(layout.types)
        values = self._values[begin:end]
        numbers = values[len(layout.texts) :]
        right = list(map(type, values)) == layout.types and min(numbers) >= 0 and all(map(le, numbers, layout.highest))
        if right:  # mostly
            self._next = end
            return values
        texts = map(self.text, layout.texts)
        return [*texts, *(self.number(name, highest) for name, highest in layout.numbers.items())]

    def items(self, name: str) -> list[Any]:
        value = self._take(name)
        if type(value) is not list:
            self._refuse(name, value, "an array")
        return value

    @property
    def left(self) -> bool:
        return self._next < len(self._values)

    def end(self) -> None:
        if self._next != len(self._values):
            raise ProtocolError(
                f"{self._kind.name}: the header has {len(self._values)} fields; it must have {self._next}"
            )

    def _take(self, name: str) -> Any:
        if self._next == len(self._values):
            raise ProtocolError(f"{self._kind.name}: the header ends before the field {name}")
        self._next += 1
        return self._values[self._next - 1]

    def _refuse(self, name: str, value: object, right: str) -> NoReturn:
        raise ProtocolError(f"{self._kind.name}: {name} is {brief(value)}; it must be {right}")
