"""The folder of a user below the temporary one: its owner's alone, or refused."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ringpull.ps.errors import StartupError
from ringpull.ps.user_folder import user_folder


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it will be."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"ringpull-{os.geteuid()}"


def test_it_is_made_for_its_owner_alone(own: Path) -> None:
    before = os.umask(0)
    try:
        made = user_folder("numba")
    finally:
        os.umask(before)
    assert made == own / "numba"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (own, made)] == [0o700, 0o700]
    assert user_folder("numba") == made


@pytest.mark.parametrize("which", [".", "numba"])
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_what_others_can_write_is_refused(own: Path, which: str, mode: int) -> None:
    user_folder("numba")
    (own / which).chmod(mode)
    with pytest.raises(StartupError, match=f"{own}.* can be written by others.*remove it, or set TMPDIR"):
        user_folder("numba")


@pytest.mark.parametrize("which", [".", "numba"])
def test_a_link_is_refused(own: Path, which: str, tmp_path: Path) -> None:
    """Whoever made it may lead it elsewhere later on."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    if which == ".":
        own.symlink_to(elsewhere)
    else:
        own.mkdir(0o700)
        (own / which).symlink_to(elsewhere)
    with pytest.raises(StartupError, match="a link"):
        user_folder("numba")
    assert list(elsewhere.iterdir()) == []


def test_a_file_in_its_place_is_refused(own: Path) -> None:
    own.touch()
    with pytest.raises(StartupError, match="is no folder"):
        user_folder("numba")


def test_another_users_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_folder("numba")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    own.rename(own.with_name(f"ringpull-{owner + 1}"))
    with pytest.raises(StartupError, match=f"belongs to user {owner}"):
        user_folder("numba")


def test_a_temporary_folder_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(StartupError, match="cannot be made: No such file or directory; set TMPDIR"):
        user_folder("numba")


def test_the_working_folder_does_not_stand_for_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes it when it can write nowhere else; the next command, elsewhere, would look in another place."""
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StartupError, match="set TMPDIR"):
        user_folder("numba")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert user_folder("numba").is_dir()
