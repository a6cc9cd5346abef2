"""The coordinator's process when its surroundings fail: disks, folders, other coordinators, its own thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import CorruptData, RingpullError, StartupError, Superseded, Unavailable
from ringpull.router.control.events import Member
from ringpull.router.control.operations import ChangeStatus, GetChange, GetStatus, Publish, Rebalance
from ringpull.router.control.process import CoordinatorProcess
from ringpull.router.control.saved_files import LEGACY, generations, state_name
from ringpull.router.control.state_store import Owner, StateStore
from tests.router.members import FakeMembers
from tests.router.test_process import FAST, Deployment, Disk, move, over, settings, spec, until


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.members.on.clear()
    made.kill()


@pytest.fixture
def full_disk(deployment: Deployment) -> tuple[Disk, CoordinatorProcess]:
    """A deployment of two shards whose coordinator's disk can be filled."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    return deployment.files, coordinator


def test_what_cannot_be_saved_is_refused_and_not_carried_out_later(
    deployment: Deployment, full_disk: tuple[Disk, CoordinatorProcess]
) -> None:
    disk, coordinator = full_disk
    disk.full = True
    for request in (Publish(model="ranker", version=2), Rebalance(shards=3)):
        with pytest.raises(StartupError, match="No space left"):
            coordinator.call(request)
    [warning] = coordinator.call(GetStatus()).warnings
    assert warning.startswith("coordinator: the coordinator's state cannot be saved to")
    disk.full = False
    until(lambda: not coordinator.call(GetStatus()).warnings)
    assert not coordinator.call(GetChange()).under_way
    assert deployment.serves(spec(2))
    coordinator = deployment.start()
    assert not coordinator.call(GetChange()).under_way
    assert coordinator.call(Publish(model="ranker", version=2)).subject == "ranker/2"
    assert over(coordinator).error == ""


def test_repairs_need_no_disk(deployment: Deployment, full_disk: tuple[Disk, CoordinatorProcess]) -> None:
    disk, coordinator = full_disk
    disk.full = True
    epoch = coordinator.map().epoch
    for shard in (0, 1, 0):
        deployment.members.crash_shard(shard)
        until(lambda: deployment.serves(spec(2)))
    deployment.members.crash_head(0)
    until(lambda: deployment.serves(spec(2)))
    assert coordinator.map().epoch > epoch
    disk.full = False
    until(lambda: deployment.saved()["state"]["epoch"] == coordinator.map().epoch)


def test_a_change_waits_for_the_disk_and_says_so(
    deployment: Deployment, full_disk: tuple[Disk, CoordinatorProcess]
) -> None:
    disk, coordinator = full_disk

    def fill() -> None:
        disk.full = True

    deployment.members.on["load head 0"] = fill
    move(coordinator, spec(2, number=2))
    until(lambda: coordinator.call(GetChange()).trouble.endswith("No space left on device"))
    assert deployment.members.heads[0].live == {"ranker": 1}, "nothing follows from what is not saved"
    deployment.members.crash_shard(1)
    until(lambda: deployment.members.shards[1].versions == {("ranker", 1), ("ranker", 2)})
    disk.full = False
    assert over(coordinator).error == ""
    assert deployment.serves(spec(2, number=2))


