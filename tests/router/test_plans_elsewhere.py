"""Plans that are worked out in another process: the coordinator answers meanwhile, and nothing is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull.ps.errors import DeadlineExceeded, LimitExceeded, Unavailable
from ringpull.router.control.deployment_spec import PlacedTable, initial_spec
from ringpull.router.control.moves import MoveSummary, evenly, move_plan
from ringpull.router.control.operations import GetChange, GetStatus, PlanRebalance, Rebalance
from ringpull.router.control.process import CoordinatorProcess, Settings
from ringpull.router.control.rebalancing import Rebalancing
from ringpull.router.control.state_files import FolderFiles
from ringpull.router.control.state_store import Owner, StateStore
from tests.ps.test_elsewhere import gate, gone, held, let_go, wait_for_pid
from tests.router.members import FakeMembers
from tests.router.test_process import FAST, until, version

pytestmark = [pytest.mark.medium]

__all__ = ["gate"]


def rows_held(table: PlacedTable, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows below slots, counted by somebody who takes long: the first of them, until the gate opens."""
    if (gate := Path(table.folder) / "gate").exists():
        held(table.folder)
        gate.unlink()
    return slots


@pytest.fixture
def coordinator(gate: Path) -> Iterator[CoordinatorProcess]:
    (gate / "state").mkdir()
    store = StateStore(FolderFiles(gate / "state"))
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
