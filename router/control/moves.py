"""Move plan: which rows get new owners when one spec follows another, and how many bytes that copies.

Masks of slots are compared table by table, so the numbers hold for any two specs, whether shards or copies differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import POSITION_BYTES, SLOTS
from ringpull.ps.rank_fill import OwnerTable
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, minus, runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion

RowsIn = Callable[[PlacedTable, SlotRange], int]
"""Function that counts a table's rows in a range: exactly, by its index (`ringpull.ps.store.base.Base.row_range`), or
by an estimate."""


@dataclass(frozen=True, slots=True)
class TableMove:
    """Ranges of one table of one version that one shard gains."""

    shard: int
    model: str
    version: int
    table: str
    ranges: tuple[SlotRange, ...]
    rows: int
    bytes: int
    """Size of these rows with their keys."""


@dataclass(frozen=True, slots=True)
class MovePlan:
    """Moves that lead from one spec to the next."""

    moves: tuple[TableMove, ...]
    streamed: bool
    """Whether shards keep copies of their own, so that gained ranges cross the wire; otherwise they open the files."""
    min_bytes: int
    """Lower bound on `assigned_bytes` for any change to an even placement."""
    shard_bytes_before: Mapping[int, int]
    """Size of rows and keys by shard."""
    shard_bytes_after: Mapping[int, int]

    @property
    def ranges(self) -> int:
        """Number of ranges that get a new owner."""
        return sum(len(move.ranges) for move in self.moves)

    @property
    def assigned_bytes(self) -> int:
        """Size of the rows that get a new owner, with their keys."""
        return sum(move.bytes for move in self.moves)

    @property
    def copied_bytes(self) -> int:
        """Bytes that cross the wire."""
        return self.assigned_bytes if self.streamed else 0

    def summary(self) -> MoveSummary:
        """Return what an operator is told."""
        gained = dict.fromkeys(self.shard_bytes_after, 0)
        for move in self.moves:
            gained[move.shard] += move.bytes
        return MoveSummary(
            ranges=self.ranges,
            assigned_bytes=self.assigned_bytes,
            copied_bytes=self.copied_bytes,
            streamed=self.streamed,
            min_bytes=self.min_bytes,
            shard_bytes_before=self.shard_bytes_before,
            shard_bytes_after=self.shard_bytes_after,
            shard_bytes_gained=gained,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveSummary:
    """Move plan as an operator is told it: some numbers for each shard, however many tables and ranges there are."""

    ranges: int
    """Number of ranges that get a new owner."""
    assigned_bytes: int
    """Size of the rows that get a new owner, with their keys."""
    copied_bytes: int
    """Bytes that cross the wire."""
    streamed: bool
    """See `MovePlan.streamed`."""
    min_bytes: int
    """See `MovePlan.min_bytes`."""
    shard_bytes_before: Mapping[int, int]
    """Size of rows and keys by shard."""
    shard_bytes_after: Mapping[int, int]
    shard_bytes_gained: Mapping[int, int]
    """Size of the rows, with their keys, that a shard gains."""


def move_plan(
    before: DeploymentSpec, after: DeploymentSpec, *, streamed: bool, rows_in: RowsIn | None = None
) -> MovePlan:
    """Return what has to move.

    Args:
        streamed: See `MovePlan.streamed`.
        rows_in: Counts rows; None: rows are assumed to be spread evenly, which is right to about 1 / sqrt(rows).
    """
    count = rows_in or evenly
    return MovePlan(
        moves=tuple(_moves(before, after, count)),
        streamed=streamed,
        min_bytes=round(sum(_min_bytes(before, after, version, name) for version, name in _tables(before, after))),
        shard_bytes_before=_shard_bytes(before, count),
        shard_bytes_after=_shard_bytes(after, count),
    )


def evenly(table: PlacedTable, slots: SlotRange) -> int:
    """Return the rows of a range, assuming that keys are spread evenly."""
    return round(table.rows * len(slots) / SLOTS)


def _tables(before: DeploymentSpec, after: DeploymentSpec) -> Iterator[tuple[PlacedVersion, str]]:
    """Yield every table of the versions that are open before and after; new versions are opened, not moved."""
    for version in after.versions:
        if before.version(version.model, version.version) is not None:
            for name in version.tables:
                yield version, name


def _moves(before: DeploymentSpec, after: DeploymentSpec, rows_in: RowsIn) -> Iterator[TableMove]:
    had, wants = _Owners(before), _Owners(after)
    gains: dict[tuple[int, Replicas, Replicas], tuple[SlotRange, ...]] = {}
    for version, name in _tables(before, after):
        table = version.tables[name]
        copies = had.copies(version.model, name), wants.copies(version.model, name)
        for shard in after.shards:
            ranges = gains.get((shard, *copies))
            if ranges is None:
                gained = minus(wants.mask(shard, copies[1]), had.mask(shard, copies[0]))
                ranges = gains[shard, *copies] = tuple(runs(gained))
            if ranges:
                rows = sum(rows_in(table, slots) for slots in ranges)
                yield TableMove(
                    shard, version.model, version.version, name, ranges, rows, rows * (POSITION_BYTES + table.row_bytes)
                )


def _min_bytes(before: DeploymentSpec, after: DeploymentSpec, version: PlacedVersion, name: str) -> float:
    """Return the bytes that must get a new owner if every shard is to have an even share."""
    whole = version.tables[name].rows * (POSITION_BYTES + version.tables[name].row_bytes)
    had, wants = _share(before, version.model, name), _share(after, version.model, name)
    return whole * sum(max(0.0, wants - (had if shard in before.shards else 0.0)) for shard in after.shards)


def _share(spec: DeploymentSpec, model: str, name: str) -> float:
    replicas = spec.replicas.get((model, name), 1)
    return 1.0 if replicas == ALL else min(replicas, spec.ring.ranks) / len(spec.shards)


def _shard_bytes(spec: DeploymentSpec, rows_in: RowsIn) -> dict[int, int]:
    owners = _Owners(spec)
    return {
        shard: sum(
            rows_in(table, slots) * (POSITION_BYTES + table.row_bytes)
            for version in spec.versions
            for name, table in version.tables.items()
            for slots in owners.ranges(shard, owners.copies(version.model, name))
        )
        for shard in spec.shards
    }


class _Owners:
    """Slots of the shards of a spec. Tables with as many copies have the same, which are looked up once."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self._shards = frozenset(spec.shards)
        self._tables: dict[int, OwnerTable] = {}
        self._ranges: dict[tuple[int, Replicas], tuple[SlotRange, ...]] = {}

    def copies(self, model: str, table: str) -> Replicas:
        """Return how many copies a table has."""
        return self._spec.replicas.get((model, table), 1)

    def mask(self, shard: int, copies: Replicas) -> SlotMask:
        """Return which slots a shard owns of a table with so many copies: see `Ring.owned_mask`."""
        if copies == ALL:
            return np.full(SLOTS, shard in self._shards, np.uint8)
        table = self._tables.get(copies)
        if table is None:
            table = self._tables[copies] = self._spec.ring.owner_table(copies)
        owned: NDArray[np.bool_] = (table == shard).any(axis=1)
        return owned.view(np.uint8)

    def ranges(self, shard: int, copies: Replicas) -> tuple[SlotRange, ...]:
        """Return these slots as ranges."""
        found = self._ranges.get((shard, copies))
        if found is None:
            found = self._ranges[shard, copies] = tuple(runs(self.mask(shard, copies)))
        return found
