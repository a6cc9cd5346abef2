"""What a head is told next: to load what it lacks, to route by the map and the versions of the phase, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ringpull.router.control.change import CoordinatorState, Phase
from ringpull.router.control.deployment_spec import PlacedVersion
from ringpull.router.control.events import Load, Route
from ringpull.router.control.missing_versions import VersionNames, version_names
from ringpull.router.control.observed import ObservedHead
from ringpull.router.shard_map import ShardMap

UNSEEN: Final = ""
"""Incarnation of a head that has not answered since the coordinator was started."""


def for_head(state: CoordinatorState, head: int, observed: ObservedHead) -> Load | Route | None:
    """Return the next command of a head that is behind what the phase requires; None: it is not."""
    change, shard_map = state.change, state.map
    if shard_map is None or observed.incarnation == UNSEEN:
        return None
    versions, live, labels = shown_by_heads(state)
    names = version_names(versions)
    there = observed.loaded | observed.missing
    if not names <= there:
        return _load(observed, head, versions, there, shard_map)
    if state.spec is None and change is not None and change.phase is Phase.LOADING:
        return None  # Routing opens a head's ports: at bring-up, all open together when every head is ready.
    if observed.routed < state.epoch:
        return Route(head, observed.incarnation, shard_map, live, names, labels)
    if observed.tries_again:
        observed.tries_again = False
        return _load(observed, head, versions, observed.loaded, shard_map)
    return None


class Shown(NamedTuple):
    """What heads should have open, and show."""

    versions: tuple[PlacedVersion, ...]
    live: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]


def shown_by_heads(state: CoordinatorState) -> Shown:
    """Return the versions that heads should have open, the live one of each model, and their labels."""
    spec, change = state.spec, state.change
    if change is None or change.phase in (Phase.PREPARING, Phase.CATCHING_UP, Phase.DUAL_OWNERSHIP):
        return Shown(spec.versions, spec.live, spec.labels) if spec is not None else Shown((), {}, {})
    target = change.target
    if change.phase is not Phase.LOADING or spec is None:
        return Shown(target.versions, target.live, target.labels)
    there = version_names(target.versions)
    leaving = tuple(each for each in spec.versions if (each.model, each.version) not in there)
    return Shown((*target.versions, *leaving), spec.live, spec.labels)


def _load(
    observed: ObservedHead, head: int, versions: tuple[PlacedVersion, ...], there: VersionNames, shard_map: ShardMap
) -> Load:
    missing = tuple(each for each in versions if (each.model, each.version) not in there)
    return Load(head, observed.incarnation, missing, shard_map)
