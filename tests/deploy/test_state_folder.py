"""The folder of a deployment's state, as the command that brings it up takes and leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.deploy.cluster.state_folder import OwnedStateFolder, lives, owner_of
from ringpull.ps.errors import InvalidInput, StartupError
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Owner, StateStore


def take(folder: Path, deployment: str) -> OwnedStateFolder:
    owner = owner_of(deployment, "ringpull", private=True)
    return OwnedStateFolder.take(str(folder), owner, heads=2, say=lambda _: None)


def test_it_has_a_state_before_there_is_a_coordinator(tmp_path: Path) -> None:
    with take(tmp_path / "state", "a"):
        reign = StateStore(open_files(str(tmp_path / "state"))).claim(Owner("a"))
        assert reign.saved is not None
        assert reign.saved.state.heads == (0, 1)


def test_a_second_deployment_is_refused_by_name_while_this_process_lives(tmp_path: Path) -> None:
    with (
        take(tmp_path, "a"),
        pytest.raises(StartupError, match=r"belongs to deployment ringpull on .* \(a\), which liv"),
    ):
        take(tmp_path, "b")
    with take(tmp_path, "b"):
        pass


def test_what_is_left_to_the_coordinator_is_not_released(tmp_path: Path) -> None:
    with take(tmp_path, "a") as folder:
        folder.leave_to_coordinator()
    assert not list(tmp_path.glob("released-*"))


def test_of_a_deployment_on_a_joined_ray_nothing_is_sure() -> None:
    assert lives(owner_of("a", "ringpull", private=False)) is None
    assert lives(owner_of("a", "ringpull", private=True)) is True
    assert lives(Owner("a", "of a later build", {"process": {"unheard": "of"}})) is None


def test_one_whose_serve_is_gone_is_dead() -> None:
    here = owner_of("a", "ringpull", private=True)
    process = {**here.who["process"], "start_ticks": 1}
    assert lives(Owner("a", "ringpull", {**here.who, "process": process})) is False


def test_a_url_that_cannot_hold_a_state_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidInput, match="cannot make a file only where there is none"):
        OwnedStateFolder.take("http://127.0.0.1:1/state", Owner("a"), heads=1, say=lambda _: None)
