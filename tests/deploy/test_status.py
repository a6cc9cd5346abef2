"""`ringpull status`: what the head and what the coordinator tell, and that it waits for neither for long."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ringpull.deploy import cli, coordinator_client
from ringpull.deploy.commands.status import COORDINATOR_WAIT_S
from ringpull.inference.client.client import Client
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import DeadlineExceeded, InvalidInput, RingpullError, StartupError, Unavailable
from ringpull.router.control.operations import DeploymentStatus, GetStatus, OperatorVerbs
from tests.deploy.fake_operations import FakeOperations

NOBODY = "nobody leads: the coordinator was heard 4 s ago; predictions go on"


class Coordinator(FakeOperations):
    """Tells, or fails in the verb that its own thread has to answer."""

    fails: RingpullError | None = None

    def status(self, request: GetStatus) -> DeploymentStatus:
        if self.fails is not None:
            raise self.fails
        return self.status_now


@pytest.fixture
def waits() -> list[float]:
    """How long the command was ready to wait for the coordinator."""
    return []


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Coordinator:
    fake = Coordinator()

    @contextmanager
    def connect(target: str, *, timeout_s: float) -> Iterator[OperatorVerbs]:
        waits.append(timeout_s)
        yield fake

    monkeypatch.setattr(coordinator_client, "connect", connect)
    return fake


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> pb.ClusterStatus:
    """What the head answers."""
    answer = pb.ClusterStatus(head="127.0.0.1:8500", leader=pb.Leader(term=3, leads=True, heard_s=0.25))
    monkeypatch.setattr(Client, "status", lambda self: answer)
    return answer


@pytest.fixture
def ringpull(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ringpull", "status", "--target", "127.0.0.1:1", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert int(exit_.value.code or 0) == 0
        return capsys.readouterr().out

    return run


def test_somebody_leads(ringpull, head: pb.ClusterStatus, coordinator: Coordinator) -> None:
    told = json.loads(ringpull("--json"))
    assert told["leader"] == {"term": 3, "leads": True, "heard_s": 0.25}
    assert told["warnings"] == []
    assert "! " not in ringpull()


def test_nobody_leads(ringpull, head: pb.ClusterStatus, coordinator: Coordinator, waits: list[float]) -> None:
    """As the head knows it; the coordinator, which is stopped, is waited for a moment only."""
    head.leader.leads, head.leader.heard_s = False, 4.0
    head.warnings.append(NOBODY)
    coordinator.looks = [DeadlineExceeded("no answer within 2 s")] * 2
    told = json.loads(ringpull("--json"))
    assert told["leader"] == {"term": 3, "leads": False, "heard_s": 4.0}
    assert told["warnings"] == [NOBODY, "the coordinator does not answer: no answer within 2 s"]
    assert told["change"] is None
    shown = ringpull()
    assert f"! {NOBODY}" in shown
    assert "! the coordinator does not answer" in shown
    assert sum(waits) <= 2 * COORDINATOR_WAIT_S


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the coordinator is back, and waits for its folder"),
        StartupError("the coordinator has stopped: it was told to"),
    ],
)
def test_a_coordinator_that_is_heard_and_cannot_lead(
    ringpull, head: pb.ClusterStatus, coordinator: Coordinator, error: RingpullError
) -> None:
    """Its process answers heartbeats, and its own thread stands still, or is not there yet."""
    coordinator.fails = error
    told = json.loads(ringpull("--json"))
    assert told["leader"]["leads"] is False
    assert told["warnings"] == [f"the coordinator does not answer: {error}"]
    assert told["change"] is not None


@pytest.mark.parametrize(("heard_s", "leads"), [(0.25, True), (2.5, False)])
def test_a_coordinator_that_needs_longer_than_the_command_waits_leads_while_it_is_heard(
    ringpull, head: pb.ClusterStatus, coordinator: Coordinator, heard_s: float, leads: bool
) -> None:
    head.leader.heard_s = heard_s
    coordinator.fails = DeadlineExceeded("no answer within 2 s")
    told = json.loads(ringpull("--json"))
    assert told["leader"] == {"term": 3, "leads": leads, "heard_s": heard_s}
    assert told["warnings"] == ["the coordinator does not answer: no answer within 2 s"]


def test_both_forms_have_the_same_warnings(ringpull, head: pb.ClusterStatus, coordinator: Coordinator) -> None:
    """Also those that the command sees for itself."""
    head.shards.add(shard=3, address="127.0.0.1:7003", alive=False, error="connection refused")
    head.tables.add(model="ranker", table="item", replicas_wanted="2", replicas_effective=1)
    head.warnings.append("ranker/4 is not published: damaged")
    told = json.loads(ringpull("--json"))["warnings"]
    assert len(told) == 3
    assert [line.removeprefix("! ") for line in ringpull().splitlines() if line.startswith("! ")] == told


def test_what_the_coordinator_warns_of_is_told_once(ringpull, head: pb.ClusterStatus, coordinator: Coordinator) -> None:
    """A head's own warning comes from both; the coordinator's names the head."""
    head.warnings.append("version 4 is refused")
    known = ("the state cannot be saved: No space left on device", "head 0: version 4 is refused", "shard 3: 2 blocks")
    coordinator.status_now = replace(coordinator.status_now, warnings=known)
    assert json.loads(ringpull("--json"))["warnings"] == list(known)
    assert all(f"! {warning}" in ringpull() for warning in known)


def test_a_coordinator_of_another_build_is_no_silent_one(
    ringpull, head: pb.ClusterStatus, coordinator: Coordinator
) -> None:
    coordinator.fails = InvalidInput("the deployment is of another build: status")
    told = json.loads(ringpull("--json"))
    assert told["leader"]["leads"] is True
    assert told["warnings"] == [f"the coordinator does not tell how the deployment is: {coordinator.fails}"]


def test_a_head_that_nobody_is_to_lead(ringpull, head: pb.ClusterStatus, coordinator: Coordinator) -> None:
    head.ClearField("leader")
    coordinator.looks = [Unavailable("this head was started without a coordinator")]
    assert json.loads(ringpull("--json"))["leader"] is None
