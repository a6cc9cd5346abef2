"""The folder of a user below the temporary one: its owner's alone, or refused."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ringpull.ps.errors import StartupError
from ringpull.ps.user_folder import check_path, user_folder


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path at which it will be."""
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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of a cache in a home, all of it this user's alone."""
    folder = tmp_path / "home" / ".cache" / "numba"
    folder.mkdir(parents=True)
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o700)
    return folder


def test_a_folder_of_this_user_alone_is_taken(home: Path) -> None:
    check_path(home)
    home.parents[1].chmod(0o1777)  # HOME=/tmp, and this user was the first
    check_path(home)


@pytest.mark.parametrize("above", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_others_can_write_it_or_above_it(home: Path, above: int, mode: int) -> None:
    [home, *home.parents][above].chmod(mode)
    with pytest.raises(StartupError, match="can be written by others"):
        check_path(home)


def test_a_link_on_the_way_is_followed_with_all_that_it_passes(home: Path, tmp_path: Path) -> None:
    """As of a cache on a larger disk."""
    disk = tmp_path / "disk"
    home.rename(disk)
    home.symlink_to("../../disk")
    check_path(home)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    home.unlink()
    (open_to_all / "link").symlink_to(disk)
    home.symlink_to(open_to_all / "link")
    with pytest.raises(StartupError, match=f"{open_to_all} can be written by others"):
        check_path(home)
    disk.chmod(0o777)
    home.unlink()
    home.symlink_to(disk)
    with pytest.raises(StartupError, match=f"{disk} can be written by others"):
        check_path(home)


def test_what_is_not_there_or_goes_round_is_refused(home: Path) -> None:
    with pytest.raises(StartupError, match="cannot be looked at: No such file"):
        check_path(home / "missing")
    home.rmdir()
    home.symlink_to(home)
    with pytest.raises(StartupError, match="links"):
        check_path(home)


def test_a_cache_that_another_user_made_first_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StartupError, match=f"belongs to user {owner}"):
        check_path(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_above_of_another_user_is_refused(home: Path) -> None:
    os.chown(home.parent, 12345, -1)
    with pytest.raises(StartupError, match=f"{home.parent} belongs to user 12345"):
        check_path(home)
