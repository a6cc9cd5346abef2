"""Folders that options name, and what may be in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.deploy.folders import as_folder
from ringpull.ps.errors import InvalidInput
from tests.in_the_way import leave_socket


def test_it_is_a_whole_path_whether_or_not_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "there").mkdir()
    assert as_folder("--data-dir", Path("a/b")) == tmp_path / "a/b"
    assert as_folder("--data-dir", Path("link")) == tmp_path / "there"
    assert as_folder("--data-dir", Path("~/data")) == tmp_path / "home/data"


@pytest.mark.parametrize("kind", ["file", "pipe", "socket", "link to a file", "link to itself", "below a file"])
def test_what_is_in_the_way_is_named_with_the_option(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "way"
    if kind in ("file", "below a file"):
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        leave_socket(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        (tmp_path / "file").touch()
        path.symlink_to(tmp_path / "file")
    given = path / "more" if kind == "below a file" else path
    with pytest.raises(InvalidInput) as raised:
        as_folder("--data-dir", given)
    assert str(raised.value).startswith(f"--data-dir '{given}': ")
    assert "no folder" in str(raised.value) or "path of a folder" in str(raised.value)


def test_a_report_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """What was measured for an hour would have nowhere to go."""
    (tmp_path / "report").touch()
    arguments = ["loadtest", "--rate", "5", "--seconds", "3600", "--report", str(tmp_path / "report")]
    refused = CliRunner().invoke(app, [*arguments, "--target", "127.0.0.1:1"])
    assert isinstance(refused.exception, InvalidInput)
    assert "--report" in str(refused.exception)


@pytest.mark.parametrize("text", ["a\0b", "~no-such-user-of-this-machine/data"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--log-dir .*; write the path of a folder$"):
        as_folder("--log-dir", Path(text))
