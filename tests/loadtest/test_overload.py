"""The bare server of the overload bench: it serves so many calls at a time, for as long as it is told, and no more."""

from __future__ import annotations

import time
from contextlib import nullcontext

import grpc
import pytest

from ringpull.inference.client.stubs import PREDICT
from ringpull.loadtest.bench.bare_refusing import bytes_per_s, work
from ringpull.loadtest.bench.harness import Report
from ringpull.loadtest.bench.load import REFUSED, Run, Server, check_answered
from ringpull.loadtest.bench.overload import Overload, _report_bare
from ringpull.loadtest.process import server

MODULE = "ringpull.loadtest.bench.bare_refusing"


@pytest.mark.parametrize("measured", [False, True])
def test_work_takes_its_processor_time(measured: bool) -> None:
    rate = bytes_per_s() if measured else 0.0
    before_s = time.thread_time()
    work(0.005, rate)
    assert time.thread_time() - before_s >= 0.005


@pytest.mark.medium
@pytest.mark.net
def test_calls_beyond_its_capacity_are_refused_and_the_others_answered() -> None:
    with server(MODULE, "--at-a-time", "1", "--service-us", "200000", "--reply-bytes", "7") as (port, process):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(PREDICT.path)
            assert len(ask(b"alone")) == 7
            calls = [ask.future(b"x") for _ in range(3)]
            codes = [call.code() for call in calls]
            assert codes.count(grpc.StatusCode.OK) == 1
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
            assert len(ask(b"again")) == 7
        assert sum(process.cpu_times()[:2]) >= 3 * 0.2


@pytest.mark.parametrize(
    ("statuses", "share", "fails"),
    [
        ({"OK": 100}, 0.0, False),
        ({"OK": 95, REFUSED: 5}, 0.05, False),
        ({"OK": 95, REFUSED: 5}, 0.0, True),
        ({"OK": 94, REFUSED: 6}, 0.05, True),
        ({REFUSED: 6}, 0.05, True),
        ({"OK": 99, "UNAVAILABLE": 1}, 0.05, True),
        ({"OK": 98, REFUSED: 1, "UNAVAILABLE": 1}, 0.05, True),
    ],
)
def test_some_calls_of_a_loop_may_be_refused_and_no_other_may_fail(
    statuses: dict[str, int], share: float, fails: bool
) -> None:
    with pytest.raises(RuntimeError, match=r"here: calls failed: .*\(in words\)") if fails else nullcontext():
        check_answered("here", statuses, "in words", may_be_refused=share)


@pytest.mark.medium
@pytest.mark.net
def test_a_closed_loop_that_is_refused_says_why() -> None:
    with (
        server(MODULE, "--at-a-time", "1", "--service-us", "50000") as (port, _),
        pytest.raises(RuntimeError, match=r"RESOURCE_EXHAUSTED.*\(RESOURCE_EXHAUSTED: full\)"),
    ):
        Server(f"127.0.0.1:{port}").closed_loop([b"x"], in_flight=4, seconds=0.3)


def test_goodput_is_compared_as_shares_of_the_own_top_rates() -> None:
    def run(calls: int, seconds: float) -> Run:
        return Run(due_s=[0.0] * calls, took_s=[0.1] * calls, wall_s=seconds)

    report = Report("title")
    ours, bare = (run(100, 1.0), Overload(run(300, 6.0))), (run(400, 1.0), Overload(run(1800, 6.0)))
    _report_bare(report, [ours[0], ours[0]], [ours[1]], [bare])
    keys = report.finish()
    assert keys["goodput_at_3x_vs_bare"] == pytest.approx((ours[1].goodput / 100) / (bare[1].goodput / 400), abs=1e-3)
    assert keys["bare_goodput_at_3x"] == pytest.approx(bare[1].goodput / 400, abs=1e-3)
