"""A command line that was run in the process of a test: what `ringpull` of `tests/deploy/conftest.py` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Ran(NamedTuple):
    """Exit status, and what was written."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]