def test_a_request_that_comes_too_late_is_not_begun(deployment: Deployment) -> None:
    """Its caller was told that it failed: the machine's thread was busy for too long."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    busy = threading.Event()
    coordinator._leader.put(busy.wait)  # type: ignore[arg-type]
    refused: list[Unavailable] = []

    def ask() -> None:
        try:
            coordinator.call(Rebalance(shards=3), within_s=0.0)
        except Unavailable as exc:
            refused.append(exc)

    asking = threading.Thread(target=ask)
    asking.start()
    busy.set()
    asking.join()
    assert "too late; nothing was begun" in str(refused[0])
    assert not coordinator.call(GetChange()).under_way
    assert coordinator.call(Rebalance(shards=3), within_s=60.0).under_way


def test_a_coordinator_that_was_overtaken_ends_and_says_why(deployment: Deployment) -> None:
    gone = threading.Event()
    coordinator = deployment.start(failed=gone.set)
    coordinator.bring_up(spec(1))
    over(coordinator)
    StateStore(deployment.files).claim(Owner("this one"))
    with suppress(RingpullError):
        coordinator.call(Rebalance(shards=2))
    coordinator._leader.show_life()
    until(gone.is_set)
    with pytest.raises(StartupError, match="the coordinator has stopped: term 1 is over"):
        coordinator.call(GetChange())


def test_a_thread_that_stands_still_renews_no_lease_and_ends_the_process(tmp_path: Path) -> None:
    deployment, gone = Deployment(tmp_path), threading.Event()
    deployment.files.beat_s = 0.01
    coordinator = deployment.start(timing=replace(FAST, watchdog_s=0.1), failed=gone.set)
    stands = threading.Event()
    coordinator._leader.put(stands.wait)  # type: ignore[arg-type]
    until(gone.is_set)
    leases = deployment.members.heads[0].leases
    until(lambda: coordinator._hangs())
    with pytest.raises(Unavailable, match="stands still"):
        coordinator._ask(Member("head", 0))
    assert deployment.members.heads[0].leases == leases
    stands.set()
    deployment.kill()


def test_a_thread_that_stands_still_for_a_while_leads_nobody_meanwhile(tmp_path: Path) -> None:
    """As on a disk that hangs: heads, whose leases are not renewed, say within seconds that nobody leads."""
    deployment = Deployment(tmp_path)
    coordinator = deployment.start(timing=replace(FAST, lease_s=60.0, still_s=0.05))
    coordinator.bring_up(spec(1))
    over(coordinator)
    head, stands, stood = deployment.members.heads[0], threading.Event(), threading.Event()
    until(lambda: head.leases)

    def stand() -> None:
        stood.set()
        stands.wait()

    coordinator._leader.put(stand)
    stood.wait()
    until(lambda: coordinator._clock() - coordinator._stepped_s > 0.05)
    leases = head.leases
    coordinator._ask(Member("head", 0))
    assert head.leases <= leases + 1, "one may have been on its way"
    stands.set()
    until(lambda: head.leases > leases + 1)
    deployment.kill()


def test_one_that_is_restarted_without_its_state_does_not_begin_anew(deployment: Deployment) -> None:
    with pytest.raises(StartupError, match="holds no state of deployment this one"):
        CoordinatorProcess(
            StateStore(deployment.files),
            deployment.members,
            owner=Owner("this one"),
            settings=settings(),
            must_exist=True,
        )
    assert list(deployment.folder.iterdir()) == []


def test_a_newest_state_that_is_damaged_costs_nothing_but_numbers(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    until(lambda: coordinator._leader.saved is coordinator._leader.machine.state)
    epoch = coordinator.map().epoch
    deployment.kill()
    newest = max(generations([path.name for path in deployment.folder.iterdir()]))
    (deployment.folder / state_name(*newest)).write_bytes(b"{")
    coordinator = deployment.start()
    until(lambda: coordinator.heads() and deployment.serves(spec(2)))
    over(coordinator)
    assert coordinator.map().epoch > epoch + 100_000
    assert "damaged" in coordinator.call(GetStatus()).warnings[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"state": {"format": 99}}'])
def test_a_damaged_state_of_an_earlier_build_is_named(deployment: Deployment, content: str) -> None:
    (deployment.folder / LEGACY).write_text(content)
    with pytest.raises(CorruptData, match=LEGACY):
        deployment.start()


def test_a_coordinator_that_comes_back_changes_nothing_at_rest(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    epoch = coordinator.map().epoch
    coordinator = deployment.start()
    until(lambda: deployment.members.heads[0].fence.term == coordinator._leader.term)
    until(lambda: deployment.members.said.count("assign shard 1") == 2)
    until(lambda: deployment.serves(spec(2)))
    until(lambda: coordinator.map() == deployment.members.heads[0].map)
    assert coordinator.map().epoch > epoch, "the map is another one's, of a higher term"


def test_of_another_deployment_only_the_epoch_is_kept(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    epoch = coordinator.map().epoch
    deployment.kill()
    with pytest.raises(Superseded, match="belongs to deployment this one"):
        deployment.start(deployment="another")
    deployment.reign().release()
    StateStore(deployment.files).take_over(Owner("another"))
    deployment.members = FakeMembers(deployment="another")
    coordinator = deployment.start(deployment="another")
    assert coordinator.call(GetChange()) == ChangeStatus()
    coordinator.bring_up(spec(1))
    over(coordinator)
    assert coordinator.map().epoch > epoch
