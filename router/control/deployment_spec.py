"""Deployment spec: the desired state of a deployment's data, as one value.

It says which versions are open, which of them are live, which shards own which slots, and how many copies each table
has. Every change of a running deployment, a new version as much as a move, leads from one spec to the next
(`ringpull.router.control.coordinator`). Addresses of shards are not part of it: they are observed, not desired
(`ringpull.router.control.observed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ringpull.ps.errors import OtherContent
from ringpull.ps.identity import differ, number_of, text_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL, OnUnavailable, Replicas
from ringpull.router.control.plain_values import left_out
from ringpull.router.shard_map import ShardAddress, ShardMap

MAX_SHARDS: Final = 1024
"""Upper bound on the shards of a deployment. Owner tables store shard ids in 16 bits; a thousand is far above what one
map has been tried with."""


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """Rows of a table that a delta changed or brought, or keys that went with it, on disk."""

    version: int
    """Delta that brought it."""
    folder: str
    within: str
    """Folder of that version."""
    rows: int
    row_bytes: int
    identity: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class ChainLink:
    """Version that another one follows, directly or not."""

    version: int
    identity: str

    def __str__(self) -> str:
        return f"{self.version} ({self.identity})"


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """Table of a version on disk; where that has deltas, the base, and what each delta brought."""

    folder: str
    replicas: Replicas
    """Number of copies that its exporter, or the command line, asked for."""
    rows: int = 0
    row_bytes: int = 0
    """Size of one stored row, without its key; of rows of bytes the mean, with where they start."""
    on_unavailable: OnUnavailable = OnUnavailable.ERROR
    """Policy for look-ups of rows that no shard answers for."""
    identity: int = 0
    """Identity of its content, `Header.identity`; 0: not known."""
    origin: int = field(default=0, metadata=left_out())
    """Version whose folder the base lies in; 0: the placed one."""
    within: str = field(default="", metadata=left_out())
    """Folder of that version; empty: of the placed one."""
    parts: tuple[PlacedPart, ...] = field(default=(), metadata=left_out())
    """What deltas brought, oldest first."""

    @property
    def newer_rows(self) -> int:
        """Rows and keys that deltas brought."""
        return sum(part.rows for part in self.parts)

    @property
    def deltas(self) -> int:
        """Number of deltas that it is made of."""
        return len({part.version for part in self.parts})


@dataclass(frozen=True, slots=True)
class PlacedVersion:
    """Complete version of a model on disk."""

    model: str
    version: int
    folder: str
    tables: Mapping[str, PlacedTable]
    identity: str = ""
    """Identity of the version, the checksum of its manifest: 16 hex digits; empty: not known."""
    found_in: str = field(default="", metadata=left_out())
    """Model's folder as it was named, where that leads to `folder` through links: in it, as it is then, newer versions
    are looked for. What is open stays where it is when the links are flipped. Empty: the folder that `folder` is in."""
    tables_alone: bool = field(default=False, metadata=left_out())
    """Whether it has tables only, and predicts nothing."""
    chain: tuple[ChainLink, ...] = field(default=(), metadata=left_out())
    """Versions that it follows, from the first to its predecessor; none: it follows nothing."""
    ancestors: tuple[ChainLink, ...] = field(default=(), metadata=left_out())
    """Versions before the first of `chain` that are known to be in it, where that one was compacted; oldest first."""
    lineage_of: str = field(default="", metadata=left_out())
    """Lineage that its manifest names; empty: it began one."""
    live_tables: tuple[str, ...] = field(default=(), metadata=left_out())
    """Tables that take pushes, sorted."""
    includes: Mapping[int, Mapping[int, int]] = field(default_factory=dict, metadata=left_out())
    """Stamps of pushed rows, by shard, that a delta's rows go before, by the delta's version."""

    @property
    def lineage(self) -> str:
        """Lineage that it belongs to: the identity of the full version, following none, that its chain began with."""
        return self.lineage_of or self.identity

    @property
    def name(self) -> str:
        """Name for messages, `MODEL/VERSION`."""
        return f"{self.model}/{self.version}"

    @property
    def models_folder(self) -> str:
        """The model's folder, or its URL: where its other versions are looked for."""
        return self.found_in or self.folder.rstrip("/").rpartition("/")[0]

    def check_same(self, found: PlacedVersion) -> None:
        """Check that what was found now under this version's number has this version's content.

        Raises:
            OtherContent: It has not; the message says what to do.
        """
        if differ(number_of(self.identity), number_of(found.identity)):
            raise OtherContent.found(f"{self.name} in {found.folder}", found.identity, self.identity)
        for name, table in self.tables.items():
            there = found.tables.get(name)
            if there is not None and differ(table.identity, there.identity):
                what = f"table {name} of {self.name} in {found.folder}"
                raise OtherContent.found(what, text_of(there.identity), text_of(table.identity))


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """Desired state of a deployment. Immutable: a change makes a new one."""

    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """Number of copies wanted of every table of every version, by (model, table)."""
    versions: tuple[PlacedVersion, ...]
    """Open versions, sorted by model, then version: the live ones and those kept for rollback."""
    live: Mapping[str, int] = field(default_factory=dict)
    """Version that answers requests which name none, by model."""
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict, metadata=left_out())
    """Labels of open versions, by model, then label; no model without labels is in it."""
    pinned: tuple[str, ...] = field(default=(), metadata=left_out())
    """Models that were asked for by the numbers of their versions, sorted: no version of theirs is published by whoever
    watches folders, until an operator publishes the newest one."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Ids of the shards, ascending."""
        return self.ring.shards

    @property
    def served_ranges(self) -> ServedRanges:
        """Ranges that each shard serves."""
        return ServedRanges(self.ring, self.replicas)

    @property
    def sole_tables(self) -> dict[str, OnUnavailable]:
        """Tables with a single copy, as `MODEL/TABLE` -> policy for its rows while their shard is away."""
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

    def relies_on(self, model: str, version: int) -> bool:
        """Return whether requests reach a version without its number: it is live, or has a label."""
        return self.live.get(model) == version or version in self.labels.get(model, {}).values()

    def version(self, model: str, version: int) -> PlacedVersion | None:
        """Return an open version, or None."""
        return next((each for each in self.versions if (each.model, each.version) == (model, version)), None)

    def with_models(
        self,
        versions: Iterable[PlacedVersion],
        live: Mapping[str, int],
        labels: Mapping[str, Mapping[str, int]],
        *,
        replicas: Mapping[tuple[str, str], Replicas] | None = None,
        pinned: Iterable[str] | None = None,
    ) -> DeploymentSpec:
        """Return the spec in which these versions are open, over the same shards.

        A table keeps its present number of copies, which an operator may have chosen.

        Args:
            replicas: Copies of new tables; one that is not named gets the number that it was exported with.
            pinned: Models that are pinned from now on; None: those that are, and are served yet.
        """
        placed = tuple(sorted(versions, key=lambda each: (each.model, each.version)))
        copies = {
            name: self.replicas.get(name, (replicas or {}).get(name, wanted))
            for name, wanted in wanted_replicas(placed).items()
        }
        ring = self.ring.with_ranks(max(self.ring.wanted, max_replicas(copies)))
        named = {model: each for model, each in labels.items() if each}
        pins = tuple(sorted(set(self.pinned if pinned is None else pinned) & live.keys()))
        return DeploymentSpec(ring, copies, placed, live, named, pins)

    def shard_map(
        self,
        epoch: int,
        addresses: Mapping[int, ShardAddress],
        previous: ShardMap | None = None,
        *,
        deployment: str = "",
        term: int = 0,
    ) -> ShardMap:
        """Return the map that heads route by.

        Args:
            addresses: Addresses of at least every shard of the ring.
            previous, deployment, term: See `ShardMap`.
        """
        shards = tuple(addresses[shard] for shard in self.shards)
        return ShardMap(epoch, shards, self.ring, self.replicas, previous, deployment, term)


def initial_spec(shards: Iterable[int], versions: Sequence[PlacedVersion]) -> DeploymentSpec:
    """Return the spec of a bring-up: an even ring, with every given version live."""
    return DeploymentSpec(
        ring=Ring.even(list(shards), max_replicas(wanted_replicas(versions))),
        replicas=wanted_replicas(versions),
        versions=tuple(sorted(versions, key=lambda version: (version.model, version.version))),
        live={version.model: version.version for version in versions},
    )


def wanted_replicas(versions: Sequence[PlacedVersion]) -> dict[tuple[str, str], Replicas]:
    """Return the wanted number of copies of each (model, table)."""
    return {(version.model, name): table.replicas for version in versions for name, table in version.tables.items()}


def max_replicas(replicas: Mapping[tuple[str, str], Replicas]) -> int:
    """Return how many owners each range should have: the largest number of copies wanted of any table.

    `all` does not count: such a table is on every shard, whoever owns the range. The ring lists fewer owners while it
    has fewer shards.
    """
    counts = [wanted for wanted in replicas.values() if wanted != ALL]
    return max(counts, default=1)
