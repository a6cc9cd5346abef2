"""Quiet while torch works: what it says of its own internals, users can do nothing about.

A trace that fails is told of by one `ExportError`, in words. Before that torch would print its graph so far, twice, and
log what it could not find. What the user's own module prints or warns of by itself is not torch's: prints pass.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Final, TextIO

LOGGERS: Final = ("torch.fx.experimental.symbolic_shapes", "torch.export._trace", "torch._subclasses.fake_tensor")
"""Loggers that tell of a failed trace in torch's own terms."""


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep warnings, and what torch prints and logs of a failed trace, from standard error."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings(action="ignore"), redirect_stderr(_WithoutTorch(sys.stderr)):
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


class _WithoutTorch(io.TextIOBase):
    """A stream that passes on what is written to it, unless torch's exporter itself writes it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or io.StringIO()  # a process may have none

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if sys._getframe(1).f_globals.get("__name__", "").startswith("torch.export"):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()
