"""Lines about calls: a flood is bounded and says so, answered calls are for debugging, nothing is told at length."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import BURST, LONGEST, LONGEST_ERROR, Call, CallLog
from ringpull.inference.head.metrics.call_metrics import CallMetrics
from ringpull.inference.head.metrics.call_watch import CallWatch
from ringpull.inference.wire.status_codes import status_of
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, LimitExceeded, NotFound, Unavailable
from tests.clock import Clock
from tests.inference.served import ROWS, Served, columns_of

INVALID, LATE = "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ringpull.inference.head.metrics.call_log")
    return caplog


def test_a_failed_call_is_told_with_its_fields(clock: Clock, told: pytest.LogCaptureFixture) -> None:
    call = Call(clock.now_s, "batch", "ranker", "7f3a")
    clock.now_s += 0.25
    CallLog(clock).failed(call, LATE, DeadlineExceeded("too late"))
    (line,) = told.records
    assert (line.levelno, line.getMessage()) == (logging.WARNING, "predict failed")
    fields = {name: getattr(line, name) for name in ("request_id", "model", "code", "stage", "elapsed_ms", "error")}
    assert fields == {
        "request_id": "7f3a",
        "model": "ranker",
        "code": "DEADLINE_EXCEEDED",
        "stage": "batch",
        "elapsed_ms": 250.0,
        "error": "too late",
    }
    assert not hasattr(line, "left_out")


def test_a_flood_is_a_burst_then_a_line_a_second(clock: Clock, told: pytest.LogCaptureFixture) -> None:
    log = CallLog(clock)
    for _ in range(1000):
        log.failed(Call(clock.now_s), LATE, DeadlineExceeded("too late"))
    assert len(told.records) == BURST
    log.failed(Call(clock.now_s), INVALID, InvalidInput("another code has its own"))
    assert len(told.records) == BURST + 1
    clock.now_s += 1
    for _ in range(5):
        log.failed(Call(clock.now_s), LATE, DeadlineExceeded("too late"))
    assert len(told.records) == BURST + 2
    assert told.records[-1].left_out == 1000 - BURST
    clock.now_s += 3600
    for _ in range(1000):
        log.failed(Call(clock.now_s), LATE, DeadlineExceeded("too late"))
    assert len(told.records) == 2 * BURST + 2, "an hour's silence saves up no more than a burst"


def test_what_callers_send_is_cut_short(clock: Clock, told: pytest.LogCaptureFixture) -> None:
    CallLog(clock).failed(Call(0.0, model="m" * 10_000, request_id="r" * 10_000), INVALID, InvalidInput("e" * 10_000))
    (line,) = told.records
    assert [len(line.model), len(line.request_id), len(line.error)] == [LONGEST, LONGEST, LONGEST_ERROR]


def test_the_callers_doing_is_no_warning(clock: Clock, told: pytest.LogCaptureFixture) -> None:
    log = CallLog(clock)
    for code in (INVALID, "NOT_FOUND", "FAILED_PRECONDITION", "CANCELLED"):
        log.failed(Call(0.0), code, RuntimeError())
    assert [line.levelno for line in told.records] == [logging.INFO] * 3, "of one that went away only for debugging"


def test_too_large_is_the_callers_doing_and_hides_no_overload(clock: Clock, told: pytest.LogCaptureFixture) -> None:
    log = CallLog(clock)
    for _ in range(BURST + 1):
        log.failed(Call(0.0), "RESOURCE_EXHAUSTED", LimitExceeded("the request has 51 rows; max_candidates is 50"))
    log.failed(Call(0.0), "RESOURCE_EXHAUSTED", LimitExceeded("overloaded", retry_after_s=1.0))
    assert [line.levelno for line in told.records] == [logging.INFO] * BURST + [logging.WARNING]


def test_answered_calls_are_for_debugging(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = CallLog(clock)
    with caplog.at_level(logging.INFO, "ringpull.inference.head.metrics.call_log"):
        log.answered(Call(0.0), 3)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "ringpull.inference.head.metrics.call_log"):
        log.answered(Call(0.0, model="ranker", request_id="7f3a"), 3)
    (line,) = caplog.records
    assert (line.request_id, line.model, line.version) == ("7f3a", "ranker", 3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("it"), "NOT_FOUND"),
        (LimitExceeded("it"), "RESOURCE_EXHAUSTED"),
        (Unavailable("it"), "UNAVAILABLE"),
        (RuntimeError("it"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
def test_a_failure_is_counted_by_the_code_that_the_caller_sees(error: BaseException, code: str) -> None:
    metrics = CallMetrics()
    metrics.serves("ranker")
    watch = CallWatch(metrics)
    watch.failed(Call(0.0, model="ranker"), error)
    watch.failed(Call(0.0, model="whatever it sent"), error)
    assert metrics.calls == {("ranker", code): 1, ("", code): 1}
    assert status_of(error).grpc == code


def test_stages_of_an_answered_call(clock: Clock) -> None:
    metrics = CallMetrics()
    call = Call(clock.now_s)
    clock.now_s += 1.0
    times = StageTimes(queue_s=0.1, prepare_s=0.2, lookup_s=0.3, dense_s=0.05, batch_rows=9)
    decoded_s, scored_s = call.started_s + 0.25, call.started_s + 0.875
    CallWatch(metrics, clock=clock).answered(call, "ranker", 1, times, decoded_s=decoded_s, scored_s=scored_s)
    of_ranker = metrics.models()["ranker"]
    assert [stage.sum for stage in of_ranker.stages] == [0.25, 0.1, 0.2, 0.3, 0.05, 0.125]
    assert [stage.count for stage in of_ranker.stages] == [1] * 6
    assert of_ranker.seconds.sum == 1.0


@pytest.mark.net
async def test_a_caller_that_goes_away_is_told_with_its_request_id(
    served: Served, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    served.router.gate.clear()
    with caplog.at_level(logging.DEBUG, "ringpull.inference.head.metrics.call_log"):
        asking = asyncio.create_task(client.predict("ranker", columns_of(ROWS), request_id="7f3a"))
        while not served.router.pulls_begun:
            await asyncio.sleep(0)
        asking.cancel()
        while not caplog.records:
            await asyncio.sleep(0.001)
    (line,) = caplog.records
    assert (line.code, line.stage, line.request_id, line.model) == ("CANCELLED", "batch", "7f3a", "ranker")
