"""Progress of a bring-up on standard error: one line per step with its time, and a spinner on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

LINE_EVERY_S: Final = 10.0
"""Interval between two lines about the progress of one step where there is no terminal."""


class Progress:
    """Display of the steps of a long operation.

    Args:
        console: Console to print on, for people.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show that step `what` runs, and when it is done the time it took; after a failure, only the error is shown.

        Yields:
            Function that shows the progress within the step; it may be called at any rate.
        """
        begin_s = said_s = time.monotonic()
        how_far = ""
        # Without a terminal the spinner prints nothing; with one it disappears before the line is printed.
        with self._console.status(f"{what} ...") as status:

            def say(text: str) -> None:
                nonlocal how_far, said_s
                if text == how_far:
                    return
                how_far = text
                status.update(f"{what}: {text} ...")
                if not self._console.is_terminal and time.monotonic() - said_s >= LINE_EVERY_S:
                    said_s = time.monotonic()
                    self._console.print(f"{what}: {text}", highlight=False)

            yield say
        self._console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - begin_s:.1f} s[/]", highlight=False)
