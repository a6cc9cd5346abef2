"""What happens to a deployment, and what is done about it: the coordinator's events and commands, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ringpull.ps.errors import RingpullError
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.router.control.change import Kind
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.observed import SpecIds
from ringpull.router.shard_map import ShardAddress, ShardMap

# -- events: what happened ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Lead the deployment to `target`; refused while another change is under way."""

    kind: Kind
    subject: str
    target: DeploymentSpec
    bytes_per_s: float | None = None
    nodes: Mapping[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold the change: no byte is streamed, no phase begins. Refused from ROUTING on."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a held change."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Give the change up. Refused from ROUTING on."""

    reason: str


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """A shard lives."""

    shard: int
    incarnation: str
    address: ShardAddress
    node: str
    epoch: int = 0
    """It was last assigned slots at; 0: never."""


@dataclass(frozen=True, slots=True)
class ShardLost:
    """A shard is gone; perhaps it comes back."""

    shard: int


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """A head lives, and its lease was renewed."""

    head: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class HeadExpired:
    """A head is known to be dead, or was not heard of for as long as its lease: it asks before it serves again."""

    head: int


@dataclass(frozen=True, slots=True)
class Done:
    """A command was carried out."""

    command: Command


@dataclass(frozen=True, slots=True)
class Failed:
    """A command could not be carried out."""

    command: Command
    error: RingpullError


@dataclass(frozen=True, slots=True)
class RetryDue:
    """What failed for this member may be tried again."""

    member: Member


Event = Begin | Pause | Resume | Abort | ShardSeen | ShardLost | HeadSeen | HeadExpired | Done | Failed | RetryDue

# -- commands: what to do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A shard or a head. It carries out one command at a time; `Throttle` and `Cancel` do not wait for the others."""

    role: Literal["shard", "head"]
    id: int

    def __str__(self) -> str:
        return f"{self.role} {self.id}"


@dataclass(frozen=True, slots=True)
class StartShard:
    """Have a shard actor, on a certain node or anywhere."""

    shard: int
    node: str | None


@dataclass(frozen=True, slots=True)
class StopShard:
    """End a shard actor."""

    shard: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have a shard hold all that these worlds want of it."""

    shard: int
    incarnation: str
    specs: SpecIds
    placements: tuple[VersionPlacement, ...]


@dataclass(frozen=True, slots=True)
class Assign:
    """Have a shard answer for its slots of these worlds, and for no others."""

    shard: int
    incarnation: str
    specs: SpecIds
    epoch: int
    served_ranges: tuple[ServedRanges, ...]
    versions: frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Throttle:
    """Have a shard stream no faster than this; 0 holds it, None lets it go."""

    shard: int
    incarnation: str
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Have a shard give up what it is preparing."""

    shard: int


@dataclass(frozen=True, slots=True)
class Load:
    """Have a head open these versions, and check them by this map if it has none yet."""

    head: int
    incarnation: str
    versions: tuple[PlacedVersion, ...]
    shard_map: ShardMap


@dataclass(frozen=True, slots=True)
class Route:
    """Have a head route by this map, and answer when no pull in flight uses an older one."""

    head: int
    incarnation: str
    shard_map: ShardMap
    live: Mapping[str, int]
    versions: frozenset[tuple[str, int]]


Command = StartShard | StopShard | Prepare | Assign | Throttle | Cancel | Load | Route


def member_of(command: Command) -> Member:
    """Return who carries a command out."""
    if isinstance(command, Load | Route):
        return Member("head", command.head)
    return Member("shard", command.shard)
