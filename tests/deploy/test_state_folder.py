"""The folder of a deployment's state, as the command that brings it up takes and leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringpull.deploy.cluster.ray_actors import count_actors
from ringpull.deploy.cluster.state_folder import OwnedStateFolder, lives, owner_of
from ringpull.ps.errors import InvalidInput, StartupError
from ringpull.router.control.state_files import open_files
from ringpull.router.control.state_store import Life, Owner, StateStore
from tests.ports import free_port


def take(folder: Path, deployment: str) -> OwnedStateFolder:
    owner = owner_of(deployment, "ringpull", ray=None)
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


def ended(owner: Owner) -> Owner:
    """The owner, after its `serve` has ended."""
    return Owner(owner.deployment, owner.name, {**owner.who, "process": {**owner.who["process"], "start_ticks": 1}})


def test_one_whose_serve_lives_lives() -> None:
    def count(address: str, name: str) -> int:
        raise AssertionError("it is known")

    assert lives(owner_of("a", "ringpull", ray=None), count=count) is Life.LIVES
    assert lives(owner_of("a", "ringpull", ray="10.0.0.1:6379"), count=count) is Life.LIVES
    assert lives(Owner("a", "of a later build", {"process": {"unheard": "of"}}), count=count) is Life.UNKNOWN


@pytest.mark.parametrize(
    ("found", "known"), [(4, Life.LIVES), (0, Life.GROUNDLESS), (None, Life.UNKNOWN), ("refused", Life.GROUNDLESS)]
)
def test_the_ray_that_a_deployment_was_left_on_is_asked_for_it(found: int | str | None, known: Life) -> None:
    """Its coordinator may be stopped, and beats no more: its actors are there all the same."""
    asked = []

    def count(address: str, name: str) -> int | None:
        asked.append((address, name))
        if isinstance(found, str):
            raise ConnectionRefusedError
        return found

    assert lives(ended(owner_of("a", "mine", ray="10.0.0.1:6379")), count=count) is known
    assert asked == [("10.0.0.1:6379", "mine")]


def test_where_no_ray_is_that_is_known_at_once() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        count_actors(f"127.0.0.1:{port}", "mine")
    assert count_actors("no address", "mine") is None


def test_one_whose_serve_is_gone_is_dead() -> None:
    assert lives(ended(owner_of("a", "ringpull", ray=None))) is Life.DEAD


def test_a_url_that_cannot_hold_a_state_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidInput, match="cannot make a file only where there is none"):
        OwnedStateFolder.take("http://127.0.0.1:1/state", Owner("a"), heads=1, say=lambda _: None)
