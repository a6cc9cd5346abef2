"""What the console prints."""

from __future__ import annotations

import errno
import io
import json
import sys
from math import inf, nan

import pytest

from ringpull.deploy.view.console import err, print_json, say_line, warn


def test_what_json_has_not_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """A score may be anything that a model computes; a program that reads it takes no NaN."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    print_json({"score": [0.5, nan, (inf, -inf)], "rows": 3, "ok": True})
    printed = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert printed == {"score": [0.5, None, [None, None]], "rows": 3, "ok": True}


class Unread(io.TextIOBase):
    """A stream that takes nothing: a pipe that nobody reads, a disk that is full, or one that is closed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_who_serves_goes_on_when_nobody_reads(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """As after `ringpull serve | head -1`, whose output is read no more."""
    monkeypatch.setattr(sys, "stdout", Unread(error))
    monkeypatch.setattr(sys, "stderr", Unread(error))
    say_line("ringpull ready")
    warn("nobody leads")
    err.print("done", style="green")
    with err.status("waiting"):
        err.print("more")
    assert not isinstance(sys.stdout, Unread), "Python would fail at its end, when it flushes"
    sys.stdout.close()


def test_what_people_are_told_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    warn("nobody leads: [green]3[/] s")
    say_line("ringpull ready")
    assert capsys.readouterr() == ("ringpull ready\n", "warning: nobody leads: [green]3[/] s\n")
