"""Parser of sizes in bytes: `16GiB`, `500MB`, `4096`."""

from __future__ import annotations

import re
from typing import Final

from ringpull.ps.errors import InvalidInput

UNITS: Final = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for unit, base in (("iB", 1024), ("B", 1000), ("", 1024))
}
"""Number of bytes by unit. A bare letter means a power of 1024, as in `dd`, `ls` and `du`."""

_FACTORS: Final = {unit.lower(): factor for unit, factor in UNITS.items()}

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_rate(option: str, text: str) -> int:
    """Return the bytes per second that `text` stands for, a size or 0.

    Raises:
        InvalidInput: `text` is neither.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is not None and not float(found[1]) and found[2].lower() in _FACTORS:
        return 0
    return parse_size(option, text)


def parse_size(option: str, text: str) -> int:
    """Return the size in bytes that `text` stands for.

    Args:
        option: Name of the option, for the error.

    Raises:
        InvalidInput: `text` is not a size above 0.
    """
    found = _SIZE.fullmatch(text.strip())
    factor = None if found is None else _FACTORS.get(found[2].lower())
    if found is None or factor is None or (value := int(float(found[1]) * factor)) < 1:
        raise InvalidInput(f"{option} {text!r}: write an amount of bytes above 0, such as 500MB or 16GiB")
    return value
