"""What a change moves, before it moves: rows that get new owners, bytes that cross the wire, and the least possible.

Masks of slots are compared table by table, so the numbers hold for any two worlds: other shards, other copies, both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import minus, runs
from ringpull.ps.spec import ALL
from ringpull.router.control.holdings import owned_mask
from ringpull.router.control.world import PlacedTable, PlacedVersion, World

KEY_BYTES: Final = 8
"""A row travels with its position."""

RowsIn = Callable[[PlacedTable, SlotRange], int]
"""Rows of a table in a range: exact from its index (`ps.store.base.Base.row_range`), or an estimate."""


@dataclass(frozen=True, slots=True)
class TableMove:
    """What one shard gains of one table of one version."""

    shard: int
    model: str
    version: int
    table: str
    ranges: tuple[SlotRange, ...]
    rows: int
    bytes: int
    """Of these rows and their keys."""


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What leads from one world to the next."""

    moves: tuple[TableMove, ...]
    streamed: bool
    """Whether shards keep copies of their own, so that what they gain crosses the wire; else they open the files."""
    least_bytes: int
    """That any way to an even placement would have to assign anew."""
    shard_bytes_before: Mapping[int, int]
    """Rows and keys by shard."""
    shard_bytes_after: Mapping[int, int]

    @property
    def ranges(self) -> int:
        """How many ranges get a new owner."""
        return sum(len(move.ranges) for move in self.moves)

    @property
    def assigned_bytes(self) -> int:
        """Rows that get a new owner, with their keys."""
        return sum(move.bytes for move in self.moves)

    @property
    def copied_bytes(self) -> int:
        """That cross the wire."""
        return self.assigned_bytes if self.streamed else 0


def move_plan(before: World, after: World, *, streamed: bool, rows_in: RowsIn | None = None) -> MovePlan:
    """Return what has to move.

    Args:
        streamed: See `MovePlan.streamed`.
        rows_in: None: rows are taken to lie evenly, which they do to within some 1 / sqrt(rows).
    """
    count = rows_in or evenly
    return MovePlan(
        moves=tuple(_moves(before, after, count)),
        streamed=streamed,
        least_bytes=round(sum(_least(before, after, version, name) for version, name in _tables(before, after))),
        shard_bytes_before=_shard_bytes(before, count),
        shard_bytes_after=_shard_bytes(after, count),
    )


def evenly(table: PlacedTable, slots: SlotRange) -> int:
    """Return the rows of a range if keys lie evenly."""
    return round(table.rows * len(slots) / SLOTS)


def _tables(before: World, after: World) -> Iterator[tuple[PlacedVersion, str]]:
    """Yield every table of the versions that are open before and after: a version that is new comes from its files."""
    for version in after.versions:
        if before.version(version.model, version.version) is not None:
            for name in version.tables:
                yield version, name


def _moves(before: World, after: World, rows_in: RowsIn) -> Iterator[TableMove]:
    for version, name in _tables(before, after):
        table = version.tables[name]
        for shard in after.shards:
            had = owned_mask(before, shard, version.model, name)
            ranges = tuple(runs(minus(owned_mask(after, shard, version.model, name), had)))
            if ranges:
                rows = sum(rows_in(table, slots) for slots in ranges)
                yield TableMove(
                    shard, version.model, version.version, name, ranges, rows, rows * (KEY_BYTES + table.row_bytes)
                )


def _least(before: World, after: World, version: PlacedVersion, name: str) -> float:
    """Return the bytes that must get a new owner when every shard is to have an even share."""
    whole = version.tables[name].rows * (KEY_BYTES + version.tables[name].row_bytes)
    had, wants = _share(before, version.model, name), _share(after, version.model, name)
    return whole * sum(max(0.0, wants - (had if shard in before.shards else 0.0)) for shard in after.shards)


def _share(world: World, model: str, name: str) -> float:
    replicas = world.replicas.get((model, name), 1)
    return 1.0 if replicas == ALL else min(replicas, world.ring.ranks) / len(world.shards)


def _shard_bytes(world: World, rows_in: RowsIn) -> dict[int, int]:
    return {
        shard: sum(
            rows_in(table, slots) * (KEY_BYTES + table.row_bytes)
            for version in world.versions
            for name, table in version.tables.items()
            for slots in runs(owned_mask(world, shard, version.model, name))
        )
        for shard in world.shards
    }
