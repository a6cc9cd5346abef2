"""A world: everything that is to be true of a deployment's data, as one value.

Which versions are open, which of them are live, how the slots are cut over the shards, how many copies each table has.
Every change of a running deployment, a new version as much as a move, leads from one world to the next
(`router.control.coordinator`). Where shards listen is not part of it: that is a fact, not a wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Replicas
from ringpull.router.shard_map import ShardAddress, ShardMap


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """One table of a version on disk."""

    folder: str
    replicas: Replicas
    """Copies that its exporter, or the command line, asked for."""
    rows: int = 0
    row_bytes: int = 0
    """Of one row, without its key."""
    on_unavailable: OnUnavailable = OnUnavailable.ERROR
    """What a look-up gets while no shard answers for a row."""


@dataclass(frozen=True, slots=True)
class PlacedVersion:
    """One complete version of a model on disk."""

    model: str
    version: int
    folder: str
    tables: Mapping[str, PlacedTable]

    @property
    def name(self) -> str:
        """`MODEL/VERSION`, for messages."""
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What is to be true. A value: changes return new ones."""

    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """(model, table) -> wanted copies, of every table of every version."""
    versions: tuple[PlacedVersion, ...]
    """All that are open, by model, then version: the live ones and those kept for rollback."""
    live: Mapping[str, int] = field(default_factory=dict)
    """Model -> the version that answers requests which name none."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Ids, ascending."""
        return self.ring.shards

    @property
    def served_ranges(self) -> ServedRanges:
        """Return what shards guard by."""
        return ServedRanges(self.ring, self.replicas)

    @property
    def sole_tables(self) -> dict[str, OnUnavailable]:
        """Return `MODEL/TABLE` of which some rows are on one shard only -> what becomes of these without it."""
        copies = {
            name: len(self.shards) if wanted == ALL else min(wanted, self.ring.ranks)
            for name, wanted in self.replicas.items()
        }
        return {
            f"{version.model}/{name}": table.on_unavailable
            for version in self.versions
            for name, table in version.tables.items()
            if copies[version.model, name] == 1
        }

    def version(self, model: str, version: int) -> PlacedVersion | None:
        """Return an open version, or None."""
        return next((each for each in self.versions if (each.model, each.version) == (model, version)), None)

    def shard_map(
        self, epoch: int, addresses: Mapping[int, ShardAddress], previous: ShardMap | None = None
    ) -> ShardMap:
        """Return the map that heads route by.

        Args:
            addresses: Of every shard of the ring, at least.
            previous: See `ShardMap.previous`.
        """
        return ShardMap(epoch, tuple(addresses[shard] for shard in self.shards), self.ring, self.replicas, previous)


def initial_spec(shards: Iterable[int], versions: Sequence[PlacedVersion]) -> DeploymentSpec:
    """Return the world of a bring-up: an even ring, every given version live."""
    return DeploymentSpec(
        ring=Ring.even(list(shards), max_replicas(wanted_replicas(versions))),
        replicas=wanted_replicas(versions),
        versions=tuple(sorted(versions, key=lambda version: (version.model, version.version))),
        live={version.model: version.version for version in versions},
    )


def wanted_replicas(versions: Sequence[PlacedVersion]) -> dict[tuple[str, str], Replicas]:
    """Return how many copies each (model, table) is wanted in."""
    return {(version.model, name): table.replicas for version in versions for name, table in version.tables.items()}


def max_replicas(replicas: Mapping[tuple[str, str], Replicas]) -> int:
    """Return how many owners each range should have: the largest number of copies wanted of any table.

    `all` needs none: such a table is on every shard, whoever owns the range. The ring lists fewer while it has fewer
    shards.
    """
    counts = [wanted for wanted in replicas.values() if wanted != ALL]
    return max(counts, default=1)
