"""Versions that nobody can open again: what is not needed is not asked for, what is lost is told and let go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import InvalidInput, NotFound, OtherContent, RingpullError, Unavailable
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Member
from ringpull.router.control.losses import LOOKS, Losses
from ringpull.router.control.operations import (
    GetStatus,
    ListMembers,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
)
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.state_store import Owner, StateStore
from tests.router.test_process import FAST, Deployment, over, until

REMOVED = "its files have been removed"
OTHER = OtherContent.found("ranker/1", "00000000000000b2", "00000000000000a1")


def version(number: int, model: str = "ranker") -> PlacedVersion:
    tables = {"user": PlacedTable("/user", 1, 100, 16, identity=number)}
    return PlacedVersion(model, number, f"/models/{model}/{number}", tables, f"{number:016x}")


SPEC = initial_spec(range(2), [version(1), version(7, "other")])


class Storage:
    """What lies in the folders of versions: everything, but for what is lost."""

    def __init__(self) -> None:
        self.lost: dict[str, str] = {}
        self.away = False

    def loss_of(self, placed: PlacedVersion) -> str:
        if self.away:
            raise Unavailable("the disk is not there")
        return self.lost.get(placed.name, "")


class Lossy(Deployment):
    """A deployment whose versions' files may be lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, heads=2)
        self.storage = Storage()
        self.exported_anew: dict[tuple[str, int], str] = {}
        """Versions that have another content now than any before, and its identity."""

    def begin(self, spec: DeploymentSpec = SPEC) -> CoordinatorProcess:
        coordinator = self.again()
        coordinator.bring_up(spec)
        assert over(coordinator).error == ""
        return coordinator

    def again(self) -> CoordinatorProcess:
        self.kill()
        coordinator = CoordinatorProcess(
            StateStore(self.files),
            self.members,
            owner=Owner("this one"),
            settings=Settings(
                place=lambda publish, spec: self.place(publish),
                heads=2,
                loss_of=self.storage.loss_of,
            ),
            timing=replace(FAST, files_s=0.02),
        )
        self.coordinators.append(coordinator)
        return coordinator

    def place(self, publish: Publish) -> PlacedVersion:
        found = version(publish.version, publish.model)
        return replace(found, identity=self.exported_anew.get((found.model, found.version), found.identity))

    def lose(self, name: tuple[str, int], reason: str = REMOVED, error: RingpullError | None = None) -> None:
        """Remove the files of a version: who has it open goes on, nobody else opens it."""
        self.members.lost[name] = error or NotFound("its folder cannot be opened")
        self.storage.lost[f"{name[0]}/{name[1]}"] = reason


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Lossy]:
    made = Lossy(tmp_path)
    yield made
    made.kill()


def names(spec: DeploymentSpec) -> list[str]:
    return [each.name for each in spec.versions]


def status_of(coordinator: CoordinatorProcess) -> DeploymentSpec:
    return coordinator.call(GetStatus()).spec


def warnings(coordinator: CoordinatorProcess) -> str:
    return "\n".join(coordinator.call(GetStatus()).warnings)


def healthy(coordinator: CoordinatorProcess) -> bool:
    return not any(state.missing for state in coordinator.call(ListMembers()))


# -- an older version that is kept -------------------------------------------------------------------------------------


