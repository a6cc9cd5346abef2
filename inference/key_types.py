"""Types of keys, as they come against a table's: what is checked of them wherever rows are named by key."""

from __future__ import annotations

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import KeyType, TableSpec


def check_key_type(name: str, given: KeyType | None, spec: TableSpec) -> None:
    """Check the type in which keys came against a table's; None: it is not told.

    Raises:
        InvalidInput: They are strings and should be integers, or the other way round; the message begins with `name`.
    """
    strings = spec.key_type is KeyType.STRING
    if given is not None and strings is not (given is KeyType.STRING):
        has, are = ("strings", "integers") if strings else ("integers", "strings")
        raise InvalidInput(f"{name}: are {are}; table {spec.name} is keyed by {has}")
