"""Chaos: the books of a run, its last line, and one short run of all of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from ringpull.deploy.cluster.ray_session import CODE_ROOT
from ringpull.loadtest.chaos.goodput import Goodput
from ringpull.loadtest.chaos.oracle import Verdict
from ringpull.loadtest.chaos.processes import Usage
from ringpull.loadtest.chaos.record import (
    CALM,
    FILL_GRACE_S,
    LATE,
    Record,
    Span,
    Trouble,
    broke_promise,
    cause,
    phases,
)
from ringpull.loadtest.chaos.report import UNEXPLAINED, find, recovery_s, show
from ringpull.loadtest.chaos.schedule import Kind

SPANS = [
    Span(Kind.PUBLISH, 10.0, 20.0),
    Span(Kind.KILL_SHARD, 12.0, 15.0),
    Span(Kind.KILL_HEAD, 30.0, 35.0),
]


def failed(due_s: float, end_s: float) -> Trouble:
    return Trouble(due_s, end_s, Verdict.FAILED, "Unavailable", "no head")


def test_requests_belong_to_what_went_on() -> None:
    names = phases(SPANS, np.array([1.0, 10.5, 13.0, 19.0, 21.0, 30.0, 36.0]))
    assert list(names) == [CALM, "publish", "kill-shard", "publish", CALM, "kill-head", CALM]


def test_failures_are_put_down_to_what_they_met() -> None:
    assert cause(SPANS, failed(1.0, 2.0)) == "calm: Unavailable"
    assert cause(SPANS, failed(9.0, 10.5)) == "publish: Unavailable"
    assert cause(SPANS, failed(9.0, 13.0)) == "kill-shard: Unavailable"
    assert broke_promise(SPANS, failed(31.0, 32.0), heads=2)
    assert not broke_promise(SPANS, failed(29.0, 32.0), heads=1)
    assert broke_promise(SPANS, failed(36.0, 37.0), heads=1)


def record_of(*requests: tuple[float, float, Verdict]) -> Record:
    record = Record(spans=list(SPANS))
    for due_s, took_s, outcome in requests:
        record.ended(due_s, due_s + took_s, outcome, "Unavailable" if outcome is Verdict.FAILED else "")
    return record


def test_findings() -> None:
    usual = [(at_s / 10, 0.01, Verdict.RIGHT) for at_s in range(600)]
    record = record_of(
        *usual,
        (12.5, 0.02, Verdict.FILLED),
        (15.0 + FILL_GRACE_S + 0.1, 0.02, Verdict.FILLED),
        (33.0, 0.5, Verdict.FAILED),
        (40.0, 0.1, Verdict.WRONG),
    )
    overload = Goodput(100.0, 300.0, 90.0, 0, Counter({"RESOURCE_EXHAUSTED": 3}), 5.0, 0.4, 2.0)
    found = find(record, seed=7, heads=2, goodput=overload)
    assert not found.good
    line = json.loads(json.dumps(found.last_line()))
    assert line == {
        "predicts": 604,
        "wrong": 1,
        "failed_promised": 2,
        "failed_by_cause": {"kill-head: Unavailable": 1, UNEXPLAINED: 1},
        "recovery_s": {"kill-head": 5.0, "kill-shard": 3.0, "publish": 10.0},
        "goodput_at_3x": 0.9,
        "hurried": 0,
        "kinds": {"kill-shard": 1, "kill-head": 1, "publish": 1},
        "not_done": {},
        "pushes": None,
        "seed": 7,
    }
    assert find(record, seed=7, heads=1, goodput=None).failed_promised == 1
    record.spans[0].said = "given up, with a fault in it"
    record.spans.append(Span(Kind.REBALANCE, 50.0, 51.0, "given up"))
    record.spans.append(Span(Kind.STOP_SHARD, 16.0, 17.0))
    record.ended(16.5, 16.6, Verdict.FILLED)
    assert find(record, seed=7, heads=2, goodput=None).recovery_s["kill-shard"] == 3.0, "that was the next one's"
    broken = find(record, seed=7, heads=2, goodput=None, broken="shard 1 does not answer")
    assert broken.failed_promised == 3, "what was filled in at 20 s is explained now"
    assert {"rebalance was not carried through: given up", "not back: shard 1 does not answer"} < set(
        broken.failed_by_cause
    )
    shard_phase = next(phase for phase in found.phases if phase.name == "kill-shard")
    assert (shard_phase.requests, shard_phase.filled, shard_phase.failed) == (32, 1, 0)
    assert found.phases[0].name == CALM

    usages = {"before": {"shard": Usage(4, 50e6, 30.0)}, "after": {"shard": Usage(3, 60e6, 31.0)}}
    out = io.StringIO()
    show(Console(file=out, width=160), found, record, usages)
    for text in ("kill-head", "47.7 MiB, 30 (4)", "57.2 MiB, 31 (3)", "goodput 90%", "3 RESOURCE_EXHAUSTED"):
        assert text in out.getvalue()


def test_promises_that_are_broken_otherwise_and_kinds_that_were_not_done() -> None:
    record = record_of((1.0, 0.01, Verdict.RIGHT))
    record.broken = ["fill-disk: it was carried out later"] * 2
    reasons = {Kind.FILL_DISK: "no namespace", Kind.KILL_SHARD: "the run was over before its turn"}
    found = find(record, seed=7, heads=2, goodput=None, not_done=reasons)
    assert found.failed_promised == 2
    assert found.failed_by_cause == {"fill-disk: it was carried out later": 2}
    assert found.last_line()["not_done"] == {"fill-disk": "no namespace"}, "a shard was killed"
    out = io.StringIO()
    show(Console(file=out, width=160), found, record, {})
    assert "not done: fill-disk: no namespace" in out.getvalue()


@pytest.mark.parametrize(("late", "failed_promised"), [(3, 0), (4, 4)])
def test_one_in_a_hundred_may_be_late(late: int, failed_promised: int) -> None:
    record = Record(spans=[Span(Kind.HOLD_COORDINATOR, 0.0, 30.0)], hurried=300)
    for number in range(late):
        record.ended(number, number + 0.1, Verdict.FAILED, LATE)
    found = find(record, seed=7, heads=2, goodput=None)
    assert found.failed_promised == failed_promised
    assert found.failed_by_cause == {"hold-coordinator: late": late}
    assert found.last_line()["hurried"] == 300


def test_a_run_without_requests_has_findings() -> None:
    found = find(Record(), seed=1, heads=2, goodput=None)
    assert found.good
    assert found.last_line()["goodput_at_3x"] is None


def test_recovered_is_whole_and_unfilled_and_as_quick_as_usual() -> None:
    span = Span(Kind.KILL_SHARD, 10.0, 12.0)
    due = np.arange(0, 30, 0.1) + 1e-6
    quick = np.full(len(due), 0.01)
    whole = np.zeros(len(due), np.bool_)
    assert recovery_s(span, due, quick, whole, 0.05) == pytest.approx(2.0)
    slow = np.where((due > 10) & (due < 14.5), 0.5, quick)
    assert recovery_s(span, due, slow, whole, 0.05) == pytest.approx(5.0)
    filled = (due > 12.85) & (due < 12.95)
    assert recovery_s(span, due, quick, filled, 0.05) == pytest.approx(2.91, abs=1e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_a_short_run() -> None:
    """A real deployment, a few events."""
    begin_s = time.monotonic()
    arguments = ["--seconds", "15", "--seed", "7", "--rate", "40", "--overload-seconds", "1"]
    ran = subprocess.run(
        [sys.executable, "-m", "ringpull.loadtest.chaos", *arguments],
        cwd=CODE_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"after {time.monotonic() - begin_s:.0f} s: {ran.stdout}\n{ran.stderr}"
    line = json.loads(ran.stdout.splitlines()[-1])
    assert set(line) == {
        "predicts",
        "wrong",
        "failed_promised",
        "failed_by_cause",
        "recovery_s",
        "goodput_at_3x",
        "hurried",
        "kinds",
        "not_done",
        "pushes",
        "seed",
    }
    assert line["predicts"] > 200
    assert line["pushes"]["pushes"] > 50
    assert line["pushes"]["reads"] > 50
    assert line["pushes"]["outside"] == line["pushes"]["twice"] == line["pushes"]["lost"] == 0
    assert line["recovery_s"]
    assert set(line["kinds"]) | set(line["not_done"]) == set(Kind)
    assert line["kinds"].keys() == line["recovery_s"].keys()
    assert line["goodput_at_3x"] > 0
