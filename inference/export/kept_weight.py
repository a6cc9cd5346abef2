"""A weight that stays in the dense program, whatever runs that, and why: the report of an export or import says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.ps.text.byte_size import size

LARGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes from which on a weight of the dense program is named, whatever it is for."""


@dataclass(frozen=True, slots=True)
class KeptWeight:
    """A weight that stays in the dense program."""

    name: str
    bytes: int
    reason: str
    copy: bool = False
    """Whether its look-ups are a table all the same: what stays is a copy of the rows."""

    @property
    def sentence(self) -> str:
        """What people read of it."""
        what = "is a table, and a copy of it stays" if self.copy else "stays"
        return f"{self.name} {what} in the dense program ({size(self.bytes)}): {self.reason}"
