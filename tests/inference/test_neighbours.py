"""Heads of one machine hand each other what would wait: answers are those of the head that was asked, whatever happens
at the other one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import uvloop

from ringpull.inference.head.admission import Admission
from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.neighbours import neighbours as module
from ringpull.inference.head.neighbours.load_board import BUSY
from ringpull.inference.head.neighbours.neighbours import Neighbours
from ringpull.inference.head.pipeline import Scores
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.head.unix_socket import own_folder
from ringpull.ps.errors import DeadlineExceeded, ProgramFailed

LIMITS = Limits(max_candidates=50, max_values_per_row=20)
DEADLINE_S = 60.0
SLOW_S = 0.01
"""What a row takes, as batchers here say."""


class SlowBatcher:
    """Answers the sum of ids when it is let, and says who it is by the offset."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.gate = asyncio.Event()
        self.gate.set()
        self.taken = 0
        self.error: Exception | None = None
        self.row_s = SLOW_S

    async def submit(self, columns: ReceivedColumns, rows: int, deadline_s: float) -> tuple[Scores, StageTimes]:
        self.taken += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        ids = columns.columns()[0]["item"]
        assert isinstance(ids, np.ndarray)
        times = StageTimes(0.0, 0.0, 0.0, self.row_s * rows, rows)
        return Scores({"score": ids.astype(np.float32) + self.offset}, ()), times


class Fixed:
    """Head of which only the neighbours are real."""

    def __init__(self, folder: Path, number: int, *, identity: str = "a", deployment: str = "d") -> None:
        self.batcher = SlowBatcher(1000.0 * number)
        manifest = SimpleNamespace(identity=identity)
        self.served = cast(
            ServedVersion,
            _Served(key=("m", 1), batcher=self.batcher, loaded=SimpleNamespace(manifest=manifest)),
        )
        catalog = SimpleNamespace(find=lambda key: self.served if key == ("m", 1) else None)
        self.admission = Admission(max_queue_s=60.0, standing_queue_s=60.0, max_in_flight_bytes=1 << 20)
        self.neighbours = Neighbours(cast(Catalog, catalog), LIMITS, self.admission)
        self._begin = (folder, number, deployment)

    async def begin(self) -> None:
        folder, number, deployment = self._begin
        await self.neighbours.begin([lambda: own_folder(folder)], number, deployment)

    async def ask(self, *items: int, left_s: float = DEADLINE_S) -> list[float]:
        scores, times = await self.neighbours.submit(
            self.served, columns_for(items), asyncio.get_running_loop().time() + left_s
        )
        assert min(times.queue_s, times.dense_s) >= 0.0
        found: list[float] = scores.outputs["score"].tolist()
        return found

    async def busy(self) -> asyncio.Task[list[float]]:
        """Have it know what a row takes, and then have a request in hand that is not answered."""
        await self.ask(0)
        self.batcher.gate.clear()
        task = asyncio.create_task(self.ask(1))
        await turns(lambda: self.neighbours._in_hand == 1)
        return task


class _Served(SimpleNamespace):
    __hash__ = object.__hash__


def columns_for(items: tuple[int, ...]) -> ReceivedColumns:
    return ReceivedColumns.of_columns({"item": np.array(items)}, {}, LIMITS)


async def turns(condition: Callable[[], object]) -> None:
    """Wait for what comes about within the loop."""
    while not condition():
        await asyncio.sleep(0.002)


@asynccontextmanager
async def heads(folder: Path, *options: dict[str, Any]) -> AsyncIterator[list[Fixed]]:
    """So many heads, that know each other where their options let them."""
    made = [Fixed(folder, number, **each) for number, each in enumerate(options)]
    async with AsyncExitStack() as stack:
        for each in made:
            await each.begin()
            stack.push_async_callback(each.neighbours.stop, 10)
        if not any("deployment" in each for each in options):
            await turns(linked(*made))
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads find each other soon, and wait for each other on however busy a machine."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)


def linked(*made: Fixed) -> Callable[[], bool]:
    return lambda: all(len(each.neighbours._links) == len(made) - 1 for each in made)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_busy_head_has_an_idle_one_answer(tmp_path: Path, run: Callable[..., None]) -> None:
    run(_a_busy_head_has_an_idle_one_answer(tmp_path))


