"""A coordinator for the commands: a real deployment spec, changes that go through their phases one look at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ringpull.ps.errors import InvalidInput, RingpullError
from ringpull.router.control.change import PHASES, Kind, Phase
from ringpull.router.control.changes import rebalanced
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion, initial_spec
from ringpull.router.control.events import Member
from ringpull.router.control.head_counts import GatheredCounts, Growing, HeadCounts
from ringpull.router.control.moves import MoveSummary, move_plan
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.operations import (
    VERBS,
    Asker,
    ChangeRequest,
    ChangeStatus,
    Control,
    ControlChange,
    DeploymentStatus,
    GetChange,
    GetStatus,
    LabelVersion,
    Latency,
    ListMembers,
    LoadModel,
    MemberState,
    Overview,
    PlanRebalance,
    Publish,
    Rebalance,
    RestartMember,
    Rollback,
    ServeModels,
    UnloadModel,
)
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.control.verbs import Request
from ringpull.router.shard_map import ShardMap

R = TypeVar("R")

ITEM_ROWS, GENRE_ROWS = 1_000_000, 19


def spec(shards: int = 2) -> DeploymentSpec:
    tables = {
        "item": PlacedTable("/m/ranker/3/item", 1, ITEM_ROWS, 64),
        "genre": PlacedTable("/m/ranker/3/genre", 1, GENRE_ROWS, 64),
    }
    return initial_spec(range(shards), [PlacedVersion("ranker", 3, "/m/ranker/3", tables)])


@dataclass
class FakeOperations:
    """`ringpull.router.control.operations.Operations`, and what was asked of it."""

    status_now: DeploymentStatus = field(
        default_factory=lambda: DeploymentStatus(
            spec=spec(),
            resident_bytes={0: 1, 1: 1},
            nodes={0: "node-a", 1: "node-b"},
            requests=100,
            traffic={
                "ranker/item": TableTraffic(keys=100_000, bags=12_800, missing=0),
                "ranker/genre": TableTraffic(keys=25_600, bags=12_800, missing=0),
            },
        )
    )
    streamed: bool = True
    now: ChangeStatus = field(default_factory=ChangeStatus)
    looks: list[ChangeStatus | RingpullError | type[KeyboardInterrupt]] = field(default_factory=list)
    """What the next looks at the change find; then it is over."""
    submitted: list[ChangeRequest] = field(default_factory=list)
    controlled: list[Control] = field(default_factory=list)
    error: str = ""
    """Why every change is given up."""
    processes: dict[Member, int] = field(
        default_factory=lambda: {Member("shard", 0): 0, Member("shard", 1): 0, Member("head", 0): 0}
    )
    """Member -> how often it was restarted."""
    away: dict[Member, list[str | RingpullError]] = field(default_factory=dict)
    """Member -> what the next looks at it find lacking, or fail with."""
    comes_back_after: tuple[str | RingpullError, ...] = ("it does not answer", "it has not loaded every version yet")
    """What the looks after a restart find."""
    before_restart: list[RingpullError] = field(default_factory=list)
    """What the next requests to restart a member fail with."""
    restarted: list[tuple[Member, float, bool]] = field(default_factory=list)
    """Member, time to drain, whether forced: of all that were sent away."""

    def call(self, request: Request[R], *, within_s: float | None = None) -> R:
        return VERBS.answer(self, request)

    def publish(self, request: ChangeRequest) -> ChangeStatus:
        self.submitted.append(request)
        kind, subject = _told(request)
        begun = ChangeStatus(id=self.now.id + 1, kind=kind, subject=subject, phase=Phase.PREPARING, members=2)
        self.looks = self.looks or [
            replace(begun, phase=phase, copied_bytes=5 << 20, bytes_to_copy=10 << 20, now=Latency(2.0, 8.0))
            for phase in PHASES
        ]
        self.looks.append(replace(begun, phase=None, error=self.error, copied_bytes=10 << 20))
        return begun

    rollback = rebalance = load = unload = serve = label = publish

    def change(self, request: GetChange) -> ChangeStatus:
        if self.looks:
            found = self.looks.pop(0)
            if not isinstance(found, ChangeStatus):
                raise found
            self.now = found
        return self.now

    def control(self, request: ControlChange) -> ChangeStatus:
        if not self.now.under_way:
            raise InvalidInput(f"there is no change under way to {request.control.value}")
        self.controlled.append(request.control)
        return self.now

    def plan(self, request: PlanRebalance) -> MoveSummary:
        status, free_nodes = self.status_now, sorted(set(self.status_now.nodes.values()))
        target, _ = rebalanced(status.spec, request.rebalance, nodes=status.nodes, free_nodes=free_nodes)
        return move_plan(status.spec, target, streamed=self.streamed).summary()

    def status(self, request: GetStatus) -> DeploymentStatus:
        return self.status_now

    def members(self, request: ListMembers) -> tuple[MemberState, ...]:
        states = []
        for member, number in self.processes.items():
            missing = self.away[member].pop(0) if self.away.get(member) else ""
            if isinstance(missing, RingpullError):
                raise missing
            states.append(MemberState(member, "" if "answer" in missing else f"{member} {number}", missing))
        return tuple(states)

    def restart(self, request: RestartMember) -> None:
        if self.before_restart:
            raise self.before_restart.pop(0)
        member = request.member
        assert request.incarnation == f"{member} {self.processes[member]}", (
            "only the process that is there can be meant"
        )
        self.restarted.append((member, request.drain_s, request.force))
        self.processes[member] += 1
        self.away[member] = list(self.comes_back_after)

    def map(self, asker: Asker) -> ShardMap:
        raise AssertionError("commands have no use for the map")

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        raise AssertionError("nor for who tells metrics")

    def overview(self, asker: Asker, counts: HeadCounts, known: Mapping[str, Growing]) -> Overview:
        status = self.status_now
        return Overview(
            change=self.now, warnings=status.warnings, counts=GatheredCounts({asker.incarnation: counts.totals})
        )


def _told(request: ChangeRequest) -> tuple[Kind, str]:
    match request:
        case Publish():
            return Kind.PUBLISH, f"{request.model}/{request.version}"
        case Rollback():
            return Kind.ROLLBACK, f"{request.model}/2"
        case Rebalance():
            return Kind.REBALANCE, f"shards 2 -> {request.shards}"
        case LoadModel():
            return Kind.LOAD, f"{request.folder.rpartition('/')[2]}/{request.version or 1}"
        case UnloadModel():
            return Kind.UNLOAD, request.model
        case ServeModels():
            return Kind.SERVE, ", ".join(each.name for each in request.models)
        case LabelVersion():
            return Kind.LABEL, f"{request.model} {request.labels}"


@contextmanager
def connected(operations: FakeOperations) -> Iterator[FakeOperations]:
    yield operations
