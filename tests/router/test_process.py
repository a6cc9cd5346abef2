"""The coordinator's process over members in this process: order, saved state, retries, crashes, members that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ringpull.ps.errors import Busy, CorruptData, InvalidInput, StartupError, Unavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Begin
from ringpull.router.control.model_search import FindAmong, look_nowhere
from ringpull.router.control.operations import (
    ChangeStatus,
    Control,
    ControlChange,
    GetChange,
    GetStatus,
    PlanRebalance,
    Publish,
    Rebalance,
    Rollback,
)
from ringpull.router.control.process import CoordinatorProcess, Settings, Timing
from ringpull.router.control.reign import Reign
from ringpull.router.control.saved_files import generations
from ringpull.router.control.state_files import FolderFiles
from ringpull.router.control.state_store import Owner, StateStore
from tests.patience import PATIENCE_S
from tests.router.members import FakeMembers
from tests.saved_state import newest_state

FAST = Timing(heartbeat_s=0.01, lease_s=0.3, first_retry_s=0.01, longest_retry_s=0.05)


def version(number: int) -> PlacedVersion:
    return PlacedVersion("ranker", number, f"/models/ranker/{number}", {"user": PlacedTable("/user", 2, 100, 16)})


def spec(shards: int, *, number: int = 1) -> DeploymentSpec:
    return initial_spec(range(shards), [version(number)])


def settings(heads: int = 1, find: FindAmong = look_nowhere) -> Settings:
    def place(publish: Publish, spec: DeploymentSpec) -> PlacedVersion:
        if publish.version > 9:
            raise InvalidInput(f"there is no version {publish.version}")
        return version(publish.version)

    return Settings(place=place, find=find, heads=heads)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition that other threads bring about."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.002)


class Killed(BaseException):
    """The process is gone."""


class Disk(FolderFiles):
    """Folder whose disk may be full, away, or the last thing that its process sees."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.full = False
        self.away = False
        self.dies_at = -1
        """Number of states that are saved before the process dies; negative: it lives."""
        self.dies_after = False
        """Whether the one at which it dies is saved."""
        self.bug: Exception | None = None

    def names(self) -> list[str]:
        if self.away:
            raise OSError(5, "Input/output error")
        return super().names()

    def read(self, name: str) -> bytes:
        if self.away:
            raise OSError(5, "Input/output error")
        return super().read(name)

    def create(self, name: str, content: bytes) -> None:
        if self.bug is not None:
            raise self.bug
        if self.away or self.full:
            raise OSError(28, "No space left on device") if self.full else OSError(5, "Input/output error")
        if name.startswith("state-") and self.dies_at >= 0:
            if self.dies_at == 0:
                if self.dies_after:
                    super().create(name, content)
                raise Killed
            self.dies_at -= 1
        super().create(name, content)


class Deployment:
    """Members, and the coordinator that is in charge of them now."""

    def __init__(self, folder: Path, heads: int = 1, find: FindAmong = look_nowhere) -> None:
        self.folder = folder
        self.find = find
        self.files = Disk(folder)
        self.members = FakeMembers(heads)
        self.coordinators: list[CoordinatorProcess] = []

    def start(self, *, timing: Timing = FAST, deployment: str = "this one", failed: Any = None) -> CoordinatorProcess:
        """Start a coordinator; one that runs is killed first."""
        self.kill()
        coordinator = CoordinatorProcess(
            StateStore(self.files),
            self.members,
            owner=Owner(deployment),
            settings=settings(len(self.members.heads), self.find),
            timing=timing,
            failed=failed or (lambda: None),
        )
        self.coordinators.append(coordinator)
        return coordinator

    def reign(self) -> Reign:
        """Return the reign of the coordinator that is in charge, or was last."""
        return self.coordinators[-1]._reign

    def kill(self) -> None:
        """End the coordinator where it is: nothing is saved or said any more."""
        if self.coordinators:
            self.coordinators[-1].stop()

    def serves(self, wanted: DeploymentSpec) -> bool:
        """Whether every member has exactly what this spec wants, and no shard is left over."""
        names = frozenset((each.model, each.version) for each in wanted.versions)
        heads = self.members.heads.values()
        return (
            set(self.members.shards) == set(wanted.shards)
            and all(
                shard.served_ranges == (wanted.served_ranges,) and shard.versions == shard.stored == names
                for shard in self.members.shards.values()
            )
            and all(
                head.map is not None
                and head.map.ring == wanted.ring
                and head.map.previous is None
                and {address.port for address in head.map.shards}
                == {shard.heartbeat().port for shard in self.members.shards.values()}
                and head.live == dict(wanted.live)
                and head.loaded == names
                for head in heads
            )
        )

    def saved(self) -> dict[str, Any]:
        """Return what is in the newest state, also while it is written."""
        return newest_state(self.folder)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.members.on.clear()
    made.kill()


