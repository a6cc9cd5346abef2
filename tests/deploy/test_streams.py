"""Standard streams that are closed, full, unread, or of another encoding."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringpull.deploy import cli
from ringpull.deploy.cluster.ray_session import CODE_ROOT
from ringpull.deploy.view import console, streams
from ringpull.deploy.view.streams import OutputLost, StandardError, StandardOutput, checked_streams

FULL = OSError(errno.ENOSPC, "No space left on device")
UNREAD = BrokenPipeError(errno.EPIPE, "Broken pipe")
GONE = OSError(errno.EIO, "Input/output error")


class Stream(io.TextIOWrapper):
    """A text stream of an encoding, which may take nothing."""

    def __init__(self, encoding: str = "utf-8", error: Exception | None = None) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.error = error

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)

    @property
    def taken(self) -> bytes:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


@pytest.mark.parametrize(("error", "unread"), [(FULL, False), (UNREAD, True), (GONE, False), (ValueError("x"), False)])
def test_what_standard_output_does_not_take_is_an_error(error: Exception, unread: bool) -> None:
    with pytest.raises(OutputLost) as raised:
        StandardOutput(Stream(error=error)).write("{}")
    assert raised.value.unread is unread


def test_closed_standard_output_takes_nothing() -> None:
    """Python has None there, and `print` would do nothing and say nothing."""
    output = StandardOutput(None)
    output.write("")
    output.flush()
    assert not output.isatty()
    with pytest.raises(OutputLost, match="it is closed"):
        output.write("{}")


def test_what_is_left_in_a_buffer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffered(Stream):
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            raise FULL

    monkeypatch.setattr(sys, "stdout", Buffered())
    with pytest.raises(OutputLost), checked_streams():
        print("a table")
    monkeypatch.setattr(sys, "stdout", io.StringIO())


@pytest.mark.parametrize("error", [FULL, UNREAD, GONE, ValueError("closed")])
def test_standard_error_takes_everything(error: Exception) -> None:
    stream = StandardError(Stream(error=error))
    assert stream.write("warning") == 7
    stream.flush()


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
@pytest.mark.parametrize("stream", [StandardOutput, StandardError])
def test_every_text_can_be_written_in_any_encoding(stream, encoding: str) -> None:
    """Such as a file whose name is no UTF-8, or the ticks of our own progress."""
    below = Stream(encoding)
    name = os.fsdecode(b"mod\xffel")
    stream(below).write(f"✓ 7 µs {name} größe")
    said = below.taken.decode(encoding)
    assert "mod\\udcffel" in said
    if encoding == "ascii":
        assert said == "+ 7 us mod\\udcffel gr\\xf6\\xdfe"
    else:
        assert "µs" in said
        assert "größe" in said


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (FULL, 1, "error: standard output does not take the answer: No space left on device\n"),
        (GONE, 1, "error: standard output does not take the answer: Input/output error\n"),
        (UNREAD, 141, ""),
        (None, 1, "error: standard output does not take the answer: it is closed\n"),
    ],
)
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["status", "--help"]])
def test_a_command_whose_answer_is_lost_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    status: int,
    says: str,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["ringpull", *arguments])
    monkeypatch.setattr(sys, "stdout", None if error is None else Stream(error=error))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (status, says)


def test_json_is_whole_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(error=FULL))
    with pytest.raises(OutputLost):
        console.print_json({"score": [0.5]})
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputLost):
        console.print_json({"score": [0.5]})


def test_what_the_surroundings_refuse_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/models/ranker")

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (1, "error: /models/ranker: Permission denied\n")


def test_nobody_can_be_asked_where_standard_input_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert not console.can_ask()


@pytest.mark.parametrize("text", ["0", "-5", "abc", "", "99999999999999999999", "10001", "²"])
def test_a_size_of_a_terminal_that_is_none_is_forgotten(text: str) -> None:
    environment = {"COLUMNS": text, "LINES": "24", "TERMINAL_WIDTH": text, "TERM": text}
    streams.drop_odd_sizes(environment)
    assert environment == {"LINES": "24", "TERM": text}


@pytest.mark.medium
def test_streams_of_a_real_process(tmp_path: Path) -> None:
    """Closed, full and unread ones, and an odd terminal: one line or none, and never a traceback."""
    program = f"{sys.executable} -m ringpull"
    script = f"""
        said() {{ echo "$1: $2 $(cat {tmp_path}/err)"; }}
        {program} --version >&- 2>{tmp_path}/err; said closed $?
        {program} --version >/dev/full 2>{tmp_path}/err; said full $?
        {program} status --no-such-option 2>/dev/full; said error $?
        COLUMNS=0 {program} --help 2>{tmp_path}/err | true; said unread ${{PIPESTATUS[0]}}
    """
    ran = subprocess.run(
        ["bash", "-c", script], cwd=CODE_ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    lost = "error: standard output does not take the answer:"
    assert ran.stdout.splitlines() == [
        f"closed: 1 {lost} it is closed",
        f"full: 1 {lost} No space left on device",
        f"error: 2 {lost} No space left on device",
        "unread: 141 ",
    ]
