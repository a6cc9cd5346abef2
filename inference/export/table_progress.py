"""Progress of a table that is written, as a bar for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

PROGRESS_BYTES: Final = 256 * 1024 * 1024
"""Smallest table that shows a progress bar: smaller ones take less than about a second."""


@contextmanager
def table_progress(console: Console | None, table: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many bytes of rows were handed over, and that the writer sorts them after the last.

    Args:
        total_bytes: Bytes of all rows; None: it is not known, as they come in chunks.
    """
    if console is None or (total_bytes is not None and total_bytes < PROGRESS_BYTES):
        yield lambda added_bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"table {table}", total=total_bytes)

        def advance(added_bytes: int) -> None:
            progress.advance(task, added_bytes)
            if progress.tasks[0].finished:
                progress.update(task, description=f"table {table}: sorting", total=None)

        yield advance
