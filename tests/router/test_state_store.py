"""The state's folder: terms made once, generations with checksums, whoever is over writes nothing, and who owns it."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ringpull.ps.errors import CorruptData, InvalidInput, StartupError, Superseded, Unavailable
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.coordinator_state import state_to_dict
from ringpull.router.control.reign import EPOCHS_AHEAD, SEALS_KEPT, Reign
from ringpull.router.control.saved_files import LEGACY, encode, generations, state_name, term_name, terms
from ringpull.router.control.state_files import LocalFiles, PatientFiles, UrlFiles, open_files, probe
from ringpull.router.control.state_store import (
    BEATS,
    MANY_FILES,
    SKIPPED_EPOCHS,
    SKIPPED_IDS,
    UNREADABLE_S,
    WATCH_S,
    Life,
    Owner,
    StateStore,
)

MINE = Owner("mine", "ringpull", {"host": "here"})
THEIRS = Owner("theirs", "other")


@pytest.fixture(params=["folder", "file:", "memory:"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> PatientFiles:
    below = f"{tmp_path}/state/of/mine"
    if request.param == "memory:":
        found = PatientFiles(UrlFiles(fsspec.filesystem("memory"), below))
    else:
        found = open_files({"folder": below, "file:": f"file://{below}"}[request.param])
    found.make_folder()
    return found


@pytest.fixture
def store(files: PatientFiles) -> StateStore:
    return StateStore(files)


def state(epoch: int) -> CoordinatorState:
    return CoordinatorState(epoch=epoch, last_id=epoch)


def began(store: StateStore, epoch: int = 1) -> Reign:
    """A first term, with a state."""
    reign = store.take_over(MINE)
    assert reign.save(state(epoch))
    return reign


def found(reign: Reign) -> CoordinatorState:
    assert reign.saved is not None
    return reign.saved.state


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


class Interrupted(LocalFiles):
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
    files, others = Interrupted(tmp_path), StateStore(LocalFiles(tmp_path))
    first = began(others)
    files.after["term-"] = lambda: first.save(state(7))
    second = StateStore(files).claim(MINE)
    assert found(second) == state(7)


def test_a_leader_that_saves_while_the_next_begins_steps_down_without_acting(tmp_path: Path) -> None:
    files = Interrupted(tmp_path)
    reign = began(StateStore(files))
    files.after["state-"] = lambda: StateStore(LocalFiles(tmp_path)).claim(MINE)
    assert not reign.save(state(2)), "it is safe, and is for others to act on"
    assert found(StateStore(LocalFiles(tmp_path)).claim(MINE)) == state(2)


def test_of_two_that_begin_at_once_only_one_does(tmp_path: Path) -> None:
    others = StateStore(LocalFiles(tmp_path))
    began(others)

    class Racing(LocalFiles):
        def create(self, name: str, content: bytes) -> None:
            if name == term_name(2):
                others.claim(MINE)
            super().create(name, content)

    with pytest.raises(Superseded, match="somebody else has begun term 2"):
        StateStore(Racing(tmp_path)).claim(MINE)


def test_one_that_was_overtaken_while_it_began_does_not_lead(tmp_path: Path) -> None:
    files = Interrupted(tmp_path)
    began(StateStore(files))
    files.after["term-"] = lambda: StateStore(LocalFiles(tmp_path)).claim(MINE)
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
        assert found(StateStore(LocalFiles(tmp_path)).claim(MINE)) == again
        reign = store.claim(MINE)


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"saved": {}, "checksum": "0"}', "flipped", "short"])
def test_a_damaged_state_is_left_out_and_nothing_is_used_twice(tmp_path: Path, content: bytes | str) -> None:
    store = StateStore(LocalFiles(tmp_path))
    reign = began(store)
    reign.save(state(2))
    reign.save(state(3))
    newest = tmp_path / state_name(1, 3)
    whole = newest.read_bytes()
    damaged = {"flipped": whole.replace(b'"epoch": 3', b'"epoch": 2'), "short": whole[:-9]}.get(str(content), content)
    assert damaged != whole
    newest.write_bytes(damaged)  # type: ignore[arg-type]
    again = store.claim(MINE)
    assert again.saved is not None
    assert replace(found(again), last_id=2) == state(2)
    assert found(again).last_id == 2 + SKIPPED_IDS
    assert again.epochs_to == 2 + EPOCHS_AHEAD + SKIPPED_EPOCHS
    assert newest.name in again.saved.warning
    again.save(found(again))
    assert store.claim(MINE).saved == replace(again.saved, epochs_to=2 + EPOCHS_AHEAD, warning="")


def test_damage_of_all_states_is_named(tmp_path: Path) -> None:
    store = StateStore(LocalFiles(tmp_path))
    began(store).save(state(2))
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    with pytest.raises(CorruptData, match=state_name(1, 2)):
        store.claim(MINE)


def test_nothing_is_made_where_no_state_can_be_gone_on_from(tmp_path: Path) -> None:
    """Whoever is restarted tries every few seconds, for as long as it takes: days, with damage."""
    store = StateStore(LocalFiles(tmp_path))
    began(store).save(state(2))
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    before = sorted(path.name for path in tmp_path.iterdir())
    for attempt in (store.claim, store.take_over):
        with pytest.raises(CorruptData):
            attempt(MINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nothing_is_made_where_there_is_no_state_of_the_deployment(tmp_path: Path) -> None:
    store = StateStore(LocalFiles(tmp_path))
    store.take_over(MINE)  # and nothing is saved
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StartupError, match="holds no state of deployment mine"):
        store.claim(MINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.medium
def test_starts_that_save_nothing_pile_up_no_files(store: StateStore, files: PatientFiles) -> None:
    began(store)
    sleeper = store.claim(MINE)
    for _ in range(3 * MANY_FILES):
        store.claim(MINE)
        assert len(files.names()) <= MANY_FILES + 4
    last = store.claim(MINE)
    assert replace(found(last), epoch=1) == state(1)
    assert last.epochs_to > EPOCHS_AHEAD, "no epoch is used twice"
    with pytest.raises(Superseded):
        sleeper.save(state(100))
    assert replace(found(store.claim(MINE)), epoch=1) == state(1)


class Failing(LocalFiles):
    """Folder of which some files cannot be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broken: tuple[str, ...] = ()

    def read(self, name: str) -> bytes:
        if name.startswith(self.broken):
            raise OSError(5, "Input/output error")
        return super().read(name)


