"""Consoles of the commands: results go to standard output, everything else for people to standard error."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console

from ringpull.deploy.view.streams import OutputLost, StandardOutput, standard_error

PIPED_WIDTH: Final = 160
"""Width of results that go to a file or a pipe, unless `COLUMNS` is set."""


def _is_terminal(stream: TextIO | None) -> bool:
    with suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


out = Console(width=None if _is_terminal(sys.stdout) or "COLUMNS" in os.environ else PIPED_WIDTH)
"""Console of results."""


err = Console(file=standard_error)
"""Console of progress, warnings and errors. Printing on it never fails."""


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, without styles.

    NaN and infinities, which JSON does not have, become null.

    Raises:
        OutputLost: Standard output did not take all of it.
    """
    print_line(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def print_written(done: str, folder: Path) -> None:
    """Print what was done, such as `exported`, where the version is, and the command that serves it, for a shell."""
    print_line(f"{done} {folder}; serve it with: ringpull serve {shlex.quote(str(folder.parent))}")


def warn(text: str) -> None:
    """Print a warning for people, on one line."""
    err.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def can_ask() -> bool:
    """Return whether somebody at a terminal can be asked."""
    return _is_terminal(sys.stdin)


def agreed(question: str) -> bool:
    """Ask on standard error, and return whether the answer on standard input is yes."""
    err.print(f"{question} [y/N] ", end="", highlight=False, markup=False)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except (OSError, ValueError):  # the terminal went away, or said what is no text
        return False


def say(text: str) -> None:
    """Print a line for people."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def say_line(text: str) -> None:
    """Print one line on standard output if it takes it, else on standard error: for who goes on whether or not."""
    try:
        print_line(text)
    except OutputLost as exc:
        warn(f"{exc}: {text}")
        # What is left in the buffer would fail again when Python ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives


def print_line(text: str) -> None:
    """Print one line on standard output, without wrapping or styles.

    Raises:
        OutputLost: Standard output did not take it.
    """
    stream = sys.stdout if isinstance(sys.stdout, StandardOutput) else StandardOutput(sys.stdout)
    stream.write(f"{text}\n")
    stream.flush()
