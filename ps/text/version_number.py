"""Numbers of versions: what they may be, and how a name or an argument says one."""

from __future__ import annotations

from typing import Final

MAX_VERSION: Final = 2**63 - 1
"""Largest number of a version: they travel as int64."""
RANGE: Final = "from 1 to 2^63 - 1"
"""Numbers that a version may have, for messages."""

_DIGITS: Final = len(str(MAX_VERSION))


def version_number(text: str) -> int:
    """Return the number that a text says, zeros before it or not; 0 where it says none that a version may have."""
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS):
        return 0
    number = int(digits)
    return number if number <= MAX_VERSION else 0