async def _a_busy_head_has_an_idle_one_answer(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        assert await first.ask(5, 6) == [1005.0, 1006.0]
        assert first.batcher.taken == 2
        assert first.neighbours.outcomes == {"answered": 1}
        assert second.neighbours.outcomes == {"for_others": 1}
        first.batcher.gate.set()
        assert await waiting == [1.0]


@pytest.mark.usefixtures("quick")
async def test_what_would_not_wait_or_is_not_worth_it_stays(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        assert await first.ask(1) == [1.0]  # nothing in hand
        first.batcher.row_s = 1e-9
        for _ in range(400):  # until the average has forgotten the slow ones
            await first.ask(2)
        waiting = await first.busy()
        asked = asyncio.create_task(first.ask(3))
        await turns(lambda: first.neighbours._in_hand == 2)
        first.batcher.gate.set()
        assert (await waiting, await asked) == ([1.0], [3.0])
        assert second.batcher.taken == 0


@pytest.mark.usefixtures("quick")
async def test_a_busy_neighbour_is_handed_nothing_and_hands_nothing_on(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}, {}) as (first, second, third):
        tasks = [await each.busy() for each in (first, second, third)]
        asked = asyncio.create_task(first.ask(7))
        await turns(lambda: first.neighbours._in_hand == 2)
        for each in (first, second, third):
            each.batcher.gate.set()
        assert await asked == [7.0]
        assert await asyncio.gather(*tasks) == [[1.0], [1001.0], [2001.0]]
        assert not second.neighbours.outcomes
        assert not third.neighbours.outcomes


@pytest.mark.usefixtures("quick")
async def test_a_neighbour_has_one_request_of_a_head_at_a_time(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        asked = [asyncio.create_task(first.ask(number)) for number in (2, 3)]
        await turns(lambda: first.neighbours._in_hand == 2 and second.batcher.taken == 1)
        first.batcher.gate.set()
        second.batcher.gate.set()
        assert sorted([*await asyncio.gather(*asked), await waiting]) == [[1.0], [3.0], [1002.0]]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("other", [{"identity": "b"}, {"deployment": "e"}])
async def test_other_content_and_other_deployments_answer_nothing(tmp_path: Path, other: dict[str, str]) -> None:
    async with heads(tmp_path / "d", {}, other) as (first, second):
        if "deployment" in other:
            for each, number in ((first, 1), (second, 0)):  # whoever connects is answered nothing
                await each.neighbours._connect(tmp_path / "d" / f"head-{number}.desk")
                assert not each.neighbours._links
        waiting = await first.busy()
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: first.neighbours._in_hand == 2)
        first.batcher.gate.set()
        assert (await waiting, await asked) == ([1.0], [4.0])
        assert second.batcher.taken == 0
        assert first.neighbours.outcomes == ({"taken_back": 1} if "identity" in other else {})


@pytest.mark.usefixtures("quick")
async def test_an_error_there_is_answered_here(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.error = ProgramFailed("there")
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: first.neighbours._in_hand == 2)
        first.batcher.gate.set()
        assert (await waiting, await asked) == ([1.0], [4.0])
        assert first.neighbours.outcomes == {"taken_back": 1}


@pytest.mark.usefixtures("quick")
async def test_a_neighbour_that_hangs_delays_one_request_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_FACTOR", 1.0)
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: first.neighbours.outcomes["taken_back"])
        first.batcher.gate.set()
        assert (await waiting, await asked) == ([1.0], [4.0])
        second.batcher.gate.set()
        await turns(linked(first, second))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["closes", "aborts"])
async def test_a_neighbour_that_goes_costs_nothing(tmp_path: Path, how: str) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: second.batcher.taken == 1)
        if how == "closes":
            closing = asyncio.create_task(second.neighbours.stop(10))
            await turns(lambda: second.neighbours._board is not None and second.neighbours._board.load == BUSY)
            second.batcher.gate.set()
            await closing
            assert await asked == [1004.0]  # what it had is answered first
        else:
            assert second.neighbours._desk is not None
            for visit in list(second.neighbours._desk._visits):
                assert visit._transport is not None
                visit._transport.abort()
            await turns(lambda: first.neighbours._in_hand == 2)
            second.batcher.gate.set()
        first.batcher.gate.set()
        assert await waiting == [1.0]
        assert await asked in ([4.0], [1004.0])


