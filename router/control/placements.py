"""Placements of a shard: the ranges that some specs want it to store, and the shards that can stream them to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource, TablePlacement, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.deployment_spec import DeploymentSpec
from ringpull.router.shard_map import ShardAddress


@dataclass(frozen=True, slots=True)
class StreamSources:
    """Shards that ranges can be streamed from: those of the spec that serves which answer for it now."""

    spec: DeploymentSpec
    live: Mapping[int, ShardAddress]


def placements_of(
    shard: int,
    specs: Sequence[DeploymentSpec],
    sources: StreamSources | None,
    *,
    unchecked: Collection[tuple[str, int]] = (),
) -> tuple[VersionPlacement, ...]:
    """Return what a shard has to store to serve its slots of all these specs, version by version.

    Args:
        unchecked: Versions whose rows it has to check, as (model, version).
    """
    placed = {(version.model, version.version): version for spec in specs for version in spec.versions}
    return tuple(
        VersionPlacement(
            model,
            number,
            {
                table: TablePlacement(
                    folder=where.folder,
                    # The union over all specs, even one without this version: a shard serves the same slots of every
                    # version it has open.
                    slots=tuple(runs(np.bitwise_or.reduce([owned_mask(spec, shard, model, table) for spec in specs]))),
                    sources=_sources(sources, model, number, table),
                    identity=where.identity,
                )
                for table, where in version.tables.items()
            },
            identity=version.identity,
            folder=version.folder,
            check_rows=(model, number) in unchecked,
        )
        for (model, number), version in placed.items()
    )


def owned_mask(spec: DeploymentSpec, shard: int, model: str, table: str) -> SlotMask:
    """Return which slots of a table a shard owns in a spec."""
    replicas: Replicas = spec.replicas.get((model, table), 1)
    return spec.ring.owned_mask(shard, replicas)


def _sources(sources: StreamSources | None, model: str, version: int, table: str) -> tuple[RangeSource, ...]:
    """Return the live owners of every range of a table, ordered by slots, then by rank."""
    if sources is None or sources.spec.version(model, version) is None:
        return ()
    spec, live = sources.spec, sources.live
    replicas = spec.replicas.get((model, table), 1)
    whole = SlotRange(0, SLOTS)
    if replicas == ALL:
        return tuple(_source(whole, address) for address in live.values())
    return tuple(
        _source(owned.slots, live[owner])
        for owned in spec.ring.ranges
        for owner in owned.owners[:replicas]
        if owner in live
    )


def _source(slots: SlotRange, address: ShardAddress) -> RangeSource:
    return RangeSource(slots, address.host, address.port, address.shard, address.incarnation)