def test_a_state_that_alone_cannot_be_read_is_waited_for_and_then_taken_for_damaged(tmp_path: Path) -> None:
    now_s, files = 0.0, Failing(tmp_path)
    store = StateStore(files, clock=lambda: now_s)
    began(store).save(state(2))
    files.broken = (state_name(1, 2),)
    for now_s in (0.0, UNREADABLE_S - 1.0):  # noqa: B007 - the clock reads it
        with pytest.raises(StartupError, match="Input/output error"):
            store.claim(MINE)
    now_s = UNREADABLE_S
    reign = store.claim(MINE)
    assert reign.epochs_to == 1 + EPOCHS_AHEAD + SKIPPED_EPOCHS
    assert reign.saved is not None
    assert state_name(1, 2) in reign.saved.warning


def test_where_nothing_can_be_read_nothing_is_taken_for_damaged(tmp_path: Path) -> None:
    now_s, files = 0.0, Failing(tmp_path)
    store = StateStore(files, clock=lambda: now_s)
    began(store).save(state(2))
    files.broken = ("",)
    for now_s in (0.0, 10 * UNREADABLE_S, 20 * UNREADABLE_S):  # noqa: B007 - the clock reads it
        with pytest.raises(StartupError, match="Input/output error"):
            store.claim(MINE)
    files.broken = ()
    assert found(store.claim(MINE)) == state(2)


def test_a_term_file_that_alone_cannot_be_read_keeps_nobody_away(tmp_path: Path) -> None:
    now_s, files = 0.0, Failing(tmp_path)
    store = StateStore(files, clock=lambda: now_s)
    began(store)
    store.claim(MINE)
    files.broken = (term_name(2),)
    with pytest.raises(StartupError, match="Input/output error"):
        store.claim(MINE)
    now_s = UNREADABLE_S
    assert store.claim(MINE).term == 3


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
    store = StateStore(LocalFiles(tmp_path / "gone"))
    with pytest.raises(StartupError, match="is it mounted here"):
        store.claim(MINE)
    with pytest.raises(StartupError):
        store.claim(MINE, must_exist=False)
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(LocalFiles(tmp_path))
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

    class Hanging(LocalFiles):
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
    files = LocalFiles(tmp_path)
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
    store = StateStore(LocalFiles(tmp_path))
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
    reign = began(StateStore(LocalFiles(tmp_path)))
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
    assert found(StateStore(LocalFiles(tmp_path)).claim(MINE)) == state(3)


def test_what_a_killed_leader_was_making_is_deleted(tmp_path: Path) -> None:
    store = StateStore(LocalFiles(tmp_path))
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


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_another_deployment_is_refused_while_the_first_beats(store: StateStore) -> None:
    reign = began(store)
    reign.beat()
    said: list[str] = []
    with pytest.raises(
        StartupError, match=r"belongs to deployment ringpull on here \(mine\), which lives; stop it, or"
    ):
        store.take_over(THEIRS, say=said.append, wait=lambda _: reign.beat())
    assert len(said) == 1
    assert store.claim(MINE).term == 2


