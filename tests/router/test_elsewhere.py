"""What is worked out in another process: one at a time, the coordinator answers meanwhile, and nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, Unavailable
from ringpull.router.control.deployment_spec import PlacedTable, initial_spec
from ringpull.router.control.elsewhere import Elsewhere
from ringpull.router.control.moves import MoveSummary, evenly, move_plan
from ringpull.router.control.operations import GetChange, GetStatus, PlanRebalance, Rebalance
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.rebalancing import Rebalancing
from ringpull.router.control.state_files import LocalFiles
from ringpull.router.control.state_store import Owner, StateStore
from tests.router.members import FakeMembers
from tests.router.test_process import FAST, until, version

pytestmark = [pytest.mark.medium]


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    running = Elsewhere()
    yield running
    running.stop()


def held(folder: str, _: object = None) -> int:
    """Say who this is, and wait until the other end of a pipe is opened."""
    Path(folder, "pid").write_text(str(os.getpid()), encoding="utf-8")
    Path(folder, "pid").rename(Path(folder, "held"))
    with open(Path(folder, "gate"), encoding="utf-8") as gate:
        gate.read()
    return os.getpid()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path


def wait_for_pid(folder: Path) -> int:
    until((folder / "held").exists)
    return int((folder / "held").read_text(encoding="utf-8"))


def let_go(folder: Path) -> None:
    (folder / "gate").write_text("", encoding="utf-8")


class Asking(threading.Thread):
    """Caller that waits for what is worked out."""

    def __init__(self, elsewhere: Elsewhere, folder: Path) -> None:
        super().__init__(daemon=True)
        self._elsewhere, self._folder = elsewhere, folder
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._elsewhere.run(partial(held, str(self._folder)), wait=True)
        except Unavailable as exc:
            self.outcome = exc


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_runs_in_another_process_that_is_gone_afterwards(elsewhere: Elsewhere) -> None:
    pid = elsewhere.run(os.getpid, wait=False)
    assert pid != os.getpid()
    assert gone(pid)


def refuse() -> None:
    print("this is no answer")
    raise InvalidInput("shards is 0")


def fail() -> None:
    raise ZeroDivisionError


def test_errors_come_back(elsewhere: Elsewhere) -> None:
    with pytest.raises(InvalidInput, match="shards is 0"):
        elsewhere.run(refuse, wait=False)
    with pytest.raises(Unavailable, match="ended with 1"):
        elsewhere.run(fail, wait=False)
    assert elsewhere.run(os.getpid, wait=False)


def test_one_at_a_time(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    pid = wait_for_pid(gate)
    with pytest.raises(LimitExceeded, match="only one is at a time") as refused:
        elsewhere.run(os.getpid, wait=False)
    assert refused.value.retry_after_s
    let_go(gate)
    first.join()
    assert first.outcome == pid
    assert elsewhere.run(os.getpid, wait=False) != pid


def test_one_that_is_killed_is_told_and_harms_no_next_one(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    os.kill(wait_for_pid(gate), signal.SIGKILL)
    first.join()
    assert isinstance(first.outcome, Unavailable)
    assert "ended with -9" in str(first.outcome)
    assert elsewhere.run(os.getpid, wait=True) != os.getpid()


def test_what_is_not_done_in_time_is_ended_and_holds_up_no_next_one(elsewhere: Elsewhere, gate: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="not made in time"):
        elsewhere.run(partial(held, str(gate)), wait=True, within_s=0.05)
    assert elsewhere.run(os.getpid, wait=False) != os.getpid()


def test_who_waits_for_its_turn_waits_no_longer_than_it_has(elsewhere: Elsewhere, gate: Path) -> None:
    first = Asking(elsewhere, gate)
    wait_for_pid(gate)
    with pytest.raises(DeadlineExceeded, match="nothing was begun"):
        elsewhere.run(os.getpid, wait=True, within_s=0.01)
    elsewhere.stop()
    first.join()


def test_it_has_less_of_the_processor_than_others(elsewhere: Elsewhere) -> None:
    assert elsewhere.run(partial(os.nice, 0), wait=False) > os.nice(0) or os.nice(0) == 19


def test_nothing_is_imported_from_the_folder_that_it_is_started_in(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit(7)", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.chdir(tmp_path)
    assert elsewhere.run(os.getpid, wait=False)


def test_stopping_ends_what_runs(gate: Path) -> None:
    elsewhere = Elsewhere()
    first = Asking(elsewhere, gate)
    pid = wait_for_pid(gate)
    elsewhere.stop()
    first.join()
    assert isinstance(first.outcome, Unavailable)
    assert gone(pid)
    with pytest.raises(Unavailable, match="has stopped"):
        elsewhere.run(os.getpid, wait=True)


# -- the coordinator ---------------------------------------------------------------------------------------------------


def rows_held(table: PlacedTable, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows below slots, counted by somebody who takes long: the first of them, until the gate opens."""
    if (gate := Path(table.folder) / "gate").exists():
        held(table.folder)
        gate.unlink()
    return slots


