"""Move plan: which rows get new owners when one spec follows another, and how many bytes that copies.

Masks of slots are compared for each pair of numbers of copies, before and after, so the numbers hold for any two specs,
whether shards or copies differ. Each table's rows are then counted once, at all bounds of the ranges that it is asked
for: the work is linear in tables, and there may be a thousand, each a few files on a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.hashing import POSITION_BYTES, SLOTS
from ringpull.ps.parts import PartName, table_of
from ringpull.ps.rank_fill import OwnerTable
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, minus, runs
from ringpull.ps.spec import ALL, Replicas
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedPart, PlacedTable

Slots = NDArray[np.int64]
Rows = NDArray[np.int64]
RowsBelow = Callable[[PlacedTable | PlacedPart, Slots], Rows]
"""Function that counts a table's rows below each of some slots, (N,): exactly, by its positions
(`ringpull.ps.store.slot_rows`), or by an estimate."""


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
    before: DeploymentSpec, after: DeploymentSpec, *, streamed: bool, rows_below: RowsBelow | None = None
) -> MovePlan:
    """Return what has to move.

    Args:
        streamed: See `MovePlan.streamed`.
        rows_below: Counts rows; None: rows are assumed to be spread evenly, which is right to about 1 / sqrt(rows).
    """
    count = rows_below or evenly
    had, wants = _Owners(before), _Owners(after)
    cuts: dict[tuple[Replicas | None, Replicas | None], _Cut] = {}
    moves: list[TableMove] = []
    held, kept, min_bytes = dict.fromkeys(before.shards, 0), dict.fromkeys(after.shards, 0), 0.0
    for (model, number, name), (table, stays) in _tables(before, after).items():
        copies = (had.copies(model, name) if stays[0] else None, wants.copies(model, name) if stays[1] else None)
        cut = cuts.get(copies)
        if cut is None:
            cut = cuts[copies] = _Cut.of(had, wants, *copies)
        row_bytes = POSITION_BYTES + table.row_bytes
        for part, rows in zip(cut.parts, cut.rows(count(table, cut.bounds)), strict=True):
            match part.what:
                case _What.BEFORE:
                    held[part.shard] += rows * row_bytes
                case _What.AFTER:
                    kept[part.shard] += rows * row_bytes
                case _What.GAINED:
                    moves.append(TableMove(part.shard, model, number, name, part.ranges, rows, rows * row_bytes))
        if all(stays):
            min_bytes += _min_bytes(before, after, table, model, name)
    return MovePlan(tuple(moves), streamed, round(min_bytes), held, kept)


def evenly(table: PlacedTable | PlacedPart, slots: Slots) -> Rows:
    """Return the rows below each slot, assuming that keys are spread evenly."""
    below: Rows = np.rint(slots * (table.rows / SLOTS)).astype(np.int64)
    return below


def _tables(
    before: DeploymentSpec, after: DeploymentSpec
) -> dict[tuple[str, int, str], tuple[PlacedTable | PlacedPart, tuple[bool, bool]]]:
    """Return every table of the versions that are open before or after, and every part of one, and whether it is open
    before, and after. They are by model, the version that they come from, and name: versions share those they share.
    """
    found: dict[tuple[str, int, str], tuple[PlacedTable | PlacedPart, tuple[bool, bool]]] = {}
    for spec, is_open in ((before, (True, False)), (after, (False, True))):
        for version in spec.versions:
            for name, table in version.tables.items():
                parts: list[tuple[int, str, PlacedTable | PlacedPart]] = [
                    (table.origin or version.version, name, table)
                ]
                parts += [(each.version, str(PartName(name, each.version, each.gone)), each) for each in table.parts]
                for number, part, placed in parts:
                    _, (was, will) = found.get((version.model, number, part), (placed, (False, False)))
                    found[version.model, number, part] = placed, (was or is_open[0], will or is_open[1])
    return found


class _What(StrEnum):
    """What slots of a shard are counted for."""

    BEFORE = "before"
    AFTER = "after"
    GAINED = "gained"
    """Slots gained of a version that is open before and after; a new one is opened, not moved."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Slots of one shard that are counted."""

    what: _What
    shard: int
    ranges: tuple[SlotRange, ...]


@dataclass(frozen=True, slots=True)
class _Cut:
    """All that is counted of a table with so many copies before, and so many after."""

    parts: tuple[_Part, ...]
    """Parts that have a slot."""
    bounds: Slots
    """Begin and end of each range of each part, (2 x ranges,)."""
    part: NDArray[np.int64]
    """Part of each range, (ranges,)."""

    @classmethod
    def of(cls, had: _Owners, wants: _Owners, before: Replicas | None, after: Replicas | None) -> _Cut:
        """Return the cut for these numbers of copies; None: the table is not open then."""
        parts = []
        if before is not None:
            parts += [_Part(_What.BEFORE, shard, had.ranges(shard, before)) for shard in had.shards]
        if after is not None:
            parts += [_Part(_What.AFTER, shard, wants.ranges(shard, after)) for shard in wants.shards]
        if before is not None and after is not None:
            gained = ((shard, minus(wants.mask(shard, after), had.mask(shard, before))) for shard in wants.shards)
            parts += [_Part(_What.GAINED, shard, tuple(runs(mask))) for shard, mask in gained]
        parts = [each for each in parts if each.ranges]
        return cls(
            parts=tuple(parts),
            bounds=np.array([(slots.begin, slots.end) for each in parts for slots in each.ranges], np.int64).reshape(
                -1
            ),
            part=np.repeat(np.arange(len(parts)), [len(each.ranges) for each in parts]),
        )

    def rows(self, below: Rows) -> list[int]:
        """Return the rows of each part, given those below each bound."""
        rows = np.zeros(len(self.parts), np.int64)
        np.add.at(rows, self.part, below[1::2] - below[::2])
        counted: list[int] = rows.tolist()
        return counted


def _min_bytes(
    before: DeploymentSpec, after: DeploymentSpec, table: PlacedTable | PlacedPart, model: str, name: str
) -> float:
    """Return the bytes that must get a new owner if every shard is to have an even share."""
    whole = table.rows * (POSITION_BYTES + table.row_bytes)
    had, wants = _share(before, model, name), _share(after, model, name)
    shards = frozenset(before.shards)
    return whole * sum(max(0.0, wants - (had if shard in shards else 0.0)) for shard in after.shards)


def _share(spec: DeploymentSpec, model: str, name: str) -> float:
    replicas = spec.replicas.get((model, table_of(name)), 1)
    return 1.0 if replicas == ALL else min(replicas, spec.ring.ranks) / len(spec.shards)


class _Owners:
    """Slots of the shards of a spec. Tables with as many copies have the same, which are looked up once."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self.shards = spec.shards
        self._tables: dict[int, OwnerTable] = {}
        self._ranges: dict[tuple[int, Replicas], tuple[SlotRange, ...]] = {}

    def copies(self, model: str, table: str) -> Replicas:
        """Return how many copies a table has."""
        return self._spec.replicas.get((model, table_of(table)), 1)

    def mask(self, shard: int, copies: Replicas) -> SlotMask:
        """Return which slots a shard owns of a table with so many copies: see `Ring.owned_mask`."""
        if copies == ALL:
            return np.full(SLOTS, shard in self.shards, np.uint8)
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
