"""The way of an operator's request from a head to the coordinator, over Ray."""

from __future__ import annotations

from types import NoneType
from typing import TypeVar

from ringpull.deploy.cluster.actor_spec import coordinator_name
from ringpull.deploy.cluster.calls import NamedActor
from ringpull.ps.errors import Unavailable
from ringpull.router.control.events import Member
from ringpull.router.control.moves import MovePlan
from ringpull.router.control.operations import ChangeStatus, Control, DeploymentStatus, MemberState, Rebalance, Request
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.shard_map import ShardMap

T = TypeVar("T")

TIMEOUT_S = 30.0
"""Every verb is short, but for the disk or the bucket that the state is saved to."""


class OperationsOverRay:
    """`router.control.operations.Operations`, of the coordinator of the deployment of a name."""

    def __init__(self, name: str) -> None:
        self._coordinator = NamedActor(coordinator_name(name))

    def submit(self, request: Request) -> ChangeStatus:
        return self._call(ChangeStatus, "submit", request)

    def change(self) -> ChangeStatus:
        return self._call(ChangeStatus, "change")

    def control(self, verb: Control) -> ChangeStatus:
        return self._call(ChangeStatus, "control", verb)

    def plan(self, request: Rebalance) -> MovePlan:
        return self._call(MovePlan, "plan", request)

    def status(self) -> DeploymentStatus:
        return self._call(DeploymentStatus, "status")

    def members(self) -> tuple[MemberState, ...]:
        return self._call(tuple, "members")

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool = False) -> None:
        self._call(NoneType, "restart", member, incarnation, drain_s=drain_s, force=force)

    def map(self) -> ShardMap:
        return self._call(ShardMap, "map")

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        return self._call(tuple, "scrape_targets")

    def _call(self, kind: type[T], verb: str, *args: object, **named: object) -> T:
        try:
            answer = self._coordinator.call(verb, *args, timeout_s=TIMEOUT_S, **named)
        except TimeoutError as exc:
            raise Unavailable(f"the coordinator has not answered for {TIMEOUT_S:g} s") from exc
        assert isinstance(answer, kind)
        return answer
