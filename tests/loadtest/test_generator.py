"""The generator: what is sent and when, what becomes of it, and what ends a load."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import numpy as np
import pytest

from ringpull.inference.errors import Unavailable
from ringpull.loadtest.generator import Load, NotSent, Outcome, endless_arrivals


async def test_an_open_loop_sends_whatever_the_answers_do() -> None:
    """All five are in flight before the first is answered, and each counts from when it was due."""
    in_flight: list[int] = []
    all_sent = asyncio.Event()

    async def send(number: int, late_s: float) -> int:
        assert late_s >= 0
        in_flight.append(number)
        if len(in_flight) == 5:
            all_sent.set()
        await all_sent.wait()
        return 10 * number

    outcomes: list[Outcome] = []
    arrivals = [0.0, 0.001, 0.002, 0.003, 0.02]
    await Load(send, outcomes.append).open_loop(arrivals)
    assert in_flight == [0, 1, 2, 3, 4]
    assert sorted((each.number, each.answer, each.due_s) for each in outcomes) == [
        (number, 10 * number, due_s) for number, due_s in enumerate(arrivals)
    ]
    for each in outcomes:
        assert each.status == "OK"
        assert each.took_s == each.end_s - each.due_s >= 0.02 - each.due_s
        assert 0 <= each.late_s <= each.took_s


async def test_too_many_in_flight_fail_unsent() -> None:
    release = asyncio.Event()
    outcomes: list[Outcome] = []

    async def send(number: int, late_s: float) -> None:
        await release.wait()

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 3:
            release.set()

    await Load(send, ended, max_in_flight=2).open_loop([0.0, 0.001, 0.002, 0.003, 0.004])
    assert [type(each.error) for each in outcomes] == [NotSent] * 3 + [type(None)] * 2
    assert outcomes[0].why == "NotSent: 2 requests were waiting"


async def test_a_closed_loop_keeps_so_many_in_flight_and_sends_each_number_once() -> None:
    busy = most = 0
    outcomes: list[Outcome] = []

    async def send(number: int, late_s: float) -> int:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return number

    await Load(send, outcomes.append).closed_loop(range(20), 3)
    assert most == 3
    assert sorted(each.answer for each in outcomes) == list(range(20))
    timed = Load(send, outcomes.append)
    await timed.closed_loop(timed.for_seconds(0.02), 3)
    assert timed.now_s() >= 0.02


async def test_failures_are_outcomes_and_defects_end_the_load() -> None:
    async def send(number: int, late_s: float) -> Any:
        raise Unavailable("no head") if number == 0 else KeyError("a defect")

    outcomes: list[Outcome] = []
    with pytest.raises(ExceptionGroup, match="unhandled") as raised:
        await Load(send, outcomes.append).closed_loop(range(2), 1)
    assert [type(exc) for exc in raised.value.exceptions] == [KeyError]
    assert [(each.status, each.why) for each in outcomes] == [("Unavailable", "Unavailable: no head")]


def test_endless_arrivals_are_a_poisson_process() -> None:
    times = np.array(list(islice(endless_arrivals(100.0, np.random.default_rng(1)), 5_000)))
    gaps = np.diff(times, prepend=0.0)
    np.testing.assert_allclose(gaps, np.random.default_rng(1).exponential(0.01, 5_000), atol=1e-9)
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
