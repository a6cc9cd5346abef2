"""Placements and served ranges of small deployments, and the rows that a base must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.placement import RangeSource, ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import SlotMask, runs
from ringpull.ps.spec import Replicas
from ringpull.ps.store.base import Base
from tests.ps.tables import MODEL, VERSION, WrittenTable, bytes_row

NOWHERE = Path("/nowhere/model/3")
"""A version's folder on a disk that this machine does not see."""


def placement(
    folders: Sequence[Path], slots: Sequence[SlotRange], sources: Sequence[RangeSource] = ()
) -> VersionPlacement:
    """Return the same slots of every table, whose names are those of their folders."""
    tables = {folder.name: TablePlacement(str(folder), tuple(slots), tuple(sources)) for folder in folders}
    return VersionPlacement(MODEL, VERSION, tables)


def at(url: str, slots: Sequence[SlotRange], *sources: RangeSource) -> VersionPlacement:
    """Return slots of the table `users`, whose files are at `url`/users."""
    return VersionPlacement(MODEL, VERSION, {"users": TablePlacement(f"{url}/users", tuple(slots), sources)})


def owned_slots(ring: Ring, shard: int, replicas: Replicas = 1) -> list[SlotRange]:
    return runs(ring.owned_mask(shard, replicas))


def sources_in(ring: Ring, actors: Mapping[int, ShardProcess], but: int, replicas: int = 1) -> list[RangeSource]:
    """Return who owns what in a ring, and where."""
    return [
        RangeSource(owned.slots, *actors[owner].address())
        for owned in ring.ranges
        for owner in owned.owners[:replicas]
        if owner in actors and owner != but
    ]


def assign(actor: ShardProcess, epoch: int, *rings: Ring, replicas: Replicas = 1) -> None:
    wanted: dict[tuple[str, str], Replicas] = {(MODEL, "users"): replicas, (MODEL, "items"): replicas}
    actor.assign(epoch, [ServedRanges(ring, wanted) for ring in rings], [(MODEL, VERSION)])


def slots_of(keys: np.ndarray) -> np.ndarray:
    return (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)


def assert_holds(base: Base, table: WrittenTable, mask: SlotMask) -> None:
    """Assert that a base is exactly the rows of the table in these slots, byte for byte."""
    whole = Base.open(table.folder)
    assert base.spec == whole.spec
    assert base.identity == whole.identity
    assert base.held_mask().tolist() == mask.tolist()
    mine = mask[(whole.positions_slice(0, whole.rows) >> np.uint64(SLOT_SHIFT)).astype(np.int64)] == 1
    assert base.positions_slice(0, base.rows).tobytes() == whole.positions_slice(0, whole.rows)[mine].tobytes()
    if base.spec.is_bytes:
        assert list(base.raw_rows(0, base.rows)) == [
            bytes_row(whole, number) for number in np.flatnonzero(mine).tolist()
        ]
    else:
        assert base.raw_rows(0, base.rows).tobytes() == whole.raw_rows(0, whole.rows)[mine].tobytes()
    assert base.verify() == []


def copied_bytes(table: WrittenTable, mask: SlotMask) -> int:
    """Return the bytes of a table's slots as they are streamed: rows, keys, and lengths of rows of bytes."""
    spec = Base.open(table.folder).spec
    if spec.is_bytes:
        return copied_rows(table, mask) * (8 + 4) + len(table.row_bytes(mask[slots_of(table.keys)] == 1))
    return copied_rows(table, mask) * (8 + spec.row_bytes)


def copied_rows(table: WrittenTable, mask: SlotMask) -> int:
    """Return the number of rows in a table's slots."""
    return int((mask[slots_of(table.keys)] == 1).sum())
