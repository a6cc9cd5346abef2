"""The version that `serve` takes where its state knows which one was live."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.deploy.live_before import LiveBefore
from ringpull.deploy.model_folders import choose_versions, version_below
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import initial_spec
from tests.deploy.folders import flip_byte, write_version


@pytest.fixture
def ranker(tmp_path: Path) -> Path:
    for number in (3, 4):
        write_version(tmp_path / "ranker", number)
    return tmp_path / "ranker"


def left_by(folder: Path, number: int, *, highest: int = 0, pinned: bool = False) -> CoordinatorState:
    """What a deployment leaves behind that had one version of the model live."""
    spec = initial_spec(range(2), [version_below(str(folder), number)])
    spec = replace(spec, pinned=("ranker",) if pinned else ())
    return CoordinatorState(before=spec, went_live=(("ranker", highest or number),))


class Chosen:
    def __init__(self, left: CoordinatorState, folder: Path) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        choose = LiveBefore(left, say=self.said.append, warn=self.warned.append).choose
        [version] = choose_versions([folder], choose=choose)
        self.number = version.version


def test_what_was_live_is_served_and_said_where_the_highest_was_rolled_back_from(ranker: Path) -> None:
    chosen = Chosen(left_by(ranker, 3, highest=4), ranker)
    assert (chosen.number, chosen.warned) == (3, [])
    assert chosen.said == [
        "ranker/3 was live, and is served again; 4 is in its folder, too, but it was live before:"
        " `ringpull publish ranker/4` makes it live"
    ]


def test_of_a_version_that_may_never_have_been_live_it_is_not_said_that_it_was(ranker: Path) -> None:
    [told] = Chosen(left_by(ranker, 3, highest=5), ranker).said
    assert "4 is in its folder, too, but not newer than 5, which was live before: `ringpull publish" in told


def test_a_version_that_is_newer_than_all_that_were_live_is_served(ranker: Path) -> None:
    assert Chosen(left_by(ranker, 3), ranker).number == 4
    write_version(ranker, 5)
    chosen = Chosen(left_by(ranker, 3, highest=4), ranker)
    assert (chosen.number, chosen.said, chosen.warned) == (5, [], [])


def test_a_model_that_was_loaded_by_number_stays_with_it(ranker: Path) -> None:
    chosen = Chosen(left_by(ranker, 3, pinned=True), ranker)
    assert chosen.number == 3
    assert "stays with the version that it was loaded by: `ringpull publish ranker/4`" in chosen.said[0]


def test_where_the_highest_was_live_or_nothing_is_known_nothing_is_said(ranker: Path) -> None:
    for left in (left_by(ranker, 4), CoordinatorState()):
        chosen = Chosen(left, ranker)
        assert (chosen.number, chosen.said, chosen.warned) == (4, [], [])


def test_what_has_gone_or_is_another_one_by_now_is_told(ranker: Path) -> None:
    left = left_by(ranker, 3)
    shutil.rmtree(ranker / "3")
    chosen = Chosen(left, ranker)
    assert (chosen.number, chosen.said) == (4, [])
    assert "ranker/3 was live, and cannot be served again: " in chosen.warned[0]
    assert chosen.warned[0].endswith("; ranker/4 is served")
    write_version(ranker, 3, value=0.25)
    assert "its files are others by now; ranker/4 is served" in Chosen(left, ranker).warned[0]
    shutil.rmtree(ranker / "4")
    assert Chosen(left, ranker).warned == []  # It was exported anew to be served.


def test_what_was_live_and_is_damaged_by_now_is_told(ranker: Path) -> None:
    left = left_by(ranker, 3)
    flip_byte(ranker / "3" / "manifest.json", 1)
    chosen = Chosen(left, ranker)
    assert chosen.number == 4
    assert "ranker/3 was live, and cannot be served again: " in chosen.warned[0]


def test_a_highest_version_that_is_damaged_stands_in_nobodys_way(ranker: Path) -> None:
    flip_byte(ranker / "4" / "manifest.json", 1)
    chosen = Chosen(left_by(ranker, 3), ranker)
    assert chosen.number == 3
    assert chosen.warned[0].startswith("ranker/3 was live, and is served again: ")
    assert "/4/manifest.json" in chosen.warned[0]
    assert Chosen(left_by(ranker, 3, highest=4), ranker).number == 3


def test_a_model_whose_folder_has_moved_is_known_by_its_name(ranker: Path, tmp_path: Path) -> None:
    left = left_by(ranker, 3, highest=4)
    moved = tmp_path / "elsewhere" / "ranker"
    moved.parent.mkdir()
    ranker.rename(moved)
    assert Chosen(left, moved).number == 3
