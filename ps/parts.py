"""Parts of a table: the base of the full version that a version's chain begins with, and what each delta brought.

    user            base, from the folder of the full version
    user+8          changed and new rows of the delta that is version 8
    user+8+gone     keys that went with it: a table of bytes whose rows are empty

A part travels, is stored, copied, scrubbed and streamed like a table, under its name; `+` is in no table's name. How
often it is copied, and which slots of it are whose, is as its table says. A table that no delta touched has one part,
called as itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_JOINT: Final = "+"
_GONE: Final = "gone"


@dataclass(frozen=True, slots=True)
class PartName:
    """Name of a part, taken apart."""

    table: str
    version: int = 0
    """Delta that brought it; 0: it is the base."""
    gone: bool = False
    """Whether it is the keys that went."""

    @classmethod
    def of(cls, name: str) -> PartName:
        """Take a part's name apart."""
        table, _, rest = name.partition(_JOINT)
        number, _, gone = rest.partition(_JOINT)
        return cls(table, int(number) if number else 0, gone == _GONE)

    def __str__(self) -> str:
        if not self.version:
            return self.table
        return _JOINT.join([self.table, str(self.version), *([_GONE] if self.gone else [])])


def table_of(part: str) -> str:
    """Return the name of the table that a part is of."""
    return part.partition(_JOINT)[0]


def tables_of(parts: Iterable[str]) -> dict[str, list[PartName]]:
    """Return the parts of each table, in the order in which they compose: the base, then each delta, oldest first."""
    found: dict[str, list[PartName]] = {}
    for part in parts:
        name = PartName.of(part)
        found.setdefault(name.table, []).append(name)
    return {table: sorted(names, key=lambda each: (each.version, each.gone)) for table, names in found.items()}
