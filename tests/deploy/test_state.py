"""The state folder of a user, also of one without a home."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ringpull.deploy.state import state_folder
from ringpull.ps.errors import InvalidInput, StartupError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, and no variable that says where the state is."""
    for name in ("RINGPULL_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def below(temporary: Path) -> Path:
    return temporary / f"ringpull-{os.geteuid()}" / "state"


def test_it_is_in_the_home(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/ringpull"
    assert list(temporary.iterdir()) == []


def test_without_a_home_it_is_the_users_own_below_the_temporary_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has a number only: neither HOME nor an entry in /etc/passwd."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert state_folder() == below(temporary)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (below(temporary), below(temporary).parent)] == [0o700] * 2
    assert state_folder() == below(temporary), "the next command finds the same"


@pytest.mark.parametrize("home", ["", "relative", "/proc", "/dev/null", "/no/such\0"])
def test_a_home_where_nothing_can_be_made_is_none(temporary: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).startswith(("/proc", "/dev")) and path != Path("/")
    )
    if "\0" in home:
        monkeypatch.setattr(Path, "home", lambda: Path(home))
    else:
        monkeypatch.setenv("HOME", home)
    assert state_folder() == below(temporary)


def test_a_relative_xdg_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert state_folder() == tmp_path / ".local/state/ringpull"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_folder() == tmp_path / "state/ringpull"


def test_the_variable_is_one_folder_wherever_a_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGPULL_STATE_DIR", "here")
    assert state_folder() == tmp_path / "here"
    monkeypatch.setenv("RINGPULL_STATE_DIR", "~/there")
    assert state_folder() == tmp_path / "there"


@pytest.mark.parametrize("text", [" ", "state ", "state\n"])
def test_blanks_around_it_are_a_mistake(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RINGPULL_STATE_DIR", text)
    with pytest.raises(InvalidInput, match=r"RINGPULL_STATE_DIR is .*path of a folder"):
        state_folder()


def test_what_others_can_write_is_no_place_for_it(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("relative"))
    state_folder().chmod(0o777)
    with pytest.raises(StartupError, match=r"can be written by others.*, or RINGPULL_STATE_DIR"):
        state_folder()
