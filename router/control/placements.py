"""Placements of a shard: the ranges that some specs want it to store, and the shards that can stream them to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import number_of
from ringpull.ps.parts import PartName
from ringpull.ps.placement import RangeSource, TablePlacement, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion
from ringpull.router.shard_map import ShardAddress

NO_PUBLISHES: Final[Mapping[tuple[str, int], int]] = MappingProxyType({})


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
    publishes: Mapping[tuple[str, int], int] = NO_PUBLISHES,
) -> tuple[VersionPlacement, ...]:
    """Return what a shard has to store to serve its slots of all these specs, version by version.

    Args:
        unchecked: Versions whose rows it has to check, as (model, version).
        publishes: Number of the change that brings a version, by its (model, version).
    """
    placed = {(version.model, version.version): version for spec in specs for version in spec.versions}
    # Tables with as many copies have the same slots and sources, of which there may be a thousand times a thousand.
    slots_of: dict[tuple[Replicas, ...], tuple[SlotRange, ...]] = {}
    sources_of: dict[Replicas, tuple[RangeSource, ...]] = {}

    def slots(model: str, table: str) -> tuple[SlotRange, ...]:
        """Return the union over all specs, even one without this version: a shard serves the same slots of every
        version that it has open."""
        copies = tuple(spec.replicas.get((model, table), 1) for spec in specs)
        if copies not in slots_of:
            masks = [spec.ring.owned_mask(shard, each) for spec, each in zip(specs, copies, strict=True)]
            slots_of[copies] = tuple(runs(np.bitwise_or.reduce(masks)))
        return slots_of[copies]

    def range_sources(model: str, number: int, table: str) -> tuple[RangeSource, ...]:
        if sources is None or sources.spec.version(model, number) is None:
            return ()
        copies = sources.spec.replicas.get((model, table), 1)
        if copies not in sources_of:
            sources_of[copies] = _sources(sources, copies)
        return sources_of[copies]

    return tuple(
        VersionPlacement(
            model,
            number,
            {
                name: replace(part, slots=slots(model, table), sources=range_sources(model, number, table))
                for table, where in version.tables.items()
                for name, part in _parts(table, where)
            },
            identity=version.identity,
            folder=version.folder,
            check_rows=(model, number) in unchecked,
            lineage=number_of(version.lineage),
            live=frozenset(version.live_tables),
            includes=_includes(version),
            publish=publishes.get((model, number), 0),
        )
        for (model, number), version in placed.items()
    )


def _parts(table: str, where: PlacedTable) -> Iterator[tuple[str, TablePlacement]]:
    """Yield the parts of a table by name: without slots and sources, which are the table's."""
    yield table, TablePlacement(where.folder, (), (), where.identity, where.origin, where.within)
    for part in where.parts:
        name = PartName(table, part.version, part.gone)
        yield str(name), TablePlacement(part.folder, (), (), part.identity, part.version, part.within)


def _includes(version: PlacedVersion) -> dict[str, Mapping[int, int]]:
    brought = [
        (PartName(table, part.version), part.version)
        for table, where in version.tables.items()
        for part in where.parts
        if not part.gone
    ]
    # The base of a full version that follows others has pushed rows, too, as one that was compacted.
    brought += [(PartName(table), where.origin or version.version) for table, where in version.tables.items()]
    return {str(part): version.includes[number] for part, number in brought if number in version.includes}


def _sources(sources: StreamSources, replicas: Replicas) -> tuple[RangeSource, ...]:
    """Return the live owners of every range of a table with so many copies, ordered by slots, then by rank."""
    spec, live = sources.spec, sources.live
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
