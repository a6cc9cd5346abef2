"""The state's folder: terms made once, generations with checksums, whoever is over writes nothing, and who owns it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ringpull.ps.errors import InvalidInput, StartupError, Superseded, Unavailable
from ringpull.router.control.coordinator_state import state_to_dict
from ringpull.router.control.reign import EPOCHS_AHEAD, SEALS_KEPT
from ringpull.router.control.saved_files import encode, generations, state_name, term_name
from ringpull.router.control.state_files import FolderFiles, PatientFiles, UrlFiles, open_files, probe
from ringpull.router.control.state_store import (
    StateStore,
)
from tests.router.reigns import MINE, began, found, state

# -- terms and generations ---------------------------------------------------------------------------------------------


def test_each_start_is_a_higher_term_and_goes_on_from_what_was_saved_last(store: StateStore) -> None:
    first = began(store)
    for epoch in (2, 3, 4):
        assert first.save(state(epoch))
    for term in (2, 3):
        reign = store.claim(MINE)
        assert (reign.term, found(reign)) == (term, state(4))
        assert reign.epochs_to == 4 + EPOCHS_AHEAD, "none of the epochs that were reserved is used again"


def test_the_last_two_generations_are_kept(store: StateStore, files: PatientFiles) -> None:
    reign = began(store)
    for epoch in range(2, 9):
        reign.save(state(epoch))
    assert sorted(generations(files.names())) == [(1, 7), (1, 8)]
    again = store.claim(MINE)
    again.save(state(9))
    assert sorted(generations(files.names())) == [(1, 8), (1, 9), (2, 1)], "and the seal of the term before"
    again.save(state(10))
    again.save(state(11))
    assert sorted(generations(files.names())) == [(1, 9), (2, 2), (2, 3)]


@pytest.mark.medium
def test_old_terms_are_cleared_away(store: StateStore, files: PatientFiles) -> None:
    began(store)
    for _ in range(SEALS_KEPT + 8):
        store.claim(MINE).save(state(1))
    assert len(files.names()) < 2 * SEALS_KEPT + 8


def test_a_woken_leader_writes_nothing_and_knows_it(store: StateStore, files: PatientFiles) -> None:
    sleeper = began(store)
    leader = store.claim(MINE)
    before = {name: files.read(name) for name in files.names()}
    with pytest.raises(Superseded, match="term 1 is over"):
        sleeper.save(state(100))
    assert {name: files.read(name) for name in files.names()} == before
    assert leader.save(state(2))
    assert found(store.claim(MINE)) == state(2)
    with pytest.raises(Superseded, match="term 1 is over: term 3 leads"):
        sleeper.check()


class Interrupted(FolderFiles):
    """Folder in which something else happens between two calls of one process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.after: dict[str, Callable[[], Any]] = {}
        """Beginning of a file's name -> what happens once when such a file was made."""
        self.loses_answer = False

    def create(self, name: str, content: bytes) -> None:
        super().create(name, content)
        for beginning in [each for each in self.after if name.startswith(each)]:
            self.after.pop(beginning)()
        if self.loses_answer:
            self.loses_answer = False
            raise OSError(5, "Input/output error")


def test_what_was_saved_before_the_seal_is_carried_on(tmp_path: Path) -> None:
    """The next term has begun and not yet sealed: the state is saved, so the next leader goes on from it."""
    files, others = Interrupted(tmp_path), StateStore(FolderFiles(tmp_path))
    first = began(others)
    files.after["term-"] = lambda: first.save(state(7))
    second = StateStore(files).claim(MINE)
    assert found(second) == state(7)


def test_a_leader_that_saves_while_the_next_begins_steps_down_without_acting(tmp_path: Path) -> None:
    files = Interrupted(tmp_path)
    reign = began(StateStore(files))
    files.after["state-"] = lambda: StateStore(FolderFiles(tmp_path)).claim(MINE)
    assert not reign.save(state(2)), "it is safe, and is for others to act on"
    assert found(StateStore(FolderFiles(tmp_path)).claim(MINE)) == state(2)


