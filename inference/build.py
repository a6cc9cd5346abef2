"""Which build of ringpull this is: the two ends of an operator's call compare it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


@cache
def build() -> str:
    """Return the version of the installed package."""
    return version("ringpull")
