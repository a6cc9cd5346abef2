"""Which ranges a shard has to hold in some worlds, and who can stream them to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ringpull.ps.hashing import SLOTS
from ringpull.ps.holding import RangeSource, TableHolding, VersionHolding
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.world import World
from ringpull.router.shard_map import ShardAddress


@dataclass(frozen=True, slots=True)
class Streamers:
    """The world that serves, and which of its shards answer for it now."""

    world: World
    live: Mapping[int, ShardAddress]


def holdings_of(shard: int, worlds: Sequence[World], streamers: Streamers | None) -> tuple[VersionHolding, ...]:
    """Return what a shard has to hold to answer for its slots of all these worlds, version by version."""
    placed = {(version.model, version.version): version for world in worlds for version in world.versions}
    return tuple(
        VersionHolding(
            model,
            number,
            {
                table: TableHolding(
                    folder=where.folder,
                    # By every world, also one without this version: a shard guards all it has open alike.
                    slots=tuple(
                        runs(np.bitwise_or.reduce([owned_mask(world, shard, model, table) for world in worlds]))
                    ),
                    sources=_sources(streamers, model, number, table),
                )
                for table, where in version.tables.items()
            },
        )
        for (model, number), version in placed.items()
    )


def owned_mask(world: World, shard: int, model: str, table: str) -> SlotMask:
    """Return which slots of a table a shard owns in a world."""
    replicas: Replicas = world.replicas.get((model, table), 1)
    return world.ring.owned_mask(shard, replicas)


def _sources(streamers: Streamers | None, model: str, version: int, table: str) -> tuple[RangeSource, ...]:
    """Return the live owners of every range of a table, in order of slots, then of rank."""
    if streamers is None or streamers.world.version(model, version) is None:
        return ()
    world, live = streamers.world, streamers.live
    replicas = world.replicas.get((model, table), 1)
    whole = SlotRange(0, SLOTS)
    if replicas == ALL:
        return tuple(RangeSource(whole, address.host, address.port) for address in live.values())
    return tuple(
        RangeSource(owned.slots, live[owner].host, live[owner].port)
        for owned in world.ring.ranges
        for owner in owned.owners[:replicas]
        if owner in live
    )
