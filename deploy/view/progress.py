"""Progress of a bring-up, on standard error: one line per step with its time, and a spinner on a terminal meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

LINE_EVERY_S: Final = 10.0
"""Without a terminal how far a step is becomes a line, which must not fill a log."""


class Progress:
    """Tells the steps of something long to whoever watches.

    Args:
        console: Where to; its lines are for people, never for programs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Tell that `what` runs, and when it is done how long it took; nothing more when it fails: the error speaks.

        Yields:
            To be told how far it is, as often as that is known.
        """
        begin_s = said_s = time.monotonic()
        how_far = ""
        # Without a terminal the spinner prints nothing; with one it vanishes before the line appears.
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
