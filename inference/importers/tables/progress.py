"""Progress of an import, as a bar for people: by rows where their number is known, else by how much was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ringpull.inference.importers.tables.source import TablePiece

_SHARES: Final = 10_000
"""Steps of a bar that goes by how much was read."""


class _Rows(ProgressColumn):
    """How many rows were read, and how many a second."""

    def render(self, task: Task) -> Text:
        rows = int(task.fields["read_rows"])
        speed = (rows - int(task.fields["before"])) / task.elapsed if task.elapsed else 0.0
        return Text(f"{rows:,} rows, {speed:,.0f}/s")


@contextmanager
def import_progress(
    console: Console | None, table: str, rows: int | None, read_rows: int
) -> Iterator[Callable[[TablePiece], None]]:
    """Show how far the reading of a table is; the function given is called with each piece."""
    if console is None:
        yield lambda piece: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Rows(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(
            f"table {table}",
            total=_SHARES if rows is None else rows,
            completed=0 if rows is None else read_rows,
            read_rows=read_rows,
            before=read_rows,
        )
        read = read_rows

        def advance(piece: TablePiece) -> None:
            nonlocal read
            read += len(piece)
            if rows is not None:
                progress.update(task, completed=read, read_rows=read)
            elif piece.share is not None:
                progress.update(task, completed=int(piece.share * _SHARES), read_rows=read)
            else:
                progress.update(task, total=None, read_rows=read)

        yield advance
        progress.update(task, description=f"table {table}: sorting", total=None)
