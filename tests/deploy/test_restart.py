"""`ringpull restart` through the same entry as the shell; the coordinator is faked."""

from __future__ import annotations

import io
import json
import signal
import sys
from dataclasses import replace

import pytest

from ringpull.deploy import coordinator_client, rolling
from ringpull.ps.errors import InvalidInput, RingpullError, Unavailable
from ringpull.ps.spec import ALL, OnUnavailable
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion, initial_spec
from ringpull.router.control.events import Member
from ringpull.router.control.operations import ChangeStatus, RestartMember
from tests.deploy.fake_operations import FakeOperations, connected, spec
from tests.deploy.running import Run

TARGET = ("--target", "127.0.0.1:8500")
SHARD_0, SHARD_1, HEAD_0, HEAD_1 = Member("shard", 0), Member("shard", 1), Member("head", 0), Member("head", 1)


def with_tables(copies: dict[str, object], policies: dict[str, OnUnavailable]) -> DeploymentSpec:
    """The spec of two shards, with other copies of its tables, and other policies."""
    [version] = spec().versions
    tables = {
        name: replace(
            table,
            replicas=copies.get(name, table.replicas),
            on_unavailable=policies.get(name, OnUnavailable.ERROR),
        )
        for name, table in version.tables.items()
    }
    return initial_spec(range(2), [PlacedVersion(version.model, version.version, version.folder, tables)])


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> FakeOperations:
    """Two copies of everything, two shards, two heads."""
    fake = FakeOperations()
    fake.status_now = replace(fake.status_now, spec=with_tables({"item": 2, "genre": ALL}, {}))
    fake.processes[HEAD_1] = 0
    monkeypatch.setattr(coordinator_client, "connect", lambda target: connected(fake))
    monkeypatch.setattr(rolling, "POLL_S", 0.0)
    return fake


@pytest.fixture
def ringpull(ringpull: Run) -> Run:
    """Run a command line in this process, of the deployment that is faked."""
    return lambda *arguments: ringpull(*arguments, *TARGET)


def test_shards_then_heads_one_by_one(ringpull: Run, operations: FakeOperations) -> None:
    """Nothing is asked where nothing will be felt."""
    ran = ringpull("restart", "--rolling", "--drain-timeout", 3)
    assert ran.status == 0, ran.err
    assert operations.restarted == [(member, 3.0, False) for member in (SHARD_0, SHARD_1, HEAD_0, HEAD_1)]
    assert ran.out.startswith("restarted 2 shards and 2 heads in 0.")
    for member in operations.processes:
        assert f"✓ restarted {member}" in ran.err


@pytest.mark.parametrize(
    ("option", "wanted"), [("--shards", [SHARD_0, SHARD_1]), ("--heads", [HEAD_0, HEAD_1])], ids=["shards", "heads"]
)
def test_one_kind_only_as_json(ringpull: Run, operations: FakeOperations, option: str, wanted: list[Member]) -> None:
    ran = ringpull("restart", "--rolling", option, "--json")
    assert ran.status == 0, ran.err
    fields = json.loads(ran.out)
    assert [(each["role"], each["number"]) for each in fields["restarted"]] == [(each.role, each.id) for each in wanted]
    assert fields["left"] == 0
    assert fields["longest"] in fields["restarted"]
    assert fields["longest"]["seconds"] == max(each["seconds"] for each in fields["restarted"])


def test_it_waits_where_nobody_answers_or_others_are_not_whole(ringpull: Run, operations: FakeOperations) -> None:
    """The head that was asked may be the one that is away, and the coordinator may be restarted itself."""
    operations.comes_back_after = (Unavailable("no head"), "it does not answer", Unavailable("no coordinator"))
    operations.before_restart = [Unavailable("shard 1: it does not answer"), Unavailable("no coordinator")]
    operations.away = {SHARD_0: ["", "it does not answer"]}
    ran = ringpull("restart", "--rolling", "--shards")
    assert ran.status == 0, ran.err
    assert operations.processes[SHARD_0] == operations.processes[SHARD_1] == 1


def test_one_that_does_not_come_back_ends_it(ringpull: Run, operations: FakeOperations) -> None:
    operations.comes_back_after = ("it does not answer for its ranges yet",) * 1_000_000
    ran = ringpull("restart", "--rolling", "--timeout", 0.2)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == ("error: shard 0 is not back after 0.2 s: it does not answer for its ranges yet")
    assert [member for member, _, _ in operations.restarted] == [SHARD_0]


