"""Credentials of a command that asks a deployment: those that its command line, or the environment, gave it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from ringpull.inference.client.credentials import Credentials

_given: Final[ContextVar[Credentials | None]] = ContextVar("credentials of the command", default=None)


@contextmanager
def using(credentials: Credentials) -> Iterator[None]:
    """Have everything that a command does within go with these credentials."""
    before = _given.set(credentials)
    try:
        yield
    finally:
        _given.reset(before)


def current() -> Credentials:
    """Return the credentials of the command that runs; without one, those of the environment.

    Raises:
        InvalidInput: Those of the environment cannot be used; the message names the variable.
    """
    return _given.get() or Credentials.given()
