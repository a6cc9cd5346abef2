"""What operators ask of a deployment, and what they are told of a change under way: plain values and one protocol.

The coordinator answers; every head forwards (`Operations`), so an operator needs to know no more than where a head is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ringpull.ps.spec import Replicas
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.events import Member
from ringpull.router.control.moves import MovePlan
from ringpull.router.control.observed import TableTraffic
from ringpull.router.control.scraping import ScrapeTarget
from ringpull.router.shard_map import ShardMap

# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Open a version everywhere, check it, and make it the live one."""

    model: str
    version: int = 0
    """0: the highest complete one."""
    folder: str = ""
    """Of the model, with `VERSION/` in it, as the actors see it; empty: where the live version's is."""
    keep: int | None = None
    """Versions that stay open behind the live one; None: what the deployment was started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Make an open version the live one again."""

    model: str
    version: int = 0
    """0: the newest open one below the live one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """Cut the tables over other shards, in other numbers of copies."""

    shards: int | None = None
    """None: as many as now."""
    replicas: Mapping[str, Replicas] = field(default_factory=dict)
    """`TABLE` or `MODEL/TABLE` -> copies; a table not named keeps its own."""
    drain_node: str = ""
    """Id or address of a node whose shards go elsewhere."""
    auto: bool = False
    """The planner is to choose the copies: whoever asks does that, and names them, before the coordinator is told."""
    bytes_per_s: float | None = None
    """Most that a shard may stream; None: as fast as it goes."""


Request = Publish | Rollback | Rebalance


class Control(StrEnum):
    """What can be done with a change under way."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


# -- what is told ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """Of recent Predicts, the worst of all heads; 0 when there were none."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeStatus:
    """One change: the one under way, or else how the last one ended."""

    id: int = 0
    """0: there never was one."""
    kind: Kind = Kind.BRING_UP
    subject: str = ""
    phase: Phase | None = None
    """None: it is over."""
    paused: bool = False
    members_done: int = 0
    """Shards or heads that have done what the phase wants of them."""
    members: int = 0
    copied_bytes: int = 0
    """Streamed by all shards for this change so far."""
    bytes_to_copy: int = 0
    """In all; known when the shards have begun."""
    before: Latency = Latency()
    """When the change began."""
    now: Latency = Latency()
    trouble: str = ""
    """What failed last and is being tried again; empty when all goes well."""
    error: str = ""
    """Why it was given up; empty while it runs and when it was carried through."""

    @property
    def under_way(self) -> bool:
        """Whether it still runs."""
        return self.phase is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """What is known of the deployment right now; what plans are made from."""

    spec: DeploymentSpec
    resident_bytes: Mapping[int, int]
    """Memory of each shard's process, of those that answer."""
    nodes: Mapping[int, str]
    """Where each shard is."""
    requests: int
    """Predicts, over all heads since they started."""
    traffic: Mapping[str, TableTraffic]
    """`MODEL/TABLE` -> look-ups, over all heads since they started."""


@dataclass(frozen=True, slots=True)
class MemberState:
    """One shard or head, as the coordinator knows it."""

    member: Member
    incarnation: str
    """Of its process; empty while none answers."""
    missing: str
    """Why it is not counted on now, for people; empty when it has all it should have."""


class OperatorVerbs(Protocol):
    """What operators ask. Every verb blocks; callable from many threads.

    Raises:
        InvalidInput, NotFound: The request cannot be carried out, or another change is under way; nothing has changed.
        Unavailable: The coordinator cannot be reached; it is restarted.
    """

    def submit(self, request: Request) -> ChangeStatus:
        """Begin a change; return its status as it begins."""
        ...

    def change(self) -> ChangeStatus: ...

    def control(self, verb: Control) -> ChangeStatus: ...

    def plan(self, request: Rebalance) -> MovePlan:
        """Return what a rebalance would move; nothing moves."""
        ...

    def status(self) -> DeploymentStatus: ...

    def members(self) -> tuple[MemberState, ...]:
        """Return how every shard and head of the world that serves is."""
        ...

    def restart(self, member: Member, incarnation: str, *, drain_s: float, force: bool = False) -> None:
        """Have one process answer what it has in flight and end; it is started anew, and told again what to have.

        Returns when it has been told. Again, for a process that has been told or is gone, it does nothing.

        Args:
            incarnation: Of the process that is meant.
            drain_s: Longest that it may take to answer what is in flight.
            force: Even while other members of its kind are not whole.

        Raises:
            Unavailable: Also while one of these is not whole.
        """
        ...


class Operations(OperatorVerbs, Protocol):
    """The way from a head to the coordinator: for operators, and for the head itself."""

    def map(self) -> ShardMap:
        """Return the map to route by: what an expired head asks for before it serves again."""
        ...

    def scrape_targets(self) -> tuple[ScrapeTarget, ...]:
        """Return where every process tells its metrics."""
        ...
