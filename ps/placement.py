"""What a shard is told to hold and to answer for, as plain values that travel with control calls.

Holding and answering are two things: during a move a shard first comes to hold new ranges (`prepare`), then answers for
old and new ones (`assign` with both ownerships), and in the end only for what is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.spec import Replicas


@dataclass(frozen=True, slots=True)
class RangeSource:
    """A shard that holds a range and can stream it."""

    slots: SlotRange
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class TablePlacement:
    """The part of one table that a shard has to hold."""

    folder: str
    """The table's folder in the version on disk: opened where it can be read, whole, whatever `slots` says."""
    slots: tuple[SlotRange, ...]
    """Sorted, disjoint: what it must hold at least."""
    sources: tuple[RangeSource, ...]
    """Who streams what where the folder is out of reach; sorted by slots. Several may cover the same slots: the later
    ones are asked when the earlier do not answer."""


@dataclass(frozen=True, slots=True)
class VersionPlacement:
    """The part of one model version that a shard has to hold."""

    model: str
    version: int
    tables: Mapping[str, TablePlacement]


@dataclass(frozen=True, slots=True)
class ServedRanges:
    """Who owns what in one world. A shard in the middle of a move answers for two of them at once."""

    ring: Ring
    replicas: Mapping[tuple[str, str], Replicas]
    """(model, table) -> wanted copies; a table not named has one."""
