"""Events that the coordinator takes in, and commands that it gives out, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ringpull.ps.errors import RingpullError
from ringpull.ps.heartbeat import ShardHeartbeat
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.observed import SpecIds
from ringpull.router.shard_map import ShardAddress, ShardMap

# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Request to lead the deployment to `target`; refused while another change is under way."""

    kind: Kind
    subject: str
    target: DeploymentSpec
    bytes_per_s: float | None = None
    nodes: Mapping[int, str] | None = None
    trust_files: bool = False
    forgets: tuple[str, ...] = ()
    """See `Change`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Request to pause the change: nothing is streamed, no phase begins. Refused from ROUTING on."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Request to go on with a paused change."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Request to abort the change. Refused from ROUTING on."""

    reason: str


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """Shard that has answered a heartbeat."""

    shard: int
    incarnation: str
    address: ShardAddress
    node: str
    epoch: int = 0
    """Epoch of its last assignment; 0 before the first."""
    damaged: bool = False
    """Whether copies of its own are damaged, and it asks for a `Prepare` that copies them anew."""
    pushed: tuple[tuple[str, int, str], ...] = ()
    """Tables that have pushed rows there, by model, lineage and name."""
    wants_to_push: tuple[tuple[str, int, str], ...] = ()
    """Tables whose first pushes wait there until it is saved that they have pushed rows."""


@dataclass(frozen=True, slots=True)
class ShardLost:
    """Shard that does not answer; it may come back."""

    shard: int


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """Head that has answered a heartbeat, by which its lease was renewed."""

    head: int
    incarnation: str
    alone: bool = True
    """Whether no earlier process of it can still serve beside it."""


@dataclass(frozen=True, slots=True)
class HeadExpired:
    """Head that is dead, or whose lease has run out: it is not waited for any more."""

    head: int


@dataclass(frozen=True, slots=True)
class HeadAlone:
    """Head beside which an earlier process of it served, and does not any more."""

    head: int


@dataclass(frozen=True, slots=True)
class Done:
    """Command that was executed."""

    command: Command


@dataclass(frozen=True, slots=True)
class Failed:
    """Command that failed."""

    command: Command
    error: RingpullError


@dataclass(frozen=True, slots=True)
class VersionLost:
    """Version whose files are gone, or are other ones now: nobody can open it again."""

    model: str
    version: int
    identity: str = ""
    """Identity of the version that is lost; empty: whichever it is."""


@dataclass(frozen=True, slots=True)
class RetryDue:
    """End of a member's back-off: its failed command may be sent again."""

    member: Member


Event = (
    Begin
    | Pause
    | Resume
    | Abort
    | ShardSeen
    | ShardLost
    | HeadSeen
    | HeadExpired
    | HeadAlone
    | Done
    | Failed
    | RetryDue
    | VersionLost
)

OPERATORS_EVENTS: Final = (Begin, Pause, Resume, Abort)
"""Events that somebody asked for and waits for; all others tell how members are."""

# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """Shard or head. It executes one command at a time; `Throttle` and `Cancel` do not wait for the others."""

    role: Literal["shard", "head"]
    id: int

    def __str__(self) -> str:
        return f"{self.role} {self.id}"


@dataclass(frozen=True, slots=True)
class StartShard:
    """Start a shard's actor, on the given node or on any."""

    shard: int
    node: str | None
    incarnation: str = ""
    """Nobody's: there is none yet."""


@dataclass(frozen=True, slots=True)
class StopShard:
    """Stop a shard's actor."""

    shard: int
    incarnation: str = ""
    """Incarnation that is meant; empty: whichever there is, since it does not answer."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a shard store all ranges that these specs place on it."""

    shard: int
    incarnation: str
    specs: SpecIds
    placements: tuple[VersionPlacement, ...]


@dataclass(frozen=True, slots=True)
class Assign:
    """Make a shard serve its slots of these specs, and no others."""

    shard: int
    incarnation: str
    specs: SpecIds
    epoch: int
    served_ranges: tuple[ServedRanges, ...]
    versions: Mapping[tuple[str, int], str]
    """Versions to serve, (model, version) -> identity; others are closed."""
    pushed: tuple[tuple[str, int, str], ...] = ()
    """Tables that have pushed rows there, or may have from now on, by model, lineage and name."""
    live: Mapping[str, int] = field(default_factory=dict)
    """Lineage that is live, by model: of those alone whose live lineage is the same in all of these specs."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """Limit how fast a shard streams; 0 pauses it, None removes the limit."""

    shard: int
    incarnation: str
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Make a shard abort its `prepare`."""

    shard: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Load:
    """Make a head open these versions, and check them by this map if it has none yet."""

    head: int
    incarnation: str
    versions: tuple[PlacedVersion, ...]
    shard_map: ShardMap


@dataclass(frozen=True, slots=True)
class Route:
    """Make a head route by this map, and answer when no pull in flight uses an older map."""

    head: int
    incarnation: str
    shard_map: ShardMap
    live: Mapping[str, int]
    versions: frozenset[tuple[str, int]]
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Labels of versions, by model, then label."""


Command = StartShard | StopShard | Prepare | Assign | Throttle | Cancel | Load | Route


def member_of(command: Command) -> Member:
    """Return the member that executes a command."""
    if isinstance(command, Load | Route):
        return Member("head", command.head)
    return Member("shard", command.shard)


def shard_seen(shard: int, heartbeat: ShardHeartbeat) -> ShardSeen:
    """Return what a shard's heartbeat tells the coordinator."""
    return ShardSeen(
        shard=shard,
        incarnation=heartbeat.incarnation,
        address=ShardAddress(shard, heartbeat.host, heartbeat.port, heartbeat.incarnation),
        node=heartbeat.node,
        epoch=heartbeat.epoch,
        damaged=heartbeat.damaged,
        pushed=heartbeat.pushed,
        wants_to_push=heartbeat.wants_to_push,
    )
