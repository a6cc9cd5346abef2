"""Progress of a bring-up, on standard error: one line per step with its time, and a spinner on a terminal meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Tells the steps of something long to whoever watches.

    Args:
        console: Where to; its lines are for people, never for programs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Tell that `what` runs, and when it is done how long it took; nothing more when it fails: the error speaks."""
        begin_s = time.monotonic()
        # Without a terminal the spinner prints nothing; with one it vanishes before the line appears.
        with self._console.status(f"{what} ..."):
            yield
        self._console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - begin_s:.1f} s[/]", highlight=False)
