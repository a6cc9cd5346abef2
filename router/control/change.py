"""A change of a running deployment, and the coordinator's saved state, as plain values.

A bring-up, a new version, a rollback and a move are the same thing: they lead from the spec that serves (none at
bring-up) to the next one, through the same phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.control.plain_values import left_out, plain_name
from ringpull.router.control.pushed_tables import PushedTable
from ringpull.router.shard_map import ShardMap


class Kind(StrEnum):
    """Kind of change an operator asked for."""

    BRING_UP = "bring-up"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    REBALANCE = "rebalance"
    LOAD = "load"
    UNLOAD = "unload"
    SERVE = "serve"
    """The whole list of models at once."""
    LABEL = "label"


class Phase(StrEnum):
    """Progress of a change. Up to LOADING it can be aborted; from ROUTING on it only goes forward."""

    PREPARING = "preparing"
    """Shards of the next spec are started, and open or copy the ranges it places on them."""
    CATCHING_UP = "catching up"
    """Passes at once: a move of tables with pushed rows is refused, so no copied range has rows to take in."""
    DUAL_OWNERSHIP = "guarding"
    """Shards serve their slots of both the old and the next spec."""
    LOADING = "loading"
    """Heads open and check the versions of the next spec."""
    ROUTING = "routing"
    """Heads route by the next spec, with the old owners as fallback, until pulls by the old map have ended."""
    DRAINING = "settling"
    """Heads stop using the old owners."""
    CLEANUP = "dropping"
    """Shards serve the next spec only, and those that are not in it stop."""

    @property
    def reversible(self) -> bool:
        """Whether the old spec still serves alone, so that the change can be paused or aborted."""
        return PHASES.index(self) < PHASES.index(Phase.ROUTING)


PHASES = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Change:
    """Change under way."""

    id: int
    """Number of the change, never used twice; the spec it leads to is known by it."""
    kind: Kind
    subject: str
    """Description for people: `ranker/7`, `shards 4 -> 8`."""
    target: DeploymentSpec
    phase: Phase = Phase.PREPARING
    paused: bool = False
    bytes_per_s: float | None = None
    """Limit on what each shard streams; None: no limit."""
    trust_files: bool = field(default=False, metadata=left_out())
    """Whether the rows of a version that is published are not checked."""
    forgets: tuple[str, ...] = field(default=(), metadata=left_out())
    """Models that count as if they had never been live once it has ended."""
    nodes: Mapping[int, str] = field(default_factory=dict)
    """Shard -> node it has to be started on; a new shard that is not named goes to any node."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the last change."""

    id: int
    kind: Kind
    subject: str
    error: str = ""
    """Reason it was aborted; empty when it succeeded."""


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """State the coordinator must not lose; saved before any command that follows from it is executed."""

    heads: tuple[int, ...] = (0,)
    spec: DeploymentSpec | None = field(default=None, metadata=plain_name("world"))
    """Spec that serves; None before the first bring-up has ended."""
    spec_id: int = field(default=0, metadata=plain_name("world_id"))
    """Id of the change that led to `spec`."""
    change: Change | None = None
    leaving: frozenset[int] = frozenset()
    """Shards that belong to no spec any more and have not stopped yet, seen or not."""
    epoch: int = 0
    """Epoch of the newest map; no epoch is ever used twice."""
    map: ShardMap | None = None
    """Map that heads have to route by; None before the first one."""
    outcome: Outcome | None = None
    last_id: int = 0
    """Id of the newest change."""
    went_live: tuple[tuple[str, int], ...] = field(default=(), metadata=left_out())
    """Highest version of each model that ever went live: see `highest_live`."""

    pushed: Mapping[int, tuple[PushedTable, ...]] = field(default_factory=dict, metadata=left_out())
    """Tables that have pushed rows, or may have, by shard: see `pushed_tables`."""
    before: DeploymentSpec | None = field(default=None, metadata=left_out())
    """Spec of the deployment before on the same folder, which left these pushed rows behind, until one serves here."""

    @property
    def left_behind(self) -> CoordinatorState:
        """What the next deployment on the same folder has to know: what was live, and where there are pushed rows."""
        change = self.change
        served = self.spec if change is None or change.phase.reversible else change.target
        served = self.before if served is None else served
        highest = replace(self, spec=served).highest_live
        return CoordinatorState(pushed=self.pushed, before=served, went_live=tuple(sorted(highest.items())))

    @property
    def highest_live(self) -> dict[str, int]:
        """Highest version of each model that is open or ever went live: whoever looks for new ones begins above it."""
        highest = dict(self.went_live)
        for each in () if self.spec is None else self.spec.versions:
            highest[each.model] = max(each.version, highest.get(each.model, 0))
        return highest

    def must_be_saved(self, saved: CoordinatorState) -> bool:
        """Whether this state may only be acted on once it is saved, given the one that is.

        Not where it differs in what follows from observing members: addresses in the map, shards that have stopped.
        """
        return self is not saved and replace(self, epoch=saved.epoch, map=saved.map, leaving=saved.leaving) != saved
