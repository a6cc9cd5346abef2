"""A change of a running deployment, and all that the coordinator must remember, as plain values.

A bring-up, a new version, a rollback and a move are the same thing: a way from the world that is (none at bring-up) to
the next one, through the same phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.plain_values import plain_name
from ringpull.router.shard_map import ShardMap


class Kind(StrEnum):
    """What an operator asked for."""

    BRING_UP = "bring-up"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    REBALANCE = "rebalance"


class Phase(StrEnum):
    """How far a change has come. Up to LOADING it can be given up; from ROUTING on it only goes forward."""

    PREPARING = "preparing"
    """Shards of the next world are started, and come to hold what it needs."""
    CATCHING_UP = "catching up"
    """Copied ranges take in what was written meanwhile. Nothing is written to tables yet, so this passes at once."""
    DUAL_OWNERSHIP = "guarding"
    """Shards answer for the slots of both worlds."""
    LOADING = "loading"
    """Heads have the next world's versions open and checked."""
    ROUTING = "routing"
    """Heads route by the next world, with the old owners to fall back on; old pulls end."""
    DRAINING = "settling"
    """Heads let go of the old owners."""
    CLEANUP = "dropping"
    """Shards answer for the next world only; those that are not in it stop."""

    @property
    def reversible(self) -> bool:
        """Whether the old world still serves alone."""
        return PHASES.index(self) < PHASES.index(Phase.ROUTING)


PHASES = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Change:
    """One change under way."""

    id: int
    """Ever growing; the world it leads to is known by it."""
    kind: Kind
    subject: str
    """For people: `ranker/7`, `shards 4 -> 8`."""
    target: DeploymentSpec
    phase: Phase = Phase.PREPARING
    paused: bool = False
    bytes_per_s: float | None = None
    """Most that a shard may stream; None: as fast as it goes."""
    nodes: Mapping[int, str] = field(default_factory=dict)
    """Where new shards have to be started; the others go where there is room."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last change ended."""

    id: int
    kind: Kind
    subject: str
    error: str = ""
    """Why it was given up; empty when it was carried through."""


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """All the coordinator must remember; saved before any command that follows from it is carried out."""

    heads: tuple[int, ...] = (0,)
    spec: DeploymentSpec | None = field(default=None, metadata=plain_name("world"))
    """What serves; None before the first bring-up is through."""
    spec_id: int = field(default=0, metadata=plain_name("world_id"))
    """The id of the change that led to `world`."""
    change: Change | None = None
    leaving: frozenset[int] = frozenset()
    """Shards that no world wants any more, until they have stopped: those that were not heard of since, too."""
    epoch: int = 0
    """Of the last map that was made. Never used twice."""
    map: ShardMap | None = None
    """What heads have to route by; None before there was one."""
    outcome: Outcome | None = None
    last_id: int = 0
    """Of all changes so far."""
