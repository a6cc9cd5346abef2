"""Lines of the log: one per event, whatever is in it; JSON that any reader takes, text that people read."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.deploy.cluster.logs import JsonLines, LogFormat, LogLevel, LogSettings, TextLines, configure, silence
from ringpull.ps.errors import StartupError

PROCESS = {"deployment": "mine", "member": "head-0", "pid": 4711}


def record(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("ringpull.inference.head.metrics.call_log", level, __file__, 1, event, None, None)
    made.created = 1_795_247_412.25
    vars(made).update(fields)
    return made


def test_json_has_the_event_its_fields_and_the_process() -> None:
    line = json.loads(JsonLines(PROCESS).format(record("predict failed", code="UNAVAILABLE", elapsed_ms=1.5)))
    assert line == {
        "time": "2026-11-21T07:50:12.250Z",
        "level": "warning",
        "event": "predict failed",
        "logger": "ringpull.inference.head.metrics.call_log",
        "deployment": "mine",
        "member": "head-0",
        "pid": 4711,
        "code": "UNAVAILABLE",
        "elapsed_ms": 1.5,
    }


def test_what_ray_hides_in_every_record_is_not_told() -> None:
    made = record("predict failed", code="UNAVAILABLE", _ray_timestamp_ns=1)
    assert "ray" not in TextLines(PROCESS).format(made) + JsonLines(PROCESS).format(made)


def test_text_is_for_people() -> None:
    line = TextLines(PROCESS).format(record("change done", logging.INFO, subject="ranker/3", error="", why="a = b"))
    assert line == '2026-11-21T07:50:12.250Z info head-0 change done subject=ranker/3 error="" why="a = b"'


@pytest.mark.medium
@given(st.text(), st.text())
def test_what_a_caller_sends_stays_on_its_line(event: str, sent: str) -> None:
    made = record(event.replace("%", ""), request_id=sent)
    text, as_json = TextLines(PROCESS).format(made), JsonLines(PROCESS).format(made)
    assert len(text.splitlines()) == len(as_json.splitlines()) == 1
    assert json.loads(as_json)["request_id"] == sent


def test_an_error_brings_its_traceback() -> None:
    made = record("the coordinator has failed", logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert json.loads(JsonLines(PROCESS).format(made))["traceback"].endswith("ValueError: why")
    assert TextLines(PROCESS).format(made).splitlines()[-1] == "ValueError: why"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, left as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    talkative = {name: logging.getLogger(name).level for name in ("uvicorn", "asyncio")}
    root.handlers = []
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level
    for name, before in talkative.items():
        logging.getLogger(name).setLevel(before)


def test_each_process_writes_its_own_file(root: logging.Logger, tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    configure(LogSettings(level=LogLevel.WARNING, format=LogFormat.JSON, folder=str(folder)), "mine", "shard-3")
    logging.getLogger("ringpull.ps.process").info("not told")
    logging.getLogger("ringpull.ps.process").warning("told", extra={"versions": "ranker/1"})
    logging.getLogger("uvicorn.error").info("not told")
    (line,) = (folder / "mine-shard-3.log").read_text().splitlines()
    told = json.loads(line)
    assert (told["event"], told["member"], told["versions"]) == ("told", "shard-3", "ranker/1")


def test_without_a_folder_it_goes_to_standard_error(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(), "mine", "coordinator")
    logging.getLogger("ringpull.router.control.process").info("change done", extra={"change": 7})
    configure(LogSettings(level=LogLevel.ERROR), "mine", "coordinator")
    logging.getLogger("ringpull.router.control.process").info("change done", extra={"change": 8})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("info coordinator change done change=7\n")
    assert said.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named(root: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"--log-dir: .*file/mine-head-0\.log cannot be written"):
        configure(LogSettings(folder=str(tmp_path / "file")), "mine", "head-0")


def test_on_a_restart_a_folder_that_cannot_be_written_is_waited_for(
    root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An actor whose constructor raised would not be restarted again."""
    (tmp_path / "file").write_text("")
    configure(LogSettings(folder=str(tmp_path / "file")), "mine", "head-0", restarted=True)
    logging.getLogger("ringpull.inference.head.head").warning("told")
    assert capsys.readouterr().err.endswith("warning head-0 told\n")


def test_what_warms_up_is_silent(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(), "mine", "shard-3")
    with silence():
        logging.getLogger("ringpull.ps.process").warning("shard listens")
    logging.getLogger("ringpull.ps.process").warning("shard prepared")
    assert capsys.readouterr().err.endswith("shard-3 shard prepared\n")


def test_who_logs_goes_on_while_the_folder_is_away(
    root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thread that logged ended with the error; what it led was led no more."""
    monkeypatch.setattr("ringpull.deploy.cluster.log_file.REOPEN_S", 0.0)
    folder, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    configure(LogSettings(folder=str(folder)), "mine", "coordinator")
    folder.rename(elsewhere)
    folder.write_text("")
    logging.getLogger("ringpull.router.control.process").info("change under way")
    assert capsys.readouterr().err.endswith("info coordinator change under way\n")
    folder.unlink()
    elsewhere.rename(folder)
    logging.getLogger("ringpull.router.control.process").info("change done")
    assert (folder / "mine-coordinator.log").read_text().endswith("info coordinator change done\n")
