"""Sums over all heads: the same from every head, never less than was told before, and with what was answered by now."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.counts import DeploymentCounts
from ringpull.inference.head.metrics.call_tally import CallTally
from ringpull.ps.errors import Unavailable
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.head_counts import Growing, HeadCounts
from ringpull.router.control.observed import HeadHeartbeat
from ringpull.router.control.operations import Asker, ChangeStatus, Overview
from ringpull.router.control.overviews import Overviews

RANKER = ("ranker", 7)
PATIENT_S = 600.0


class Coordinator:
    """The coordinator's overviews, without its process."""

    def __init__(self) -> None:
        self.overviews = Overviews(lambda: 0.0)
        self.asked = 0
        self.gone = False
        self.answers = threading.Event()
        self.answers.set()

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        self.asked += 1
        self.answers.wait()
        if self.gone:
            raise Unavailable("there is no actor")
        return self.overviews.tell(
            asker, counts, known, state=CoordinatorState(heads=(0, 1)), change=ChangeStatus(), warnings=()
        )


class Head:
    """A head's tally, and what it tells of all heads."""

    def __init__(
        self, number: int, coordinator: Coordinator | None, life: int = 1, patience_s: float = PATIENT_S
    ) -> None:
        self.asker = Asker(number, f"head {number}, life {life}")
        self.tally = CallTally()
        self.tally.loaded(*RANKER)
        self.counts = DeploymentCounts(self.tally, self.asker, coordinator, lambda: [RANKER], patience_s=patience_s)  # type: ignore[arg-type]

    def answer(self, calls: int = 1) -> None:
        for _ in range(calls):
            self.tally.calls.requests += 1
            self.tally.answered(*RANKER, 1, StageTimes(0, 0, 0, 0, 1), decode_s=0, encode_s=0, total_s=0.001)

    def heartbeat(self) -> HeadHeartbeat:
        return HeadHeartbeat(self.asker.incarnation, "here", 1, 2, 3, (RANKER,), counts=self.tally.news())

    async def told(self) -> int:
        return (await self.counts.of_models())[RANKER].calls


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpull.inference.head.counts.ASK_EVERY_S", 0.0)


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    made = Coordinator()
    yield made
    made.answers.set()


async def test_a_head_alone_tells_its_own() -> None:
    head = Head(0, None)
    head.answer(3)
    assert await head.told() == 3
    assert head.counts.warning == ""


async def test_sums_do_not_go_back_because_another_head_answers(coordinator: Coordinator) -> None:
    heads = [Head(0, coordinator), Head(1, coordinator)]
    before = 0
    for turn in range(20):
        head = heads[turn % 2]
        head.answer(turn)
        # Nobody's heartbeat has come since: the other head hears of these calls by this very answer.
        told = await head.told()
        assert told >= before + turn
        before = told
    assert before == sum(range(20))
    assert heads[0].counts.overall().requests <= heads[1].counts.overall().requests == before


async def test_the_others_calls_come_with_their_heartbeats(coordinator: Coordinator) -> None:
    heads = [Head(0, coordinator), Head(1, coordinator)]
    heads[1].answer(5)
    assert await heads[0].told() == 0
    coordinator.overviews.heard(1, heads[1].heartbeat())
    assert await heads[0].told() == 5
    assert sum(step[0] for step in heads[0].counts.recent().values()) == 5


async def test_what_a_head_counted_before_it_was_restarted_stays(coordinator: Coordinator) -> None:
    before, other = Head(0, coordinator), Head(1, coordinator)
    before.answer(5)
    coordinator.overviews.heard(0, before.heartbeat())
    after = Head(0, coordinator, life=2)
    after.answer(2)
    assert [await after.told(), await other.told()] == [7, 7]


async def test_a_restarted_coordinator_hears_it_from_a_head_that_was_told(coordinator: Coordinator) -> None:
    before, other = Head(0, coordinator), Head(1, coordinator)
    before.answer(5)
    coordinator.overviews.heard(0, before.heartbeat())
    assert await other.told() == 5
    coordinator.overviews = Overviews(lambda: 0.0)
    assert await other.told() == 5
    assert await Head(0, coordinator, life=2).told() == 5


async def test_without_a_coordinator_others_are_as_last_heard_and_it_is_said(coordinator: Coordinator) -> None:
    heads = [Head(0, coordinator), Head(1, coordinator)]
    heads[1].answer(5)
    coordinator.overviews.heard(1, heads[1].heartbeat())
    assert await heads[0].told() == 5
    coordinator.gone = True
    heads[0].answer(2)
    assert await heads[0].told() == 7
    assert "there is no actor" in heads[0].counts.warning
    coordinator.gone = False
    assert await heads[0].told() == 7
    assert heads[0].counts.warning == ""


async def test_a_coordinator_that_hangs_is_waited_for_once(coordinator: Coordinator) -> None:
    head = Head(0, coordinator, patience_s=0.05)
    coordinator.answers.clear()
    for _ in range(3):
        head.answer()
        await head.told()
        assert "answer" in head.counts.warning
    while not coordinator.asked:  # its thread may begin after that
        await asyncio.sleep(0)
    assert (await head.told(), coordinator.asked) == (3, 1)


async def test_whoever_asks_at_the_same_time_shares_an_answer(coordinator: Coordinator) -> None:
    head = Head(0, coordinator)
    head.answer(4)
    assert await asyncio.gather(*[head.told() for _ in range(50)]) == [4] * 50
    assert coordinator.asked <= 2


async def test_who_asks_while_an_answer_is_on_its_way_gets_the_next_one(coordinator: Coordinator) -> None:
    head = Head(0, coordinator)
    coordinator.answers.clear()
    first = asyncio.create_task(head.told())
    while not coordinator.asked:
        await asyncio.sleep(0)
    head.answer(4)
    second = asyncio.create_task(head.told())
    await asyncio.sleep(0)
    coordinator.answers.set()
    assert await second == 4
    await first
