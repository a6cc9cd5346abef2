"""Fields table: a table of cells that fits the terminal by shortening names and leaving out less important columns.

In this order, until it fits:
1. columns of text that may wrap become narrower, and names lose characters on the left, where related names are alike,
   down to `READABLE` characters;
2. columns with a `rank` are left out, the highest rank first; a line below the table names them;
3. names lose more characters, down to `MIN_NAME`.
Numbers are never shortened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

READABLE: Final = 24
MIN_NAME: Final = 12

Kind = Literal["word", "number", "name", "wrapped"]


@dataclass(frozen=True, slots=True)
class Column:
    """Column, and how it may be shortened where there is no room."""

    title: str
    kind: Kind = "word"
    """Kind of its cells. word: a short text, never shortened. number: right-aligned, never shortened. name: shortened
    from the left. wrapped: any text, over several lines."""
    rank: int = 0
    """Rank for leaving columns out, the highest first; 0: never left out."""


class FieldsTable:
    """Table with a title; a renderable of rich."""

    def __init__(self, title: str, columns: Iterable[Column], below: str = "") -> None:
        self.title = title
        self.below = below
        """Line below the table; empty: none."""
        self.columns = tuple(columns)
        self._rows: list[tuple[tuple[Text, ...], str]] = []

    def add(self, *cells: str | Text, style: str = "") -> None:
        """Add a row; missing cells at its end stay empty."""
        texts = tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells)
        self._rows.append((texts + (Text(),) * (len(self.columns) - len(texts)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        natural = [max(map(_width, (Text(each.title), *cells))) for each, cells in self._by_column()]
        widths = [
            min(width, READABLE) if each.kind in ("name", "wrapped") else width
            for each, width in zip(self.columns, natural, strict=True)
        ]
        shown = list(range(len(self.columns)))
        while True:
            room = options.max_width - _min_width(console, options, self._table(shown, widths))
            spare = max(shown, key=lambda i: self.columns[i].rank)
            if room >= 0 or self.columns[spare].rank == 0:
                break
            shown.remove(spare)
        for i in shown:
            if self.columns[i].kind == "name":
                fitting = max(min(natural[i], widths[i] + room), min(natural[i], MIN_NAME))
                room -= fitting - widths[i]
                widths[i] = fitting
        yield self._table(shown, widths)
        if self.below:
            yield Text(self.below, style="dim")
        left_out = [each.title for i, each in enumerate(self.columns) if i not in shown]
        if left_out:
            yield Text(f" not shown at this width: {', '.join(left_out)}", style="dim")

    def _by_column(self) -> Iterator[tuple[Column, tuple[Text, ...]]]:
        for i, column in enumerate(self.columns):
            yield column, tuple(cells[i] for cells, _ in self._rows)

    def _table(self, shown: Sequence[int], widths: Sequence[int]) -> Table:
        table = Table(
            title=self.title or None,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            border_style="dim",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for i in shown:
            column = self.columns[i]
            table.add_column(
                column.title,
                justify="right" if column.kind == "number" else "left",
                no_wrap=column.kind != "wrapped",
                overflow="fold",
                min_width=widths[i],
                max_width=None if column.kind == "wrapped" else widths[i],
            )
        for cells, style in self._rows:
            table.add_row(*(_shortened(cells[i], widths[i], self.columns[i].kind) for i in shown), style=style)
        return table


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _min_width(console: Console, options: ConsoleOptions, table: Table) -> int:
    return Measurement.get(console, options.update(width=10_000), table).minimum


def _shortened(text: Text, width: int, kind: Kind) -> Text:
    """Return a name shortened to `width` characters, an ellipsis and its end; any other text as it is."""
    excess = len(text) - width
    if kind != "name" or excess <= 0:
        return text
    return Text("…", style=text.style).append_text(text[excess + 1 :])
