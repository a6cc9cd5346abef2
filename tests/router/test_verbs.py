"""The table of verbs, and that the coordinator has a method for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from ringpull.ps.errors import NotFound, Unavailable
from ringpull.router.control.events import Member
from ringpull.router.control.operations import (
    VERBS,
    ChangeStatus,
    GetStatus,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
)
from ringpull.router.control.process import CoordinatorProcess
from ringpull.router.control.verbs import Request, Role, Verb, VerbTable
from tests.router.test_process import Deployment, over, spec


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.kill()


def test_every_verb_has_its_method() -> None:
    for verb in VERBS:
        hints = get_type_hints(getattr(CoordinatorProcess, verb.name))
        assert hints == {"request": verb.request, "return": verb.reply}, verb.name
        assert verb.request.__orig_bases__ == (Request[verb.reply],)


def test_nothing_is_changed_while_nothing_can_be_started(deployment: Deployment) -> None:
    coordinator = deployment.start()
    coordinator.bring_up(spec(2))
    over(coordinator)

    def gone() -> None:
        raise Unavailable("the control store is gone")

    coordinator._settings = replace(coordinator._settings, check_startable=gone)
    restart = RestartMember(member=Member("shard", 0), incarnation="any", drain_s=1)
    for request in (Rebalance(shards=3), PlanRebalance(Rebalance(shards=3)), Rollback(model="ranker"), restart):
        with pytest.raises(Unavailable, match="the control store is gone"):
            coordinator.call(request)
    assert coordinator.call(GetStatus()).spec == spec(2)


def test_a_table_has_a_verb_once_and_names_what_it_has() -> None:
    publish = Verb("publish", Publish, ChangeStatus, Role.OPERATE)
    table = VerbTable(publish)
    for taken in (publish, Verb("publish", Rollback, ChangeStatus, Role.OPERATE), replace(publish, name="again")):
        with pytest.raises(ValueError, match="in the table already"):
            table.add(taken)
    table.add(Verb("rollback", Rollback, ChangeStatus, Role.OPERATE))
    assert [verb.name for verb in table] == ["publish", "rollback"]
    assert table.of(Rollback(model="m")) is table.named("rollback")
    with pytest.raises(NotFound, match="there is no verb 'scrub'; there is publish, rollback"):
        table.named("scrub")