def test_a_deployment_without_a_beat_is_watched_for_minutes_and_then_taken_for_dead(store: StateStore) -> None:
    """It may be stopped, or its machine: five beats say nothing of that."""
    began(store, epoch=5).beat()
    waits: list[float] = []
    said: list[str] = []
    reign = store.take_over(THEIRS, wait=waits.append, say=said.append)
    assert sum(waits) >= WATCH_S
    assert set(waits) == {store.beat_s}
    assert said[0].endswith(f"watching for {WATCH_S:.0f} s whether it lives")
    assert said[-1].endswith(f"watching for {store.beat_s:.0f} s whether it lives")
    assert (reign.term, reign.epochs_to) == (2, 5 + EPOCHS_AHEAD), "epochs and terms go on"
    assert found(reign) == CoordinatorState(epoch=5 + EPOCHS_AHEAD), "and nothing else does"


def test_one_that_beats_seldom_is_alive(store: StateStore) -> None:
    reign, waits = began(store), 0

    def wait(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 4 * BEATS:
            reign.beat()

    with pytest.raises(StartupError, match="which lives"):
        store.take_over(THEIRS, wait=wait)


@pytest.mark.parametrize("beats_on", [True, False])
def test_where_what_it_ran_on_is_gone_a_few_beats_are_enough(store: StateStore, beats_on: bool) -> None:
    reign = began(store)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if beats_on and len(waits) == BEATS:
            reign.beat()

    if beats_on:
        with pytest.raises(StartupError, match="which lives"):
            store.take_over(THEIRS, lives=lambda _: Life.GROUNDLESS, wait=wait)
    else:
        assert store.take_over(THEIRS, lives=lambda _: Life.GROUNDLESS, wait=wait).term == 2
    assert waits == [store.beat_s] * BEATS


@pytest.mark.parametrize("lives", [True, False])
def test_what_is_known_for_sure_is_not_watched(store: StateStore, lives: bool) -> None:
    began(store)

    def wait(_: float) -> None:
        raise AssertionError("it is known")

    known = Life.LIVES if lives else Life.DEAD

    def take() -> Reign:
        return store.take_over(THEIRS, lives=lambda owner: known if owner == MINE else Life.UNKNOWN, wait=wait)

    if lives:
        with pytest.raises(StartupError, match="which lives"):
            take()
    else:
        assert take().term == 2


def test_after_it_has_stopped_another_one_takes_it_over(store: StateStore, files: PatientFiles) -> None:
    reign = began(store)
    reign.beat()
    reign.release()
    reign.release()
    again = store.take_over(THEIRS, lives=lambda _: Life.LIVES)
    assert again.term == 2
    with pytest.raises(Superseded, match="term 1 is over"):
        reign.save(state(2))
    with pytest.raises(Superseded, match=r"belongs to deployment other \(theirs\) by now"):
        store.claim(MINE)
    assert not [name for name in files.names() if name.startswith(("beat", "released"))]


def test_a_term_file_that_its_maker_fell_over_is_nobodys(tmp_path: Path) -> None:
    store = StateStore(LocalFiles(tmp_path))
    began(store)
    (tmp_path / term_name(2)).write_bytes(b"{")
    assert store.owner() == MINE
    assert store.claim(MINE).term == 3


def test_the_state_of_an_earlier_build_is_carried_on_and_put_away(tmp_path: Path) -> None:
    (tmp_path / LEGACY).write_text(json.dumps({"deployment": "mine", "state": state_to_dict(state(17))}))
    store = StateStore(LocalFiles(tmp_path))
    reign = store.claim(MINE)
    assert (found(reign), reign.epochs_to) == (state(17), 17)
    reign.save(state(18))
    assert (tmp_path / LEGACY).exists(), "it is the last state but one"
    reign.save(state(19))
    assert not (tmp_path / LEGACY).exists()
    assert found(store.claim(MINE)) == state(19)


def test_another_deployment_takes_over_from_an_earlier_build(tmp_path: Path) -> None:
    (tmp_path / LEGACY).write_text(json.dumps({"deployment": "older", "state": state_to_dict(state(17))}))
    reign = StateStore(LocalFiles(tmp_path)).take_over(MINE)
    assert (found(reign), reign.term) == (CoordinatorState(epoch=17), 1)
    assert terms([path.name for path in tmp_path.iterdir()]) == [1]
