"""Ranges that a shard has to store, and ranges that it has to serve, as plain values that travel with control calls.

Storing and serving are two things: in a move a shard first stores new ranges (`prepare`), then serves old and new ones
(`assign` with the ranges of both specs), and in the end serves the new ones only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import Replicas
from ringpull.ps.wire.messages import ANY_SHARD

NONE_LIVE: Final[Mapping[str, int]] = MappingProxyType({})
"""Lineages that are live, by model, where none is known."""


@dataclass(frozen=True, slots=True)
class RangeSource:
    """Shard that has a range and can stream it."""

    slots: SlotRange
    host: str
    port: int
    shard: int = ANY_SHARD
    incarnation: str = ""
    """Which of its processes is meant: whoever else has its port by now is no source."""


@dataclass(frozen=True, slots=True)
class TablePlacement:
    """Ranges of one table that a shard has to store; of a version with deltas, of one part of it."""

    folder: str
    """Folder of the table in the version on disk. Where it can be read, the whole table is opened, whatever `slots`."""
    slots: tuple[SlotRange, ...]
    """Slots to store at least; sorted, disjoint."""
    sources: tuple[RangeSource, ...]
    """Shards to stream from where the folder is out of reach, sorted by slots. Several may cover the same slots; the
    later ones are asked when the earlier ones fail."""
    identity: int = 0
    """Identity that the table must have, whichever source it comes from; 0: not known, so that of the first one."""
    origin: int = 0
    """Version whose folder it lies in; 0: the one that is placed. Of two versions that share it, each names this."""
    within: str = ""
    """Folder of that version, which no file may lead out of; empty: that of the version that is placed."""


@dataclass(frozen=True, slots=True)
class VersionPlacement:
    """Part of one model version that a shard has to store."""

    model: str
    version: int
    tables: Mapping[str, TablePlacement]
    """Its tables by name; of a version with deltas all parts of them, by theirs (`ringpull.ps.parts`)."""
    identity: str = ""
    """Identity of the version, by which pulls of it are told from those of another content; empty: not known."""
    folder: str = ""
    """Folder of the version, which no file of its tables may lead out of; empty: that of each table."""
    check_rows: bool = False
    """Whether the rows of these slots are held against their checksums before they are served."""
    lineage: int = 0
    """Lineage that it belongs to: identity of the full version, following none, that its chain began with."""
    live: frozenset[str] = frozenset()
    """Tables that take pushes."""
    includes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Stamps of pushed rows, by shard, that a delta's rows go before, by the name of the part; of a part that is not
    named, those of all that were there when it was first opened."""
    publish: int = 0
    """Change that brings it, by a number that no other one has; 0: it should be open already. What a delta was first
    opened for, by one that was given up, does not count for the next."""


@dataclass(frozen=True, slots=True)
class ServedRanges:
    """Owners of all slots by one deployment spec. In the middle of a move a shard serves its slots of two at once."""

    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """Number of copies by (model, table); a table not named has one."""
