"""Consoles of the commands: results go to standard output, everything else for people to standard error."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, TextIO, cast

from rich.console import Console

PIPED_WIDTH: Final = 160
"""Width of results that go to a file or a pipe, unless `COLUMNS` is set."""

out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
"""Console of results."""


class _StandardError(io.TextIOBase):
    """Standard error as it is at the time, which takes everything: who serves does not end because nobody reads it."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream().flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream().isatty()
        return False

    def fileno(self) -> int:
        return self._stream().fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def _stream(self) -> TextIO:
        stream = sys.stderr or io.StringIO()
        # While a spinner turns, rich has put a stream of its own there, which prints on this console.
        return cast("TextIO", getattr(stream, "rich_proxied_file", stream))


standard_error: Final = cast("TextIO", _StandardError())
"""Standard error, to which writing never fails."""
err = Console(file=standard_error)
"""Console of progress, warnings and errors. Printing on it never fails."""


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, without styles.

    NaN and infinities, which JSON does not have, become null.
    """
    print(json.dumps(_finite(value), indent=2, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def warn(text: str) -> None:
    """Print a warning for people, on one line."""
    err.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line for people."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def say_line(text: str) -> None:
    """Print one line on standard output, if anybody reads it: for who goes on whether or not."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # `| head` has ended, the disk is full, or there is none
        # What is left in the buffer would fail again when Python ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def print_line(text: str) -> None:
    """Print one line on standard output, without wrapping or styles."""
    print(text, flush=True)
