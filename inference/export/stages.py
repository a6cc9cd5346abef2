"""Stages of an export, shown to people while they last; a terminal shows the one that is under way, a log nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def stage(console: Console | None, doing: str) -> AbstractContextManager[object]:
    """Show what is being done, of which nobody can say how far it is; nothing without a console."""
    return nullcontext() if console is None else console.status(f"{doing} ...")


@contextmanager
def counted(console: Console | None, doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of several things are done; each call of what comes is one more."""
    if console is None or not total:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda: progress.advance(task)
