"""Damaged and unreadable files of the coordinator's state: nothing is used twice, and nothing piles up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import CorruptData, StartupError, Superseded
from ringpull.router.control.reign import EPOCHS_AHEAD
from ringpull.router.control.saved_files import state_name, term_name
from ringpull.router.control.state_files import FolderFiles, PatientFiles
from ringpull.router.control.state_store import (
    MANY_FILES,
    SKIPPED_EPOCHS,
    SKIPPED_IDS,
    UNREADABLE_S,
    StateStore,
)
from tests.router.reigns import MINE, began, found, state


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"saved": {}, "checksum": "0"}', "flipped", "short"])
def test_a_damaged_state_is_left_out_and_nothing_is_used_twice(tmp_path: Path, content: bytes | str) -> None:
    store = StateStore(FolderFiles(tmp_path))
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
    store = StateStore(FolderFiles(tmp_path))
    began(store).save(state(2))
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    with pytest.raises(CorruptData, match=state_name(1, 2)):
        store.claim(MINE)


def test_nothing_is_made_where_no_state_can_be_gone_on_from(tmp_path: Path) -> None:
    """Whoever is restarted tries every few seconds, for as long as it takes: days, with damage."""
    store = StateStore(FolderFiles(tmp_path))
    began(store).save(state(2))
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"")
    before = sorted(path.name for path in tmp_path.iterdir())
    for attempt in (store.claim, store.take_over):
        with pytest.raises(CorruptData):
            attempt(MINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nothing_is_made_where_there_is_no_state_of_the_deployment(tmp_path: Path) -> None:
    store = StateStore(FolderFiles(tmp_path))
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


class Failing(FolderFiles):
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
