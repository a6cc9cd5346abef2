"""The way of operators through a head, whatever protocol they come over: who may, who did, and how a change ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringpull.inference.head.access import AtDoor, Unasked
from ringpull.inference.head.audit import AuditLog
from ringpull.inference.head.frontends import operators as module
from ringpull.inference.head.frontends.operators import THREADS, Operators
from ringpull.ps.errors import Busy, ChangeGivenUp, DeadlineExceeded, Forbidden, InvalidInput, Unavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.operations import VERBS, ChangeStatus, GetChange, LoadModel, UnloadModel
from tests.clock import Clock

LOAD = LoadModel(folder="/models/new")


def status(phase: Phase | None, error: str = "", number: int = 7) -> ChangeStatus:
    return ChangeStatus(id=number, kind=Kind.LOAD, subject="new/1", phase=phase, error=error)


class Coordinator:
    """Answers changes as they begin, and looks at them from a list; the last one again and again."""

    def __init__(self, *looks: ChangeStatus | Exception) -> None:
        self.looks = list(looks)
        self.asked: list[object] = []
        self.within_s: list[float | None] = []
        self.error: Exception | None = None
        self.clock = Clock(100.0)
        """Moves on by a look's time with each."""

    def call(self, request: Any, *, within_s: float | None = None) -> Any:
        self.asked.append(request)
        self.within_s.append(within_s)
        if isinstance(request, GetChange):
            self.clock.now_s += 0.02
            look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            if isinstance(look, Exception):
                raise look
            return look
        if self.error is not None:
            raise self.error
        return status(Phase.PREPARING)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Operators]]:
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    made: list[Operators] = []
    yield made
    for each in made:
        each.close()


def operators_of(made: list[Operators], coordinator: Coordinator | None, file: Path | None = None) -> Operators:
    operators = Operators(coordinator, AuditLog(file))
    made.append(operators)
    return operators


def how(**given: Any) -> dict[str, Any]:
    return {"authorization": None, "access": AtDoor(), "peer": "10.0.0.9", "door": "http", "timeout_s": None, **given}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_change_is_waited_for_and_told_of_once(made: list[Operators], file: Path) -> None:
    coordinator = Coordinator(status(Phase.LOADING), Unavailable("it restarts"), status(None))
    operators = operators_of(made, coordinator, file)
    assert await operators.change(LOAD, **how()) == status(None)
    assert coordinator.asked[0] == LOAD
    [line] = read(file)
    assert (line["verb"], line["door"], line["peer"], line["who"]) == ("load", "http", "10.0.0.9", "operator")
    assert line["outcome"] == "ok"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (status(None, "shard 0: damaged"), "load new/1 was given up: shard 0: damaged"),
        (status(None, number=8), "load new/1 is over; load new/1 came after it"),
        (status(None, number=6), "is not known to the coordinator that leads now"),
    ],
    ids=["given up", "another came", "forgotten"],
)
async def test_a_change_that_did_not_come_through_is_an_error(
    made: list[Operators], last: ChangeStatus, message: str
) -> None:
    with pytest.raises(ChangeGivenUp, match=message):
        await operators_of(made, Coordinator(last)).change(LOAD, **how())


async def test_whoever_has_no_time_left_is_told_that_the_change_goes_on(
    made: list[Operators], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(status(Phase.LOADING))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=coordinator.clock))
    with pytest.raises(DeadlineExceeded, match="load new/1 is not over yet; it goes on"):
        await operators_of(made, coordinator).change(LOAD, **how(timeout_s=0.05))
    assert coordinator.within_s[0] == pytest.approx(0.05)


async def test_what_changes_nothing_is_not_waited_for(made: list[Operators]) -> None:
    coordinator = Coordinator(status(None))
    coordinator.call = lambda request, within_s=None: ChangeStatus(kind=Kind.LOAD)  # type: ignore[method-assign]
    assert (await operators_of(made, coordinator).change(LOAD, **how())).id == 0


