"""Consoles of the commands: results go to standard output, everything else for people to standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console

PIPED_WIDTH: Final = 160
"""Width of results that go to a file or a pipe, unless `COLUMNS` is set."""

out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
"""Console of results."""
err = Console(stderr=True)
"""Console of progress, warnings and errors."""


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


def print_line(text: str) -> None:
    """Print one line on standard output, without wrapping or styles."""
    print(text, flush=True)