def test_one_that_may_not_go_is_not_sent_away(ringpull: Run, operations: FakeOperations) -> None:
    operations.before_restart = [Unavailable("shard 0 is not restarted before the others are healthy")] * 1_000_000
    ran = ringpull("restart", "--rolling", "--timeout", 0.2)
    assert ran.status == 1
    assert "error: shard 0 is not restarted after 0.2 s: shard 0 is not restarted before the others" in ran.err
    assert operations.restarted == []


def test_a_change_under_way_refuses_it(ringpull: Run, operations: FakeOperations) -> None:
    """Also one that begins between two members."""
    operations.before_restart = [InvalidInput("publish ranker/4 is under way (preparing)")]
    ran = ringpull("restart", "--rolling")
    assert (ran.status, ran.err.splitlines()[-1]) == (1, "error: publish ranker/4 is under way (preparing)")
    operations.now = ChangeStatus(id=4, kind=Kind.PUBLISH, subject="ranker/4", phase=Phase.LOADING)
    ran = ringpull("restart", "--rolling")
    assert (ran.status, ran.err) == (1, "error: publish ranker/4 is under way; wait until it is over\n")
    assert operations.restarted == []


def test_a_table_of_one_copy_whose_requests_would_fail_refuses_it(ringpull: Run, operations: FakeOperations) -> None:
    operations.status_now = replace(operations.status_now, spec=with_tables({"item": 1, "genre": ALL}, {}))
    ran = ringpull("restart", "--rolling", "--yes")
    assert ran.status == 1
    assert "error: ranker/item: on one shard each, and on_unavailable is error" in ran.err
    assert "ringpull rebalance --replicas ranker/item=2" in ran.err
    assert operations.restarted == []
    assert ringpull("restart", "--rolling", "--heads").status == 0, "heads hold no rows"
    ran = ringpull("restart", "--rolling", "--shards", "--force")
    assert ran.status == 0, ran.err
    assert "requests for its rows of ranker/item fail" in ran.err
    assert [forced for _, _, forced in operations.restarted] == [False, False, True, True]


def test_what_will_be_felt_is_said_and_asked(
    ringpull: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default vectors for rows of one copy, and a head that is the only one."""
    placed = with_tables({"item": 1, "genre": ALL}, {"item": OnUnavailable.DEFAULT})
    operations.status_now = replace(operations.status_now, spec=placed)
    del operations.processes[HEAD_1]
    for arguments in ((), ("--json",)):
        ran = ringpull("restart", "--rolling", *arguments)
        assert (ran.status, ran.err.splitlines()[-1]) == (
            1,
            "error: nobody can be asked here whether that is wanted; say --yes",
        )
        assert "rows of ranker/item are default vectors" in ran.err
        assert "no request is answered" in ran.err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert ringpull("restart", "--rolling").out == "nothing was restarted\n"
    assert operations.restarted == []
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert ringpull("restart", "--rolling").status == 0
    assert ringpull("restart", "--rolling", "--yes", "--json").status == 0
    assert len(operations.restarted) == 6


def test_an_interrupt_lets_the_member_on_its_way_finish(
    ringpull: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = operations.restart

    def interrupted(request: RestartMember) -> None:
        sent(request)
        if request.member == SHARD_1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(operations, "restart", interrupted)
    ran = ringpull("restart", "--rolling", "--json")
    assert ran.status == 128 + signal.SIGTERM
    fields = json.loads(ran.out)
    assert ([each["number"] for each in fields["restarted"]], fields["left"]) == ([0, 1], 2)
    assert ran.err.splitlines()[-2:] == ["2 of 4 members were not restarted", "interrupted by SIGTERM"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "say --rolling"),
        (("--rolling", "--timeout", 0), "--timeout is 0.0"),
        (("--rolling", "--timeout", "nan"), "--timeout is nan"),
        (("--rolling", "--drain-timeout", -1), "--drain-timeout is -1.0"),
        (("--rolling", "--drain-timeout", "nan"), "--drain-timeout is nan"),
        (("--rolling", "--drain-timeout", "inf"), "--drain-timeout is inf"),
    ],
)
def test_bad_settings_are_told(
    ringpull: Run, operations: FakeOperations, arguments: tuple[object, ...], error: str
) -> None:
    ran = ringpull("restart", *arguments)
    assert ran.status == 1
    assert error in ran.err
    assert operations.restarted == []


def test_a_member_that_left_is_told(operations: FakeOperations) -> None:
    with pytest.raises(InvalidInput, match="shard 7 is not there any more"):
        rolling.restart(operations, Member("shard", 7), drain_s=0, within_s=1)


def test_errors_that_do_not_pass_are_raised(operations: FakeOperations) -> None:
    operations.before_restart = [RingpullError("of another kind")]
    with pytest.raises(RingpullError, match="of another kind"):
        rolling.restart(operations, SHARD_0, drain_s=0, within_s=10)