def test_of_two_that_begin_at_once_only_one_does(tmp_path: Path) -> None:
    others = StateStore(FolderFiles(tmp_path))
    began(others)

    class Racing(FolderFiles):
        def create(self, name: str, content: bytes) -> None:
            if name == term_name(2):
                others.claim(MINE)
            super().create(name, content)

    with pytest.raises(Superseded, match="somebody else has begun term 2"):
        StateStore(Racing(tmp_path)).claim(MINE)


def test_one_that_was_overtaken_while_it_began_does_not_lead(tmp_path: Path) -> None:
    files = Interrupted(tmp_path)
    began(StateStore(files))
    files.after["term-"] = lambda: StateStore(FolderFiles(tmp_path)).claim(MINE)
    with pytest.raises(Superseded, match="term 2 is over: term 3 leads"):
        StateStore(files).claim(MINE)


def test_a_save_whose_answer_was_lost_is_saved_again(tmp_path: Path) -> None:
    files = Interrupted(tmp_path)
    store = StateStore(files)
    reign = began(store)
    for again in (state(2), state(3)):
        files.loses_answer = True
        with pytest.raises(StartupError, match="cannot be saved"):
            reign.save(state(2))
        assert reign.save(again)
        assert found(StateStore(FolderFiles(tmp_path)).claim(MINE)) == again
        reign = store.claim(MINE)


# -- the folder is not what it should be -------------------------------------------------------------------------------


def test_an_empty_folder_is_no_first_start(store: StateStore, files: PatientFiles) -> None:
    with pytest.raises(StartupError, match="holds no state of deployment mine; is it mounted here"):
        store.claim(MINE)
    assert files.names() == [], "and nothing is made in it"
    reign = began(store)
    for name in files.names():
        files.delete(name)
    with pytest.raises(Unavailable, match="is it mounted here"):  # Retryable: it gives up no change.
        reign.check()


def test_a_state_is_not_saved_where_its_term_did_not_begin(tmp_path: Path) -> None:
    """As in the empty folder below a mount that is away, which takes files like any other."""
    folder, away = tmp_path / "state", tmp_path / "away"
    files = open_files(str(folder))
    files.make_folder()
    reign = began(StateStore(files))
    folder.rename(away)
    folder.mkdir()
    with pytest.raises(
        StartupError, match=r"it is not certain .* holds nothing of term 1 any more; is it mounted here"
    ):
        reign.save(state(2))
    with pytest.raises(Unavailable, match="holds nothing of term 1 any more"):
        reign.check()
    folder.rename(tmp_path / "empty")
    away.rename(folder)
    assert reign.save(state(2))
    assert found(StateStore(files).claim(MINE)) == state(2)


def test_a_term_does_not_begin_where_the_one_before_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder went away between the look at it and the making of the term's file."""
    folder = tmp_path / "state"
    files = open_files(str(folder))
    files.make_folder()
    began(StateStore(files))
    create = files.create

    def away_first(name: str, content: bytes) -> None:
        folder.rename(tmp_path / "away")
        folder.mkdir()
        create(name, content)

    monkeypatch.setattr(files, "create", away_first)
    with pytest.raises(StartupError, match="holds nothing of term 1 any more; is it mounted here"):
        StateStore(files).claim(MINE)


def test_a_state_of_a_term_that_did_not_begin_here_does_not_count(store: StateStore, files: PatientFiles) -> None:
    began(store)
    fields = {"deployment": "mine", "term": 9, "epochs_to": 1007, "state": state_to_dict(state(7))}
    files.create(state_name(9, 1), encode(fields))
    again = store.claim(MINE)
    assert found(again) == state(1)
    assert again.saved is not None
    assert not again.saved.warning


def test_what_a_folder_that_hangs_may_have_saved_is_not_told_as_refused(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    reign = began(StateStore(files))
    reign._files = _Hanging(files)  # type: ignore[assignment]
    with pytest.raises(StartupError, match=r"it is not certain .* look at the status before you ask again"):
        reign.save(state(2))


class _Hanging:
    def __init__(self, files: PatientFiles) -> None:
        self._files = files

    def create(self, name: str, content: bytes) -> None:
        raise StartupError(f"{self._files!r} has not answered for 15 s")


def test_a_folder_that_is_gone_is_not_made(tmp_path: Path) -> None:
    store = StateStore(FolderFiles(tmp_path / "gone"))
    with pytest.raises(StartupError, match="is it mounted here"):
        store.claim(MINE)
    with pytest.raises(StartupError):
        store.claim(MINE, must_exist=False)
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(FolderFiles(tmp_path))
    reign = began(store)

    def full(descriptor: int) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StartupError, match=f"cannot be saved to {tmp_path}: .*No space left"):
            reign.save(state(2))
    assert not list(tmp_path.glob("*.tmp"))
    assert found(store.claim(MINE)) == state(1)


