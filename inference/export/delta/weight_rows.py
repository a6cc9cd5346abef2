"""Rows of a weight that are not those of the version before: found by comparing all of them, and nothing is written
for it.

The version before is read from its beginning to its end, as it lies in its files, which may be larger than memory; the
weight's rows are looked up in that order. Pieces of the ring are compared side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ringpull.inference.export.delta.differences import BLOCK_BYTES, DeltaWriter, check_newer
from ringpull.inference.export.delta.placed_keys import PlacedKeys
from ringpull.inference.export.delta.side_by_side import side_by_side
from ringpull.inference.export.stored_rows import differing, has_rows
from ringpull.inference.export.tables import TablePlan
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import RowType, UInt64Array
from ringpull.ps.store.changed_rows import compared_by_number
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.table import Table


class _Found(NamedTuple):
    """What is different in a piece of the ring."""

    positions: UInt64Array
    """Positions of rows that are new or changed, ascending."""
    rows: NDArray[np.uint8]
    changed: int
    gone: UInt64Array
    compared: int
    """Rows of the weight that lie there."""


def add_changed(before: Table, plan: TablePlan, delta: DeltaWriter, progress: Callable[[int], None]) -> None:
    """Add all rows of a weight that are new or have changed, and the keys that went.

    Args:
        progress: Told the bytes of rows that were compared.

    Raises:
        DuplicateKey, HashCollision: Two rows have one key.
        InvalidInput: The row type cannot hold a number.
        ExportError: The disk is full.
        CorruptData: The version before is damaged: a row that changed could look as if it had not.
    """
    check_newer(before)
    keys = PlacedKeys(plan.keys, before.base)
    rows = _as_stored(plan)
    pieces = max(1, -(-max(plan.keys.rows, before.base.rows) * plan.spec.row_bytes // BLOCK_BYTES))
    bounds = np.linspace(0, SLOTS, min(pieces, SLOTS) + 1).astype(int).tolist()
    ranges = [SlotRange(begin, end) for begin, end in itertools.pairwise(bounds)]
    for found in side_by_side(ranges, lambda slots: _in_piece(before, plan, keys, rows, slots)):
        delta.add(found.positions, found.rows, changed=found.changed)
        delta.add_gone(found.gone)
        progress(found.compared * plan.spec.row_bytes)


def _as_stored(plan: TablePlan) -> NDArray[np.uint8] | None:
    """Return the rows of a weight that lie in memory as a table stores them, (rows, row_bytes); None: they do not."""
    weight = plan.weight.detach()
    if (weight.device.type, weight.dtype, plan.row_type) != ("cpu", torch.float32, RowType.FLOAT32):
        return None
    if weight.stride(1) != 1:
        return None
    return weight.numpy().view(np.uint8)


def _in_piece(
    before: Table, plan: TablePlan, keys: PlacedKeys, rows: NDArray[np.uint8] | None, slots: SlotRange
) -> _Found:
    """Compare a slot range.

    Of a table with deltas all rows of the base are compared, and then those that deltas brought, which are few.
    """
    first, last = before.base.row_range(slots.begin, slots.end)
    before.base.check_rows(first, last)
    base_positions, numbers = before.base.positions_slice(first, last), keys.of_rows(first, last)
    added_positions, added = keys.added(slots)
    old_rows, new_rows, places = before.base.sections.rows[first:last], rows, numbers
    gone = numbers < 0
    there = len(numbers) - int(np.count_nonzero(gone))
    if new_rows is None:
        new_rows, places = plan.stored_rows(numbers[~gone]), np.cumsum(~gone) - 1
        places[gone] = -1
    differs, is_new = compared_by_number(old_rows, new_rows, places), np.ones(len(added), bool)
    gone_positions = base_positions[gone]
    if before.newer is not None:
        gone_positions = _with_newer(
            before.newer, plan, slots, (base_positions, numbers, differs, gone), (added_positions, added, is_new)
        )
    positions, numbers = base_positions[differs], numbers[differs]
    if is_new.any():
        positions = np.concatenate([positions, added_positions[is_new]])
        order = np.argsort(positions)
        positions, numbers = positions[order], np.concatenate([numbers, added[is_new]])[order]
    changed = int(has_rows(before, positions).sum())
    return _Found(positions, plan.stored_rows(numbers), changed, gone_positions, there + len(added))


def _with_newer(
    newer: Newer,
    plan: TablePlan,
    slots: SlotRange,
    of_base: tuple[UInt64Array, NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]],
    of_added: tuple[UInt64Array, NDArray[np.int64], NDArray[np.bool_]],
) -> UInt64Array:
    """Compare the rows that deltas brought, or took, in place of the base's; return the positions that are gone.

    Args:
        of_base: Positions of the base, the row of each, and which have changed, which is put right, and are gone.
        of_added: Positions that are not in the base, the row of each, and which have changed, which is put right.
    """
    base_positions, base_numbers, base_differs, base_gone = of_base
    added_positions, added, added_differs = of_added
    positions, words = newer.directory.walk(slots)
    was_there = ~newer.segments.is_gone(words)
    in_base, base_at = _found_in(base_positions, positions)
    in_added, added_at = _found_in(added_positions, positions)
    numbers = np.full(len(positions), -1, np.int64)
    numbers[in_base], numbers[in_added] = base_numbers[base_at], added[added_at]
    is_there = numbers >= 0
    both = was_there & is_there
    differs = is_there & ~was_there
    differs[both] = differing(newer.segments.rows(words[both]), plan.stored_rows(numbers[both]))
    base_differs[base_at], added_differs[added_at] = differs[in_base], differs[in_added]
    gone = base_gone.copy()
    gone[base_at] = False
    return np.sort(np.concatenate([base_positions[gone], positions[was_there & ~is_there]]))


def _found_in(there: UInt64Array, positions: UInt64Array) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which positions are among others, all ascending, and where each of these is."""
    at = np.searchsorted(there, positions)
    found = at < len(there)
    found[found] = there[at[found]] == positions[found]
    return found, at[found]
