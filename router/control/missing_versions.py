"""What members lack, and what is lost for good: pure functions for the coordinator's state machine.

A member that is told to open several versions opens those that it can (`ringpull.ps.refusals`). It serves with what it
has, answers for the others with the reason, and is told again and again to open them. A version whose files are lost
is another thing: it is let go, unless it is live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, NotChecked, NotFound, Retryable, RingpullError
from ringpull.ps.identity import differ, number_of
from ringpull.ps.refusals import NotOpened
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion, wanted_replicas
from ringpull.router.control.events import Command, Load, Prepare
from ringpull.router.control.observed import ObservedHead, ObservedShard, SpecIds

VersionNames = frozenset[tuple[str, int]]
"""Versions, as (model, version)."""

PATIENCE: Final = 5
"""Failures in a row after which a version is lacked whose failure may pass in a moment: some 3 s. Longer than that the
others of the member do not wait for it."""

AWAY_TRIES: Final = 8
"""Self-checks in a row of a version that is to go live, all without rows that every shard is said to serve, after which
nobody waits for them: some 15 s, in which a shard that has died meanwhile is missed."""

_OF_ONE_VERSION = (CorruptData, NotFound, InvalidInput, ExportError)
"""Errors that tell of the only version that was to be opened, and not of the member."""


def version_names(versions: Iterable[PlacedVersion]) -> VersionNames:
    """Return the names of versions, as (model, version)."""
    return frozenset((each.model, each.version) for each in versions)


def names_in(spec: DeploymentSpec | None) -> VersionNames:
    """Return the names of a spec's versions."""
    return frozenset() if spec is None else version_names(spec.versions)


def asked_for(command: Prepare | Load) -> VersionNames:
    """Return the versions that a command has a member open."""
    if isinstance(command, Load):
        return version_names(command.versions)
    return frozenset((each.model, each.version) for each in command.placements)


def refused_by(command: Command, error: RingpullError) -> VersionNames:
    """Return the versions that a member did not open; none if it is not known that it has opened the others."""
    if not isinstance(command, Prepare | Load):
        return frozenset()
    if isinstance(error, NotOpened):
        refused = frozenset(error.errors)
        # Where nothing is open, and all may be in a moment, that moment is waited for.
        return refused if refused < asked_for(command) or not _may_pass(error) else frozenset()
    asked = asked_for(command)
    return asked if len(asked) == 1 and isinstance(error, _OF_ONE_VERSION) else frozenset()


def is_hopeless(command: Command, error: RingpullError, missing: VersionNames) -> bool:
    """Return whether the same command would fail again however often it is tried, for the reason why it failed now.

    Args:
        missing: Versions whose errors do not count.
    """
    refused = refused_by(command, error)
    return not (refused and refused <= missing) and not _may_pass(error, missing)


def _may_pass(error: RingpullError, but: VersionNames = frozenset()) -> bool:
    if isinstance(error, NotOpened):
        return all(isinstance(each, Retryable) for name, each in error.errors.items() if name not in but)
    return isinstance(error, Retryable)


def rows_stay_away(
    state: CoordinatorState,
    heads: Mapping[int, ObservedHead],
    command: Command,
    error: RingpullError,
    *,
    all_serve: bool,
) -> bool:
    """Note a self-check without rows; return whether the rows of a version that is to go live stay away for good.

    Shards that serve a version and do not answer for rows of it have found them damaged. Rows of a version that is
    live are copied from another shard, or wait for its files; of one that is not, this is an end.

    Args:
        all_serve: Whether every shard serves the next spec, as far as is known.
    """
    if not isinstance(command, Load) or state.spec is None or state.change is None:
        return False
    errors = error.errors if isinstance(error, NotOpened) else dict.fromkeys(asked_for(command), error)
    opened = names_in(state.change.target) - names_in(state.spec)
    head = heads[command.head]
    missing = any(isinstance(each, NotChecked) and name in opened for name, each in errors.items())
    head.unchecked = head.unchecked + 1 if missing and all_serve else 0
    return head.unchecked >= AWAY_TRIES