@pytest.mark.usefixtures("quick")
async def test_a_head_that_comes_back_is_found_at_its_new_board(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        await second.neighbours.stop(10)
        await turns(lambda: not first.neighbours._links)
        assert not list((tmp_path / "d").glob("head-1*"))
        again = Fixed(tmp_path / "d", 1)
        await again.begin()
        try:
            await turns(lambda: first.neighbours._links)
            waiting = await first.busy()
            assert await first.ask(5) == [1005.0]
            first.batcher.gate.set()
            await waiting
        finally:
            await again.neighbours.stop(10)


@pytest.mark.usefixtures("quick")
async def test_a_deadline_that_passes_there_is_missed_here(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        first.batcher.error = DeadlineExceeded("the deadline had passed")
        asked = asyncio.create_task(first.ask(4, left_s=0.02))
        await turns(lambda: first.neighbours._in_hand == 2)
        assert second.batcher.taken == 1
        assert first.neighbours.outcomes == {"taken_back": 1}
        first.batcher.gate.set()
        second.batcher.gate.set()
        for each in (asked, waiting):
            with pytest.raises(DeadlineExceeded):
                await each
        assert first.neighbours._links  # it was no fault of the neighbour's


@pytest.mark.usefixtures("quick")
async def test_a_caller_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: second.batcher.taken == 1)
        asked.cancel()
        second.batcher.gate.set()
        await turns(lambda: second.neighbours._in_hand == 0)
        await turns(lambda: all(link.idle(None) for link in first.neighbours._links.values()))
        assert await first.ask(5) == [1005.0]
        first.batcher.gate.set()
        await waiting


@pytest.mark.usefixtures("quick")
async def test_what_a_neighbour_refuses_it_is_not_asked_again_soon(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {"identity": "b"}) as (first, _):
        waiting = await first.busy()
        asked = [asyncio.create_task(first.ask(number)) for number in range(20)]
        await turns(lambda: first.neighbours._in_hand == 21)
        first.batcher.gate.set()
        assert await asyncio.gather(waiting, *asked) == [[1.0], *([float(number)] for number in range(20))]
        assert first.neighbours.outcomes == {"taken_back": 1}
        [link] = first.neighbours._links.values()
        link._clock = lambda: math.inf
        assert link.idle(("m", 1))


@pytest.mark.usefixtures("quick")
async def test_a_neighbour_admits_what_it_takes(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        second.batcher.gate.clear()
        asked = asyncio.create_task(first.ask(4))
        await turns(lambda: second.batcher.taken == 1)
        assert second.admission.in_flight_bytes > 0
        second.batcher.gate.set()
        assert await asked == [1004.0]
        assert second.admission.in_flight_bytes == 0
        first.batcher.gate.set()
        await waiting


@pytest.mark.usefixtures("quick")
async def test_looking_for_others_survives_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        tried = 0

        async def fails(_: Path) -> None:
            nonlocal tried
            tried += 1
            raise OSError("no descriptors")

        with monkeypatch.context() as patched:
            patched.setattr(first.neighbours, "_connect", fails)
            for link in list(first.neighbours._links.values()):
                link.close()
            await turns(lambda: tried >= 2)
        await turns(linked(first, second))


@pytest.mark.usefixtures("quick")
async def test_a_name_that_cannot_be_told_is_answered_here(tmp_path: Path) -> None:
    async with heads(tmp_path / "d", {}, {}) as (first, second):
        waiting = await first.busy()
        columns = ReceivedColumns.of_columns({"item": np.array([3]), "\ud800": np.array([3])}, {}, LIMITS)
        asked = asyncio.create_task(first.neighbours.submit(first.served, columns, math.inf))
        await turns(lambda: first.neighbours._in_hand == 2)
        first.batcher.gate.set()
        assert (await asked)[0].outputs["score"].tolist() == [3.0]
        await waiting
        assert second.batcher.taken == 0


async def test_without_a_place_all_is_answered_here_and_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    head = Fixed(file, 0)
    await head.begin()
    assert await head.ask(3) == [3.0]
    assert "hands no requests to others" in head.neighbours.warnings[0]
    await head.neighbours.stop(10)
