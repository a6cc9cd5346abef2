"""Rows that a tracker names: only these are read of a weight, and compared with the version before."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.delta.differences import DeltaWriter, check_newer
from ringpull.inference.export.keys import RowKeys, key_type_of, read_ids
from ringpull.inference.export.stored_rows import differing, has_rows, rows_at
from ringpull.inference.export.tables import TablePlan
from ringpull.inference.schema.transforms import keys_of_values
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import as_keys, positions_of
from ringpull.ps.spec import KeyType, UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import chosen
from ringpull.ps.store.table import Table

CHUNK_ROWS: Final = 1 << 16
"""Rows that are compared at a time."""


def add_tracked(before: Table, plan: TablePlan, changed: Any, gone: Any, delta: DeltaWriter) -> None:
    """Add those rows of some ids that are new or have changed, and those of the gone ids that were there.

    Raises:
        InvalidInput: An id is none of the table's, or is both.
        ExportError: Ids are neither integers nor strings; or the disk is full.
        CorruptData: The version before is damaged where a row looks as if it had not changed.
    """
    check_newer(before)
    keys = plan.keys
    ids = _ids(keys, "changed", changed)
    numbers = _row_numbers(keys, ids)
    positions, first = np.unique(_positions(ids), return_index=True)
    numbers = numbers[first]
    gone_ids = _ids(keys, "gone", gone)
    _, known = _found(keys, gone_ids)
    if known.any():
        there = gone_ids[int(np.argmax(known))]
        raise InvalidInput(f"gone of table {keys.table}: the module has a row for the id {there!r}; it is not gone")
    went = np.unique(_positions(gone_ids))
    whole: set[int] = set()
    for begin in range(0, len(positions), CHUNK_ROWS):
        some = positions[begin : begin + CHUNK_ROWS]
        rows = plan.stored_rows(numbers[begin : begin + CHUNK_ROWS])
        found, there = rows_at(before, some)
        differs = ~found
        differs[found] = differing(there, chosen(rows, found))
        _check_blocks(before.base, some[~differs], whole)
        delta.add(some[differs], chosen(rows, differs), changed=int((differs & found).sum()))
    for begin in range(0, len(went), CHUNK_ROWS):
        some = went[begin : begin + CHUNK_ROWS]
        delta.add_gone(some[has_rows(before, some)])


def _check_blocks(base: Base, positions: UInt64Array, whole: set[int]) -> None:
    """Verify the blocks that some rows lie in, but for those that are known to be whole, to which they are added.

    Raises:
        CorruptData: One is damaged.
    """
    numbers, firsts = base.find(positions), base.sections.blocks[:, 0]
    blocks = np.searchsorted(firsts, numbers[numbers >= 0].astype(np.uint64), side="right") - 1
    for block in set(blocks.tolist()) - whole:
        first = int(firsts[block])
        base.check_rows(first, first + 1)
        whole.add(block)


def _ids(keys: RowKeys, what: str, given: Any) -> NDArray[Any]:
    ids = read_ids(f"{keys.table} in {what}", given)
    if len(ids) and (key_type_of(ids) is KeyType.STRING) != (keys.key_type is KeyType.STRING):
        raise InvalidInput(f"{what} of table {keys.table}: ids must be {keys.key_type.value}, as its keys are")
    return ids


def _positions(ids: NDArray[Any]) -> UInt64Array:
    return positions_of(_keys(ids))


def _keys(ids: NDArray[Any]) -> UInt64Array:
    if ids.dtype.kind in "iu":
        return as_keys(np.ascontiguousarray(ids))
    return keys_of_values(ids).view(np.uint64)


def _row_numbers(keys: RowKeys, ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return the row of a weight that each id has."""
    numbers, known = _found(keys, ids)
    if not known.all():
        missing = ids[int(np.argmin(known))]
        raise InvalidInput(f"changed of table {keys.table}: there is no row for the id {missing!r}; is it gone?")
    return numbers


def _found(keys: RowKeys, ids: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the row of a weight that each id has, and whether it has one."""
    if not len(ids):
        return np.empty(0, np.int64), np.empty(0, bool)
    if keys.ids is None:
        numbers = ids.astype(np.int64)
        return numbers, (numbers >= keys.first) & (numbers < keys.rows)
    own, wanted = _keys(keys.ids), _keys(ids)
    if not len(own):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    order = np.argsort(own)
    found = order[np.minimum(np.searchsorted(own, wanted, sorter=order), len(own) - 1)]
    return found + keys.first, own[found] == wanted