def without(state: CoordinatorState, name: tuple[str, int], identity: str = "") -> CoordinatorState:
    """Return the state in which a version that is lost is open no more, with a new map that makes heads let go of it.

    One that is live or has a label, or is to, stays: those who have it open serve on with it.

    Args:
        identity: Identity of what is lost: another content that has its number by now stays. Empty: any.
    """
    spec, change = state.spec, state.change
    specs = [spec, None if change is None else change.target]
    placed = [version for each in specs if each is not None and (version := each.version(*name)) is not None]
    if any(differ(number_of(version.identity), number_of(identity)) for version in placed):
        return state
    if any(each is not None and each.relies_on(*name) for each in specs):
        return state
    if not any(name in names_in(each) for each in specs):
        return state
    if spec is not None:
        state = replace(state, spec=_spec_without(spec, name))
    if change is not None:
        state = replace(state, change=replace(change, target=_spec_without(change.target, name)))
    if state.map is None:
        return state
    epoch = state.epoch + 1
    return replace(state, epoch=epoch, map=replace(state.map, epoch=epoch))


def note_missing(
    state: CoordinatorState,
    shards: Mapping[int, ObservedShard],
    heads: Mapping[int, ObservedHead],
    command: Command,
    error: RingpullError,
) -> VersionNames:
    """Note what a member could not open; return what of it is no reason to give up the change under way.

    That is what the member lacks already, or would lack without the change: it serves the rest meanwhile. A failure
    that may pass in a moment is not noted before it has come a few times in a row: until then the member is told again.
    """
    refused = refused_by(command, error)
    if state.spec is None or not refused:
        return frozenset()
    reversible = state.change is not None and state.change.phase.reversible
    if isinstance(command, Prepare):
        shard = shards[command.shard]
        shard.passing = _passes(shard.passing, error, shard.missing)
        for_the_change = reversible and command.specs != {state.spec_id}
        old = refused & shard.missing if for_the_change else refused
        if refused <= old and not 0 < shard.passing < PATIENCE:
            shard.stored |= command.specs
            shard.missing = (shard.missing - asked_for(command)) | refused
        return old
    if isinstance(command, Load):
        head = heads[command.head]
        old = refused & names_in(state.spec) if reversible else refused
        head.loaded |= asked_for(command) - refused
        head.passing = _passes(head.passing, error, head.missing)
        waited_for = _passing(error) - head.missing if head.passing < PATIENCE else frozenset()
        head.missing = (head.missing - asked_for(command)) | (old - waited_for)
        return old
    return frozenset()


def _passing(error: RingpullError) -> VersionNames:
    """Return the versions whose failure may pass in a moment."""
    errors = error.errors if isinstance(error, NotOpened) else {}
    return frozenset(name for name, each in errors.items() if isinstance(each, Retryable))


def _passes(before: int, error: RingpullError, missing: VersionNames) -> int:
    """Return how many failures in a row may pass, of versions that are not known to be lacked; none: 0."""
    return before + 1 if _passing(error) - missing else 0


def note_loaded(head: ObservedHead, names: VersionNames) -> None:
    """Note that a head has loaded all of these versions."""
    head.loaded |= names
    head.passing = head.unchecked = 0
    if head.missing & names:
        head.missing -= names
        head.routed = 0  # Once more, so that requests see them.


def note_routed(head: ObservedHead, epoch: int, names: VersionNames) -> None:
    """Note that a head shows these versions, and has let go of all others."""
    head.routed = epoch
    head.loaded &= names
    head.missing &= names


def note_assigned(shard: ObservedShard, specs: SpecIds, names: VersionNames) -> None:
    """Note that a shard serves these versions by these specs, and has dropped everything else."""
    shard.served = shard.stored = specs
    shard.versions = names
    shard.passing = 0
    shard.missing &= names


def has_lost(shard: ObservedShard, specs: Mapping[int, DeploymentSpec], wanted: SpecIds) -> bool:
    """Return whether a shard serves versions that the specs it should serve have no more."""
    named = frozenset[tuple[str, int]]().union(*(names_in(specs[spec]) for spec in wanted))
    return shard.versions is not None and not shard.versions <= named


def departed(before: DeploymentSpec | None, after: DeploymentSpec | None) -> frozenset[int]:
    """Return the shards of `before` that are not in `after`."""
    return frozenset(() if before is None else before.shards) - frozenset(() if after is None else after.shards)


def _spec_without(spec: DeploymentSpec, name: tuple[str, int]) -> DeploymentSpec:
    versions = tuple(each for each in spec.versions if (each.model, each.version) != name)
    tables = wanted_replicas(versions)
    replicas = {table: wanted for table, wanted in spec.replicas.items() if table in tables}
    return replace(spec, versions=versions, replicas=replicas)