def over(coordinator: CoordinatorProcess) -> ChangeStatus:
    """Wait for the change to end; return how."""
    until(lambda: not coordinator.call(GetChange()).under_way)
    return coordinator.call(GetChange())


def move(coordinator: CoordinatorProcess, target: DeploymentSpec) -> ChangeStatus:
    """Begin to lead the deployment elsewhere."""
    return coordinator._tell(lambda: Begin(Kind.REBALANCE, "elsewhere", target))


def test_it_brings_a_deployment_up(deployment: Deployment) -> None:
    coordinator = deployment.start()
    status = coordinator.bring_up(spec(3))
    assert (status.kind, status.subject, status.phase) == (Kind.BRING_UP, "ranker/1", Phase.PREPARING)
    status = over(coordinator)
    assert (status.error, status.phase, status.id) == ("", None, 1)
    assert deployment.serves(spec(3))
    assert coordinator.map() == deployment.members.heads[0].map
    assert coordinator.call(GetStatus()).spec == spec(3)
    states = generations([path.name for path in deployment.folder.iterdir()])
    assert len(states) == 2, "the last two generations are kept"


def test_before_a_bring_up_there_is_nothing(deployment: Deployment) -> None:
    coordinator = deployment.start()
    assert coordinator.call(GetChange()) == ChangeStatus()
    for verb in (coordinator.map, partial(coordinator.call, GetStatus())):
        with pytest.raises(Unavailable):
            verb()
    with pytest.raises(InvalidInput, match="no change under way"):
        coordinator.call(ControlChange(Control.PAUSE))


def test_shards_prepare_side_by_side(deployment: Deployment) -> None:
    """Both shards must be inside `prepare` at once, or the barrier breaks."""
    both = threading.Barrier(2, timeout=PATIENCE_S)
    for shard in (0, 1):
        deployment.members.on[f"prepare shard {shard}"] = both.wait  # type: ignore[assignment]
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    until(lambda: not both.broken and deployment.members.said.count("assign shard 1"))
    deployment.members.on.clear()
    assert over(coordinator).error == ""


def test_the_state_is_saved_before_commands_are_carried_out(deployment: Deployment) -> None:
    seen: dict[str, str | None] = {}

    def look(what: str) -> Callable[[], None]:
        return lambda: seen.setdefault(what, deployment.saved()["state"]["change"]["phase"])  # type: ignore[func-returns-value]

    for what in ("start shard 0", "assign shard 0", "load head 0", "route head 0"):
        deployment.members.on[what] = look(what)
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    over(coordinator)
    assert list(seen.values()) == ["preparing", "guarding", "loading", "routing"]


def test_a_change_while_one_runs_is_refused(deployment: Deployment) -> None:
    gate = threading.Event()
    deployment.members.on["prepare shard 0"] = lambda: gate.wait(PATIENCE_S) and None
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    with pytest.raises(Busy, match="bring-up ranker/1 is under way"):
        move(coordinator, spec(2))
    gate.set()
    over(coordinator)


def test_damaged_data_gives_a_bring_up_up(deployment: Deployment) -> None:
    failure = CorruptData("/models/ranker/1/user/positions: the checksum does not match")
    deployment.members.fail("prepare shard 1", failure)
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    assert over(coordinator).error == f"shard 1: {failure}"
    until(lambda: not deployment.members.shards)
    assert not any("head" in what for what in deployment.members.said)


