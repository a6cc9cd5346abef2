"""Identities: what a version or a table *is*, whatever its path and number.

That of a table is the checksum in its header, which by way of the sections covers every row (`Header.identity`), an
int. That of a version is the checksum of its manifest, 16 hex digits; on the wire it is a number, too. 0 and the empty
text mean that an identity is not known, and agree with every other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UNKNOWN: Final = 0

MAX_IDENTITY: Final = 2**64 - 1


def number_of(identity: str) -> int:
    """Return the identity of a version as a number; 0 where it is not known."""
    return int(identity, 16) if identity else UNKNOWN


def text_of(identity: int) -> str:
    """Return an identity as people and the saved state read it: 16 hex digits."""
    return f"{identity:016x}"


def differ(first: int, second: int) -> bool:
    """Return whether two identities are of two contents for sure."""
    return first != second and first != UNKNOWN and second != UNKNOWN


def identity_in(versions: object, name: tuple[str, int]) -> int:
    """Return the identity by which a command names a version: 0 where it gives names only, and no identities."""
    return number_of(versions[name]) if isinstance(versions, Mapping) else UNKNOWN
