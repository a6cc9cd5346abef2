"""What operators see of a coordinator: where every process tells its metrics, and a log of each change."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.change_log import log_change
from ringpull.router.control.operations import ChangeStatus, Publish
from ringpull.router.control.scraping import ScrapeTarget
from tests.router.members import FakeShard
from tests.router.test_process import Deployment, over, spec, until


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    heartbeat = FakeShard.heartbeat

    def telling_metrics(shard: FakeShard) -> ShardHeartbeat:
        return replace(heartbeat(shard), metrics_port=9000 + shard.shard)

    monkeypatch.setattr(FakeShard, "heartbeat", telling_metrics)
    made = Deployment(tmp_path)
    yield made
    made.members.on.clear()
    made.kill()


def test_targets_are_the_processes_that_answered(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)
    until(lambda: len(coordinator.scrape_targets()) == 2)
    assert coordinator.scrape_targets() == (
        ScrapeTarget("shard", "shard-0", "127.0.0.1", 9000),
        ScrapeTarget("shard", "shard-1", "127.0.0.1", 9001),
    ), "the head says that it tells none"


def test_every_phase_of_a_change_is_told_once(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ringpull.router.control.change_log")
    coordinator = deployment.start()
    coordinator.bring_up(spec(1))
    until(lambda: "change done" in caplog.messages)
    caplog.clear()
    coordinator.call(Publish(model="ranker", version=2))
    until(lambda: "change done" in caplog.messages)
    lines = [(line.getMessage(), line.subject, getattr(line, "phase", "")) for line in caplog.records]
    phases = ["preparing", "guarding", "loading", "routing", "settling", "dropping"]
    told = [phase for event, _, phase in lines if event == "change under way"]
    assert [phase for phase in told if phase in phases] == phases
    assert len(set(told)) == len(told)
    assert lines[-1] == ("change done", "ranker/2", "")


def test_a_change_that_is_given_up_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ringpull.router.control.change_log")
    under_way = ChangeStatus(id=3, kind=Kind.PUBLISH, subject="ranker/2", phase=Phase.LOADING)
    log_change(under_way, replace(under_way, members_done=1))
    assert not caplog.records
    log_change(under_way, replace(under_way, phase=None, error="it answers wrongly"))
    (line,) = caplog.records
    assert (line.levelno, line.getMessage(), line.change, line.kind) == (
        logging.WARNING,
        "change given up",
        3,
        "publish",
    )
    assert line.error == "it answers wrongly"
