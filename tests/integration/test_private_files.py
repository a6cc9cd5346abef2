"""What a deployment writes is its user's alone, whatever the umask; folders given and exports stay as they are."""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ringpull.deploy import served
from ringpull.deploy.cluster.log_file import LogFile
from ringpull.deploy.detach import serve_detached
from ringpull.inference.model.mirror import Mirror
from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import StartupError
from ringpull.ps.private_files import make_private_folder, write_private
from ringpull.ps.ring import Ring
from ringpull.ps.store.base import Base
from ringpull.router.control.state_files import FolderFiles, open_files, probe
from ringpull.router.control.state_store import Owner, StateStore
from tests.deploy.test_served import record
from tests.inference.tiny import export_tiny
from tests.ps.tables import WrittenTable, write_table
from tests.ps.transfer.shards import Crew

TWO = Ring.even([0, 1])
THREE = TWO.join(2)


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=300, dim=4)


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of everything below a folder, and of itself."""
    return {
        str(each.relative_to(folder)): oct(stat.S_IMODE(each.lstat().st_mode)) for each in (folder, *folder.rglob("*"))
    }


def assert_private(folder: Path) -> None:
    found = list(folder.rglob("*"))
    assert any(each.is_file() for each in found)
    wrong = {
        name: mode for name, mode in modes(folder).items() if mode != ("0o700" if (folder / name).is_dir() else "0o600")
    }
    assert not wrong


def test_states_of_coordinators(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    files = open_files(str(folder))
    probe(files, str(folder))
    StateStore(files).claim(Owner("this one"), must_exist=False)
    FolderFiles(folder).replace("beat", b"1")
    assert_private(tmp_path / "new")


@pytest.mark.medium
def test_served_records_locks_and_logs_of_detached_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPULL_STATE_DIR", str(tmp_path / "new" / "state"))
    with served.lock() as lock:
        lock.note_folders(["/made"])
        served.save(record(lock=lock))
        assert_private(tmp_path / "new")
    with pytest.raises(StartupError, match="exit status 0"):
        serve_detached(["--version"], io.StringIO())
    assert_private(tmp_path / "new")


def test_logs(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "new" / "logs" / "head-0.log")
    handler.open()
    handler.emit(logging.makeLogRecord({"msg": "a line"}))
    handler.close()
    assert_private(tmp_path / "new")


@pytest.mark.medium
def test_copies_of_rows_and_what_was_checked(tmp_path: Path, users: WrittenTable) -> None:
    """Bases, and pieces that were streamed and are not merged yet, their locks and quarantines."""
    with Crew(tmp_path / "new") as crew:
        made = crew.bring_up(3, TWO, users)
        for shard in THREE.shards:
            made[shard].prepare_streamed(THREE, TWO, ["users"])
        checked = CheckedRows(tmp_path / "new" / "checked" / "checked-rows")
        base = Base.open(users.folder)
        checked.note(base, good=range(base.block_count))
        assert_private(tmp_path / "new")


@pytest.mark.medium
def test_mirrors_of_models(tmp_path: Path) -> None:
    version = export_tiny(tmp_path)
    system = fsspec.filesystem("memory")
    for path in version.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/private/tiny/1/{path.relative_to(version)}", path.read_bytes())
    try:
        Mirror(tmp_path / "new" / "mirror").local("memory://private/tiny/1")
        assert_private(tmp_path / "new")
    finally:
        system.rm("/private", recursive=True)
    exported = {mode for name, mode in modes(version).items()}
    assert exported == {"0o777", "0o666"}, "an export is as the umask has it: another user may serve it"


def test_a_folder_that_was_there_stays_as_it_is_and_what_is_made_in_it_is_private(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir(0o755)
    make_private_folder(given)
    make_private_folder(given / "a" / "b")
    write_private(given / "a" / "b" / "c", b"1")
    write_private(given / "d", b"1")
    (given / "e").write_bytes(b"")
    write_private(given / "e", b"1")
    assert modes(given) == {".": "0o755", "a": "0o700", "a/b": "0o700", "a/b/c": "0o600", "d": "0o600", "e": "0o666"}
    with pytest.raises(FileExistsError):
        make_private_folder(given / "d")
    with pytest.raises(NotADirectoryError):
        make_private_folder(given / "d" / "below")