@pytest.mark.medium
def test_publish_and_rebalance_go_on_without_the_folder_of_a_version_that_is_kept(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    coordinator.call(Publish(model="ranker", version=2))
    assert over(coordinator).error == ""
    assert names(status_of(coordinator)) == ["other/7", "ranker/1", "ranker/2"]
    deployment.lose(("ranker", 1))
    coordinator.call(Rebalance(shards=3))
    assert over(coordinator).error == ""
    assert names(status_of(coordinator)) == ["other/7", "ranker/2"]
    assert f"ranker/1 was let go: {REMOVED}" in warnings(coordinator)
    coordinator.call(Publish(model="ranker", version=3))
    assert over(coordinator).error == ""
    assert deployment.serves(status_of(coordinator))
    assert names(status_of(coordinator)) == ["other/7", "ranker/2", "ranker/3"]


@pytest.mark.medium
def test_members_restart_without_it_and_it_is_open_nowhere(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    coordinator.call(Publish(model="ranker", version=2))
    over(coordinator)
    deployment.lose(("ranker", 1))
    deployment.members.crash_shard(0)
    deployment.members.crash_head(1)
    until(lambda: healthy(coordinator) and "ranker/1" not in names(status_of(coordinator)))
    until(lambda: deployment.serves(status_of(coordinator)))
    assert f"ranker/1 was let go: {REMOVED}" in warnings(coordinator)
    again = deployment.again()
    until(lambda: healthy(again))
    assert names(status_of(again)) == ["other/7", "ranker/2"], "it is let go for good"


@pytest.mark.medium
def test_one_that_was_exported_anew_is_let_go_and_its_number_is_free(deployment: Lossy) -> None:
    """Nobody could open it again. What was let go is told, and no rollback leads to the other content."""
    coordinator = deployment.begin()
    coordinator.call(Publish(model="ranker", version=2))
    over(coordinator)
    deployment.lose(("ranker", 1), str(OTHER), OTHER)
    with pytest.raises(InvalidInput, match=r"no older version is open \(ranker/1 was let go: .* has other content now"):
        coordinator.call(Rollback(model="ranker"))
    deployment.members.lost.clear()
    deployment.storage.lost.clear()
    deployment.exported_anew["ranker", 1] = "00000000000000b2"
    coordinator.call(Publish(model="ranker", version=1))
    assert over(coordinator).error == ""
    assert {each.name: each.identity for each in status_of(coordinator).versions}["ranker/1"] == "00000000000000b2"
    assert "ranker/1 was let go" in warnings(coordinator)
    deployment.exported_anew["ranker", 1] = "00000000000000c3"  # It is live, and what is live is let go by nobody.
    with pytest.raises(OtherContent, match="export under a new number"):
        coordinator.call(Publish(model="ranker", version=1))


@pytest.mark.medium
def test_a_rollback_to_it_is_refused_in_words(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    coordinator.call(Publish(model="ranker", version=2))
    over(coordinator)
    deployment.lose(("ranker", 1))
    for request in (Rollback(model="ranker"), Rollback(model="ranker", version=1)):
        with pytest.raises(InvalidInput, match=f"open.*ranker/1 was let go: {REMOVED}"):
            coordinator.call(request)
    assert status_of(coordinator).live["ranker"] == 2


@pytest.mark.medium
def test_storage_that_is_away_loses_nothing(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    coordinator.call(Publish(model="ranker", version=2))
    over(coordinator)
    deployment.storage.away = True
    deployment.storage.lost["ranker/1"] = REMOVED
    coordinator.call(Rollback(model="ranker"))
    assert over(coordinator).error == ""
    assert status_of(coordinator).live["ranker"] == 1


# -- the live version --------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_a_live_version_serves_on_where_it_is_open_and_nothing_else_is_held_up(deployment: Lossy) -> None:
    """A restarted shard and a restarted head serve what they can, and are asked again until the files are back."""
    coordinator = deployment.begin()
    deployment.lose(("ranker", 1), str(OTHER), OTHER)
    until(lambda: "ranker/1 serves on with what is open" in warnings(coordinator))
    assert "export under a new number" in warnings(coordinator)
    deployment.members.crash_shard(0)
    deployment.members.crash_head(0)
    shard, head = deployment.members.shards[0], deployment.members.heads[0]
    until(lambda: shard.versions == {("ranker", 1), ("other", 7)} and head.live == {"ranker": 1, "other": 7})
    assert (shard.stored, head.loaded) == ({("other", 7)}, {("other", 7)})
    missing = {str(state.member): state.missing for state in coordinator.call(ListMembers())}
    assert missing["shard 0"] == "it could not open ranker/1"
    assert missing["head 0"] == "it could not load ranker/1"
    assert deployment.members.shards[1].stored == {("ranker", 1), ("other", 7)}
    assert names(status_of(coordinator)) == ["other/7", "ranker/1"], "what is live is not let go"
    coordinator.call(Publish(model="other", version=8))
    assert over(coordinator).error == "", "other models are published meanwhile"
    deployment.members.lost.clear()
    deployment.storage.lost.clear()
    until(lambda: healthy(coordinator) and deployment.serves(status_of(coordinator)))
    until(lambda: "ranker/1" not in warnings(coordinator))


@pytest.mark.medium
def test_the_way_out_is_another_number(deployment: Lossy) -> None:
    """Members that lack the live version take the next one; then the one that is lost is let go."""
    coordinator = deployment.begin()
    deployment.lose(("ranker", 1), str(OTHER), OTHER)
    deployment.members.crash_shard(1)
    deployment.members.crash_head(1)
    until(lambda: deployment.members.shards[1].versions == {("ranker", 1), ("other", 7)})
    until(lambda: deployment.members.heads[1].live == {"ranker": 1, "other": 7})
    coordinator.call(Publish(model="ranker", version=2))
    assert over(coordinator).error == ""
    until(lambda: healthy(coordinator) and names(status_of(coordinator)) == ["other/7", "ranker/2"])
    assert deployment.serves(status_of(coordinator))


@pytest.mark.medium
def test_a_publish_of_what_cannot_be_opened_is_given_up(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    error = OtherContent.found("ranker/2", "00000000000000b2", "0000000000000002")
    deployment.members.lost["ranker", 2] = error
    coordinator.call(Publish(model="ranker", version=2))
    assert str(error) in over(coordinator).error
    until(lambda: deployment.serves(SPEC))


@pytest.mark.medium
def test_a_new_shard_that_cannot_open_what_is_live_ends_the_move(deployment: Lossy) -> None:
    """Its slots would have an owner that does not answer for them."""
    coordinator = deployment.begin()
    deployment.members.lost["ranker", 1] = OTHER
    coordinator.call(Rebalance(shards=3))
    assert "export under a new number" in over(coordinator).error
    until(lambda: deployment.serves(SPEC))


def test_nobody_is_restarted_who_would_not_come_back(deployment: Lossy) -> None:
    coordinator = deployment.begin()
    deployment.lose(("ranker", 1))
    until(lambda: healthy(coordinator))
    state = coordinator.call(ListMembers())[0]
    request = RestartMember(member=Member("shard", 0), incarnation=state.incarnation, drain_s=1.0)
    with pytest.raises(InvalidInput, match=f"shard 0 would not serve after a restart .ranker/1: {REMOVED}"):
        coordinator.call(request)
    coordinator.call(replace(request, force=True))
    assert "restart shard 0" in deployment.members.said


# -- looking at files --------------------------------------------------------------------------------------------------


def test_storage_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.router.control.losses.LOOK_S", 0.01)
    hangs = threading.Event()

    def loss_of(placed: PlacedVersion) -> str:
        hangs.wait()
        return REMOVED

    losses = Losses(loss_of, lambda placed, reason: True)
    losses.look_in_time(CoordinatorState(spec=SPEC))
    assert losses.warnings(SPEC.versions) == ()
    hangs.set()
    until(lambda: len(losses.of_live()) == 2)


def test_storage_that_is_away_is_told_and_what_was_known_of_it_is_not_kept() -> None:
    storage, dropped = Storage(), []
    losses = Losses(storage.loss_of, lambda placed, reason: not dropped.append(placed.name))
    storage.lost["ranker/1"] = REMOVED
    losses.look(CoordinatorState(spec=SPEC))
    assert losses.of_live() == {"ranker/1": REMOVED}
    storage.away = True
    losses.look(CoordinatorState(spec=SPEC))
    said = "serves on with what is open; its files cannot be looked at now: the disk is not there"
    assert (losses.warnings(SPEC.versions), losses.of_live(), dropped) == (
        (f"other/7 {said}", f"ranker/1 {said}"),
        {},
        [],
    )
    assert losses.warnings(SPEC.versions[:1]) == (f"{SPEC.versions[0].name} {said}",), "of what is served yet"


def test_of_what_was_unloaded_since_the_last_look_nothing_is_told() -> None:
    losses = Losses(lambda placed: REMOVED if placed.model == "ranker" else "", lambda *_: True)
    losses.look(CoordinatorState(spec=SPEC))
    assert losses.warnings(SPEC.versions) != ()
    assert losses.warnings([each for each in SPEC.versions if each.model != "ranker"]) == ()


KEPT = CoordinatorState(spec=replace(SPEC, live={"other": 7}))
"""A state in which ranker/1 is open and not live."""


def test_what_was_let_go_is_told_for_an_hour() -> None:
    now_s = [0.0]
    losses = Losses(lambda placed: REMOVED if placed.model == "ranker" else "", lambda *_: True, lambda: now_s[0])
    for _ in range(LOOKS):
        losses.look(KEPT)
    assert losses.warnings(SPEC.versions) == (f"ranker/1 was let go: {REMOVED}",)
    now_s[0] = 3600.0
    assert losses.warnings(SPEC.versions) == ()


def test_nothing_is_let_go_before_several_looks_in_a_row_say_the_same() -> None:
    """A folder that is exchanged, or storage that flickers, is there again at the next look."""
    storage, dropped = Storage(), []

    def let_go(placed: PlacedVersion, reason: str) -> bool:
        dropped.append((placed.name, reason))
        return True

    losses = Losses(storage.loss_of, let_go)
    for reason in (REMOVED, REMOVED, "", REMOVED, REMOVED, "other content", "other content", "away", REMOVED, REMOVED):
        storage.away = reason == "away"
        storage.lost["ranker/1"] = reason
        losses.look(KEPT)
    assert dropped == []
    losses.look(KEPT)
    assert dropped == [("ranker/1", REMOVED)]


def test_what_is_kept_after_all_is_not_told_as_let_go() -> None:
    """It has become live while its files were looked at."""
    losses = Losses(lambda placed: REMOVED if placed.model == "ranker" else "", lambda *_: False)
    for _ in range(2 * LOOKS):
        losses.look(KEPT)
    assert (losses.warnings(SPEC.versions), losses.let_go_of("ranker")) == ((), "")


def test_storage_that_hangs_keeps_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.router.control.losses.LOOK_S", 0.001)
    hangs = threading.Event()

    def loss_of(placed: PlacedVersion) -> str:
        hangs.wait()
        return ""

    losses = Losses(loss_of, lambda placed, reason: True)
    others = threading.enumerate()  # of other tests, which may be ending
    for _ in range(5):
        losses.look_in_time(CoordinatorState(spec=SPEC))
    [looking] = [each for each in threading.enumerate() if each not in others]
    hangs.set()
    looking.join()


@pytest.mark.medium
def test_a_look_that_fails_unforeseen_is_not_the_last(deployment: Lossy) -> None:
    failures = []
    real = deployment.storage.loss_of

    def failing(placed: PlacedVersion) -> str:
        if len(failures) < 3:
            failures.append(placed)
            raise PermissionError(13, "Permission denied", placed.folder)
        return real(placed)

    deployment.storage.loss_of = failing  # type: ignore[method-assign]
    coordinator = deployment.begin()
    deployment.storage.lost["ranker/1"] = REMOVED
    until(lambda: "ranker/1 serves on" in warnings(coordinator))
    assert len(failures) == 3