def test_what_may_work_later_is_tried_again(deployment: Deployment) -> None:
    coordinator = deployment.start()
    deployment.members.fail("prepare shard 0", Unavailable("busy"), Unavailable("busy still"))
    deployment.members.fail("route head 0", Unavailable("a moment"))
    coordinator.bring_up(spec(1))
    status = over(coordinator)
    assert (status.error, status.trouble) == ("", "")
    assert deployment.members.said.count("prepare shard 0") == 3
    assert deployment.serves(spec(1))


def test_trouble_is_told_while_it_lasts(deployment: Deployment) -> None:
    deployment.members.fail("prepare shard 0", *[Unavailable("no source answers")] * 1000)
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    until(lambda: coordinator.call(GetChange()).trouble == "shard 0: no source answers")
    coordinator.call(ControlChange(Control.ABORT))
    assert over(coordinator).error == "an operator aborted it"


def test_a_crashed_shard_is_told_again(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    epoch = coordinator.map().epoch
    deployment.members.crash_shard(1)
    until(lambda: deployment.serves(spec(2)))
    assert coordinator.map().epoch > epoch, "it listens elsewhere now"


def test_a_crashed_head_is_told_again(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    over(coordinator)
    deployment.members.crash_head(0)
    until(lambda: deployment.serves(spec(1)))


def test_a_hanging_member_holds_up_nobody_else(deployment: Deployment) -> None:
    """Shard 0 answers nothing, not even a heartbeat; the others get ready, and the rest when it goes on."""
    gate = threading.Event()
    for verb in ("heartbeat", "prepare"):
        deployment.members.on[f"{verb} shard 0"] = lambda: gate.wait(PATIENCE_S) and None
    coordinator = deployment.start()
    coordinator.bring_up(spec(4))
    until(lambda: coordinator.call(GetChange()).members_done == 3 or "prepare shard 3" in deployment.members.said)
    assert coordinator.call(GetChange()).under_way
    gate.set()
    assert over(coordinator).error == ""
    assert deployment.serves(spec(4))


def test_a_head_that_hangs_holds_a_move_no_longer_than_its_lease(deployment: Deployment) -> None:
    """And has everything once it goes on."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    over(coordinator)
    gate = threading.Event()
    for verb in ("heartbeat", "load", "route"):
        deployment.members.on[f"{verb} head 0"] = lambda: gate.wait(PATIENCE_S) and None
    move(coordinator, spec(3))
    assert over(coordinator).error == ""
    assert set(deployment.members.shards) == {0, 1, 2}
    assert not deployment.serves(spec(3))
    gate.set()
    until(lambda: deployment.serves(spec(3)))


def test_latencies_before_and_now_are_told(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    over(coordinator)
    until(lambda: coordinator.heads())
    status = move(coordinator, spec(2))
    assert (status.before.p50_ms, status.before.p99_ms) == (status.now.p50_ms, status.now.p99_ms) == (1.0, 2.0)
    assert over(coordinator).copied_bytes > 0


def test_pause_holds_and_resume_goes_on(deployment: Deployment) -> None:
    gate = threading.Event()
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    over(coordinator)
    deployment.members.on["prepare shard 1"] = lambda: gate.wait(PATIENCE_S) and None
    move(coordinator, spec(2))
    assert coordinator.call(ControlChange(Control.PAUSE)).paused
    until(lambda: deployment.members.shards[0].bytes_per_s == 0.0)
    gate.set()
    assert not coordinator.call(ControlChange(Control.RESUME)).paused
    assert over(coordinator).error == ""
    assert deployment.members.shards[0].bytes_per_s is None


def test_operators_publish_roll_back_and_rebalance(deployment: Deployment) -> None:
    coordinator = deployment.start()
    with pytest.raises(Unavailable, match="nothing serves yet"):
        coordinator.call(Publish(model="ranker", version=2))
    coordinator.bring_up(spec(2))
    over(coordinator)
    live = deployment.members.heads[0].live
    assert coordinator.call(Publish(model="ranker", version=2)).subject == "ranker/2"
    assert over(coordinator).error == ""
    assert deployment.members.heads[0].live == {"ranker": 2}
    assert deployment.members.shards[0].versions == {("ranker", 1), ("ranker", 2)}, "the one before is kept"
    coordinator.call(Rollback(model="ranker"))
    assert over(coordinator).error == ""
    assert deployment.members.heads[0].live == live
    before = coordinator.state()
    plan = coordinator.call(PlanRebalance(Rebalance(shards=3)))
    assert plan.assigned_bytes > 0
    assert coordinator.state() == before, "a plan moves nothing"
    assert coordinator.call(Rebalance(shards=3)).subject == "shards 2 -> 3"
    assert over(coordinator).error == ""
    assert set(deployment.members.shards) == {0, 1, 2}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Publish(model="ranker", version=10), "there is no version 10"),
        (Publish(model="ranker", version=1), "ranker/1 is live already"),
        (Rollback(model="ranker"), "nothing to roll back to"),
        (Rebalance(shards=0), "shards is 0"),
        (Rebalance(replicas={"user": 5}), "with 2 shards it must be from 1 to 2"),
        (Rebalance(drain_node="nowhere"), "there is no node nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(
    deployment: Deployment, request_: Publish | Rollback | Rebalance, message: str
) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    before = coordinator.state()
    with pytest.raises(InvalidInput, match=message):
        coordinator.call(request_)
    assert coordinator.state() == before


def test_a_node_can_be_named_by_its_address(deployment: Deployment) -> None:
    """All fake shards say that they are on `node`, which is at 10.0.0.1."""
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    coordinator.call(Rebalance(drain_node="10.0.0.1"))
    assert over(coordinator).error == ""
    assert set(deployment.members.shards) == {2, 3}


# -- crashes of the coordinator ----------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("saved", [False, True], ids=["before it is saved", "after"])
@pytest.mark.parametrize("target", [spec(1), spec(3), spec(2, number=2)], ids=["shrink", "grow", "publish"])
def test_a_change_survives_a_crash_at_every_save(tmp_path: Path, target: DeploymentSpec, saved: bool) -> None:
    """The next coordinator goes on by itself, until a crash comes too late for there to be anything left to save."""
    crashes = 0
    while crash_at_save(Deployment(tmp_path / str(crashes)), crashes, target, saved=saved):
        crashes += 1
    assert crashes > 4


def crash_at_save(deployment: Deployment, at: int, target: DeploymentSpec, *, saved: bool) -> bool:
    """Kill the coordinator at one save, and see the next one through with what was saved; return whether it came to it.

    Among the saves are those of a change, from its beginning on.
    """
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    assert over(coordinator).error == ""
    deployment.kill()
    gone = threading.Event()
    dying = deployment.start(failed=gone.set)
    until(lambda: deployment.serves(spec(2)))
    deployment.files.dies_at, deployment.files.dies_after = at, saved
    try:
        move(dying, target)
        until(lambda: gone.is_set() or not dying.call(GetChange()).under_way)
    except StartupError:
        gone.wait()  # It says that it is dead, and tells whoever runs it a moment later.
    died = gone.is_set()
    dying.stop()
    deployment.files.dies_at = -1
    wanted = target if deployment.saved()["state"]["last_id"] == 2 else spec(2)
    coordinator = deployment.start()
    until(lambda: deployment.serves(wanted))
    assert over(coordinator).error == ""
    deployment.kill()
    return died


@pytest.mark.medium
def test_a_failed_machine_says_so_and_ends(deployment: Deployment) -> None:
    """A half-done step is nothing to go on from: whoever runs the process is told, and every verb says why."""

    def broken(state: Any, **_: Any) -> bool:
        raise ZeroDivisionError("a bug")

    gone = threading.Event()
    coordinator = deployment.start(failed=gone.set)
    coordinator._reign.save = broken  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="the coordinator has stopped: ZeroDivisionError: a bug"):
        coordinator.bring_up(spec(1))
    assert gone.wait(PATIENCE_S)
