"""Where commands write: results on standard output, everything for the watching person on standard error."""

from __future__ import annotations

import json
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

LEAST_WIDTH: Final = 100
"""Of results: a narrower terminal breaks their lines, which loses nothing; squeezed tables would lose their columns."""

out = Console(width=max(LEAST_WIDTH, Console().width))
"""Results."""
err = Console(stderr=True)
"""Progress, warnings, errors."""


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, plain: programs read it."""
    print(json.dumps(value, indent=2, allow_nan=True), flush=True)


def print_line(text: str) -> None:
    """Print one line on standard output as it is: not wrapped, not coloured."""
    print(text, flush=True)


def size(count: int) -> str:
    """Return bytes as people read them: `12.3 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def facts_table(title: str, *columns: str) -> Table:
    """Return an empty table of our look; a column that begins with `#` holds numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        border_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        name, number = column.removeprefix("#"), column.startswith("#")
        # Where there is no room words fold; numbers are never cut.
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table