def test_a_folder_that_hangs_is_away(tmp_path: Path) -> None:
    hangs = threading.Event()

    class Hanging(FolderFiles):
        def names(self) -> list[str]:
            hangs.wait()
            return super().names()

    files = PatientFiles(Hanging(tmp_path), answer_s=0.01)
    for _ in range(2):  # The second one does not wait again.
        with pytest.raises(StartupError, match="has not answered for"):
            StateStore(files).owner()
    hangs.set()


def test_where_there_are_no_links_a_file_is_still_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    files = FolderFiles(tmp_path)
    files.create("a", b"1")
    with pytest.raises(FileExistsError):
        files.create("a", b"2")
    assert (files.read("a"), files.names()) == (b"1", ["a"])


def test_a_name_that_a_later_leader_may_have_seen_is_never_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without links, a save fails half-way; a later leader seals the term behind what it saw. The next save of the
    earlier one must not come before that seal."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    store = StateStore(FolderFiles(tmp_path))
    reign = began(store)
    sync, syncs = os.fsync, 0

    def fails_in_place(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == 2:  # of the file itself; the first one was of what is beside it
            store.claim(MINE)
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails_in_place)
        with pytest.raises(StartupError, match="No space left"):
            reign.save(state(2))
    with pytest.raises(Superseded):
        reign.save(state(3))


@pytest.mark.parametrize("step", ["link", "folder"])
def test_what_may_have_been_saved_is_not_said_to_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    reign = began(StateStore(FolderFiles(tmp_path)))
    link, sync = os.link, os.fsync

    def lost_answer(*names: Any) -> None:
        link(*names)
        raise OSError(5, "Input/output error")

    def no_folder(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.link" if step == "link" else "os.fsync", lost_answer if step == "link" else no_folder)
        with pytest.raises(StartupError, match=r"it is not certain that the coordinator's state was saved"):
            reign.save(state(2))
    assert reign.save(state(3))
    assert found(StateStore(FolderFiles(tmp_path)).claim(MINE)) == state(3)


def test_what_a_killed_leader_was_making_is_deleted(tmp_path: Path) -> None:
    store = StateStore(FolderFiles(tmp_path))
    began(store)
    left = [f"{state_name(1, 7)}.123-abcdef01.tmp", f"{term_name(1)}.123-abcdef01.tmp"]
    kept = f"{state_name(2, 7)}.124-abcdef01.tmp"
    for name in (*left, kept):
        (tmp_path / name).write_bytes(b"{")
    store.claim(MINE).save(state(2))
    assert [path.name for path in tmp_path.glob("*.tmp")] == [kept]


@pytest.mark.parametrize("url", ["http://there/state", "ftp://there/state", "zip://state", "memory://state"])
def test_a_url_that_cannot_make_a_file_exclusively_is_refused_by_name(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Somewhere:
        protocol = url.partition(":")[0]

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda folder: (Somewhere(), "state"))
    with pytest.raises(InvalidInput, match=f"--state-dir '{url}' cannot be used: .* cannot make a file only where"):
        open_files(url)


def test_one_that_only_says_that_it_can_is_found_out(tmp_path: Path) -> None:
    class Careless(UrlFiles):
        def create(self, name: str, content: bytes) -> None:
            self.replace(name, content)

    files = PatientFiles(Careless(fsspec.filesystem("memory"), f"/{tmp_path}"))
    with pytest.raises(InvalidInput, match="makes a file over one that is there"):
        probe(files, "memory://x")
    assert files.names() == []


def test_a_probe_leaves_nothing(files: PatientFiles) -> None:
    probe(files, "x")
    assert files.names() == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = f"{tmp_path}/file/below"
    with pytest.raises(StartupError, match=r"--state-dir '.*/file/below' cannot be written"):
        probe(open_files(folder), folder)


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--state-dir 'gopher://x' cannot be used"):
        open_files("gopher://x")