async def test_whoever_may_not_operate_is_refused_and_told_of(made: list[Operators], file: Path) -> None:
    coordinator = Coordinator(status(None))
    operators = operators_of(made, coordinator, file)
    with pytest.raises(Forbidden, match="operators are not let in here; their door is unix:/there"):
        await operators.change(UnloadModel(model="m"), **how(access=Unasked("unix:/there")))
    assert coordinator.asked == []
    [line] = read(file)
    assert (line["verb"], line["outcome"], line["who"]) == ("unload", "PERMISSION_DENIED", "")


async def test_whoever_only_looks_is_not_told_of(made: list[Operators], file: Path) -> None:
    operators = operators_of(made, Coordinator(status(None)), file)
    assert await operators.execute(GetChange(), **how(access=Unasked())) == status(None)
    assert not file.exists() or read(file) == []


async def test_refusals_of_the_coordinator_come_back_as_they_were(made: list[Operators], file: Path) -> None:
    coordinator = Coordinator(status(None))
    coordinator.error = InvalidInput("m is the last model that is served")
    with pytest.raises(InvalidInput, match="the last model"):
        await operators_of(made, coordinator, file).change(UnloadModel(model="m"), **how())
    assert read(file)[0]["outcome"] == "INVALID_ARGUMENT"


async def test_without_a_coordinator_every_verb_says_so(made: list[Operators]) -> None:
    with pytest.raises(Unavailable, match="started without a coordinator"):
        await operators_of(made, None).change(LOAD, **how())


async def test_a_crowd_at_a_port_keeps_nobody_at_the_door_waiting(made: list[Operators]) -> None:
    goes_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(Coordinator):
        def call(self, request: Any, *, within_s: float | None = None) -> Any:
            if isinstance(request, GetChange):
                asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result()
            return status(None)

    operators = operators_of(made, Slow())
    crowd = [asyncio.create_task(operators.execute(GetChange(), **how())) for _ in range(2 * THREADS)]
    await asyncio.sleep(0)
    assert await operators.execute(LOAD, **how(door="admin")) == status(None)
    goes_on.set()
    await asyncio.gather(*crowd)


def test_every_change_is_for_operators_alone() -> None:
    assert {verb.name for verb in VERBS if verb.role.value == "operate"} == {
        "publish",
        "rollback",
        "rebalance",
        "load",
        "unload",
        "serve",
        "label",
        "control",
        "restart",
        "shard_map",
    }


class Turns(Coordinator):
    """Coordinator that is busy with another change for some tries."""

    def __init__(self, tries: int, *looks: ChangeStatus | Exception) -> None:
        super().__init__(*looks)
        self.tries = tries

    def call(self, request: Any, *, within_s: float | None = None) -> Any:
        if not isinstance(request, GetChange) and self.tries:
            self.tries -= 1
            raise Busy("publish ranker/2 is under way (loading); wait for it, or abort it")
        return super().call(request, within_s=within_s)


async def test_another_change_is_waited_for_and_only_the_end_is_told(made: list[Operators], file: Path) -> None:
    other = ChangeStatus(id=6, kind=Kind.PUBLISH, subject="ranker/2", phase=Phase.LOADING)
    coordinator = Turns(
        2,
        other,
        Unavailable("it restarts"),
        replace(other, phase=None),
        other,
        replace(other, phase=None),
        status(None),
    )
    assert await operators_of(made, coordinator, file).change(LOAD, **how()) == status(None)
    assert [line["outcome"] for line in read(file)] == ["ok"]


async def test_a_turn_that_does_not_come_in_time_is_told(
    made: list[Operators], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Turns(9, status(Phase.LOADING, number=6))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=coordinator.clock))
    with pytest.raises(DeadlineExceeded, match="nothing was begun in time: publish ranker/2 is under way"):
        await operators_of(made, coordinator, file).change(LOAD, **how(timeout_s=0.05))
    assert [line["outcome"] for line in read(file)] == ["DEADLINE_EXCEEDED"]


async def test_who_only_begins_a_change_waits_for_no_turn(made: list[Operators], file: Path) -> None:
    with pytest.raises(Busy):
        await operators_of(made, Turns(1, status(None)), file).execute(LOAD, **how())
    assert [line["outcome"] for line in read(file)] == ["UNAVAILABLE"]