@pytest.fixture
def coordinator(gate: Path) -> Iterator[CoordinatorProcess]:
    (gate / "state").mkdir()
    store = StateStore(LocalFiles(gate / "state"))
    members = FakeMembers()
    settings = Settings(place=lambda request, spec: version(2), rows_below=rows_held)
    running = CoordinatorProcess(store, members, owner=Owner("this one"), settings=settings, timing=FAST)
    placed = version(1)
    table = PlacedTable(str(gate), 1, 100, 16)
    running.bring_up(initial_spec(range(4), [type(placed)("ranker", 1, "/m", {"user": table})]))
    until(lambda: not running.call(GetChange()).under_way)
    yield running
    running.stop()


def test_a_plan_of_many_shards_holds_up_nobody(coordinator: CoordinatorProcess, gate: Path) -> None:
    plans: list[MoveSummary] = []
    asking = threading.Thread(
        target=lambda: plans.append(coordinator.call(PlanRebalance(Rebalance(shards=40)))), daemon=True
    )
    asking.start()
    pid = wait_for_pid(gate)
    assert pid != os.getpid()
    for _ in range(5):
        assert not coordinator.call(GetChange()).under_way
        assert coordinator.call(GetStatus())
    with pytest.raises(LimitExceeded):
        coordinator.call(PlanRebalance(Rebalance(shards=41)))
    let_go(gate)
    asking.join()
    assert len(plans[0].shard_bytes_after) == 40
    assert gone(pid)


def test_a_rebalance_to_many_shards_is_worked_out_there_too(
    coordinator: CoordinatorProcess, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gate / "gate").unlink()
    pids: list[int] = []
    monkeypatch.setattr("ringpull.router.control.rebalancing.rebalance_of", lambda *_, **__: pids.append(os.getpid()))
    status = coordinator.call(Rebalance(shards=20))
    assert status.subject == "shards 4 -> 20"
    assert not pids, "nothing of it was worked out here"


def test_a_rebalance_waits_for_no_plan(coordinator: CoordinatorProcess, gate: Path) -> None:
    def ask() -> None:
        with pytest.raises(Unavailable):
            coordinator.call(PlanRebalance(Rebalance(shards=40)))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_for_pid(gate)
    assert coordinator.call(Rebalance(shards=20)).subject == "shards 4 -> 20"
    coordinator.stop()
    asking.join()


def test_a_plan_ends_with_its_callers_time(coordinator: CoordinatorProcess, gate: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="not made in time"):
        coordinator.call(PlanRebalance(Rebalance(shards=40)), within_s=0.3)


def test_a_rebalance_that_was_planned_too_late_is_not_begun(
    coordinator: CoordinatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(coordinator, "_clock", lambda: now[0])

    def run(function: Callable[[], object], **_: object) -> object:
        now[0] += 60.0
        return function()

    monkeypatch.setattr(coordinator._rebalances, "run", run)
    with pytest.raises((DeadlineExceeded, Unavailable), match="nothing was begun"):
        coordinator.call(Rebalance(shards=20), within_s=30.0)
    monkeypatch.undo()
    assert not coordinator.call(GetChange()).under_way


def test_a_plan_is_told_in_short() -> None:
    spec = initial_spec(range(4), [version(1)])
    rebalancing = Rebalancing(spec, Rebalance(shards=7), {}, ())
    plan = rebalancing.plan(streamed=True, rows_below=evenly)
    direct = move_plan(spec, rebalancing.begin().target, streamed=True, rows_below=evenly)
    assert sum(plan.shard_bytes_gained.values()) == direct.assigned_bytes == plan.copied_bytes
    assert set(plan.shard_bytes_gained) == set(range(7))
    assert (plan.ranges, plan.assigned_bytes) == (direct.ranges, direct.assigned_bytes)
    assert plan.shard_bytes_after == direct.shard_bytes_after
