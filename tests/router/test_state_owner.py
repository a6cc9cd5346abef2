"""Whose the folder of the coordinator's state is: of one deployment while that lives, and of the next one then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import StartupError, Superseded
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.coordinator_state import state_to_dict
from ringpull.router.control.pushed_tables import PushedTable
from ringpull.router.control.reign import EPOCHS_AHEAD, Reign
from ringpull.router.control.saved_files import LEGACY, term_name, terms
from ringpull.router.control.state_files import FolderFiles, PatientFiles
from ringpull.router.control.state_store import (
    BEATS,
    WATCH_S,
    Life,
    StateStore,
)
from tests.router.reigns import MINE, THEIRS, began, found, state


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


@pytest.mark.parametrize(("released", "in_memory"), [(True, True), (True, False), (False, True)])
def test_pushed_rows_are_looked_for_unless_they_went_with_an_orderly_end(
    store: StateStore, released: bool, in_memory: bool
) -> None:
    pushed = {1: (PushedTable("ranker", 7, "user"),)}
    reign = began(store)
    reign.save(replace(state(2), pushed=pushed))
    if released:
        reign.release(without_rows=in_memory)
    after = store.take_over(THEIRS, lives=lambda _: Life.DEAD)
    went = released and in_memory
    assert found(after).pushed == ({} if went else pushed)
    assert after.saved is not None
    told = "rows that were pushed to ranker/user went when the deployment before was stopped: they were in memory"
    assert after.saved.warning.startswith(told if went else "")
    assert bool(after.saved.warning) == went


def test_a_term_file_that_its_maker_fell_over_is_nobodys(tmp_path: Path) -> None:
    store = StateStore(FolderFiles(tmp_path))
    began(store)
    (tmp_path / term_name(2)).write_bytes(b"{")
    assert store.owner() == MINE
    assert store.claim(MINE).term == 3


def test_the_state_of_an_earlier_build_is_carried_on_and_put_away(tmp_path: Path) -> None:
    (tmp_path / LEGACY).write_text(json.dumps({"deployment": "mine", "state": state_to_dict(state(17))}))
    store = StateStore(FolderFiles(tmp_path))
    reign = store.claim(MINE)
    assert (found(reign), reign.epochs_to) == (state(17), 17)
    reign.save(state(18))
    assert (tmp_path / LEGACY).exists(), "it is the last state but one"
    reign.save(state(19))
    assert not (tmp_path / LEGACY).exists()
    assert found(store.claim(MINE)) == state(19)


def test_another_deployment_takes_over_from_an_earlier_build(tmp_path: Path) -> None:
    (tmp_path / LEGACY).write_text(json.dumps({"deployment": "older", "state": state_to_dict(state(17))}))
    reign = StateStore(FolderFiles(tmp_path)).take_over(MINE)
    assert (found(reign), reign.term) == (CoordinatorState(epoch=17), 1)
    assert terms([path.name for path in tmp_path.iterdir()]) == [1]
