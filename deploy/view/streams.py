"""Standard streams of a command: they may be closed, full, read by nobody, or of another encoding than UTF-8.

What a command answers goes to standard output, and is whole or the command fails. What people are told besides goes to
standard error, if that takes it. A character that a stream's encoding lacks is written in the words of `STAND_INS`, or
as an escape: none of them is worth an error.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Final, TextIO, cast

from ringpull.ps.errors import RingpullError

STAND_INS: Final = {"✓": "+", "µ": "u", "…": "..."}

SIZES: Final = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
"""Variables by which a terminal's size is given, to rich and to typer."""
MAX_SIZE: Final = 10_000

_HANDLER: Final = "ringpull-stand-ins"


class OutputLost(RingpullError):
    """Raised when standard output did not take what was written to it, so the answer is not whole.

    Attributes:
        unread: Whether nobody reads it any more, as after `| head`, who needs no word about it.
    """

    def __init__(self, exc: Exception | None) -> None:
        why = "it is closed" if exc is None else getattr(exc, "strerror", None) or str(exc)
        super().__init__(f"standard output does not take the answer: {why}")
        self.unread = isinstance(exc, OSError) and exc.errno == errno.EPIPE


class StandardOutput(io.TextIOBase):
    """Standard output, to which writing succeeds or raises `OutputLost`.

    Args:
        stream: Where it goes; None: it is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"standard output takes text, not {type(text).__name__}")
        if not text:
            return 0
        if self._stream is None:
            raise OutputLost(None)
        try:
            self._stream.write(_encodable(text, self.encoding))
        except (OSError, ValueError) as exc:
            raise OutputLost(exc) from exc
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as exc:
                raise OutputLost(exc) from exc

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.fileno()

    def close(self) -> None:
        """Do nothing: the stream is the process's, and outlives this object."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


class StandardError(io.TextIOBase):
    """Standard error, which takes everything: who serves does not end because nobody reads it.

    Args:
        stream: Where it goes; None: where `sys.stderr` does at the time.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._bound = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"standard error takes text, not {type(text).__name__}")
        with suppress(OSError, ValueError):
            self._stream().write(_encodable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream().flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream().isatty()
        return False

    def fileno(self) -> int:
        return self._stream().fileno()

    def close(self) -> None:
        """Do nothing: the stream is the process's, and outlives this object."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def _stream(self) -> TextIO:
        stream = self._bound or sys.stderr or io.StringIO()
        # While a spinner turns, rich has put a stream of its own there, which prints on this console.
        return cast("TextIO", getattr(stream, "rich_proxied_file", stream))


standard_error: Final = cast("TextIO", StandardError())
"""Standard error, to which writing never fails."""


@contextmanager
def checked_streams() -> Iterator[None]:
    """Context in which whatever is printed on standard output is there, also at its end, or `OutputLost` is raised.

    Nothing that is printed on standard error raises.
    """
    before, error_before = sys.stdout, sys.stderr
    checked, forgiving = cast("TextIO", StandardOutput(before)), cast("TextIO", StandardError(error_before))
    sys.stdout, sys.stderr = checked, forgiving
    try:
        try:
            yield
        finally:
            if sys.stdout is checked:
                checked.flush()
    except OutputLost:
        _to_nowhere(before)
        raise
    finally:
        if not _takes(error_before):
            _to_nowhere(error_before)
        if sys.stdout is checked:
            sys.stdout = before
        if sys.stderr is forgiving:
            sys.stderr = error_before


def _takes(stream: TextIO | None) -> bool:
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _to_nowhere(stream: TextIO | None) -> None:
    """Let what a stream could not write go nowhere, or Python would try again at its end, and fail."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, cast("TextIO", stream).fileno())
        os.close(nowhere)


def fill_closed_descriptors() -> None:
    """Open what is closed of the three standard streams, on nothing.

    Else the next file or socket gets the number of one, and whatever a library prints goes into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def drop_odd_sizes(environment: MutableMapping[str, str] = os.environ) -> None:
    """Forget sizes of the terminal that are none: what draws tables and help would fail at them."""
    for name in SIZES:
        text = environment.get(name)
        if text is not None and not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_SIZE):
            del environment[name]


def _encodable(text: str, encoding: str) -> str:
    """Return a text that an encoding has: names of files may hold bytes that are no text at all."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, _HANDLER).decode(encoding)
    except LookupError:
        return text.encode("ascii", _HANDLER).decode("ascii")
    return text


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    spelled = (STAND_INS.get(each) or each.encode("ascii", "backslashreplace").decode() for each in missing)
    return "".join(spelled), error.end


codecs.register_error(_HANDLER, _stand_in)
