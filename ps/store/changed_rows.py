"""Changed rows: what one table has otherwise than an older one, found by going through both in ring order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store import changed_kernels
from ringpull.ps.store.base import Base
from ringpull.ps.store.kernels import address
from ringpull.ps.store.raw_rows import RawRows, chosen

PIECE_BYTES: Final = 4 << 20
"""Bytes of rows of either table that are compared at a time; fewer if they are short."""


class ChangedRows(NamedTuple):
    """What changed in one piece of the ring."""

    positions: UInt64Array
    """(n,), ascending: of rows that are new, or whose bytes are others."""
    rows: RawRows
    """(n,): these rows, as stored."""
    gone: UInt64Array
    """(g,), ascending: of rows that are not there any more."""
    changed: int
    """How many of `rows` are there in the place of others, and not new."""


def changed_rows(old: Base, new: Base, piece_bytes: int = PIECE_BYTES) -> Iterator[ChangedRows]:
    """Yield what has to be done to `old` to have the rows of `new`, in ring order, in little memory.

    Raises:
        InvalidInput: Their rows are of different kinds.
        CorruptData: Where rows of bytes begin is damaged.
    """
    for piece in pieces_of(old, new, piece_bytes):
        yield changed_in(old, new, piece)


def pieces_of(old: Base, new: Base, piece_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of two tables that lie in the same part of the ring, of both at most so many bytes, in its order.

    Raises:
        InvalidInput: Their rows are of different kinds.
    """
    for field in ("dim", "row_type", "key_type"):
        one, other = getattr(old.spec, field), getattr(new.spec, field)
        if one != other:
            raise InvalidInput(f"table {new.spec.name}: {field} is {other}; {old.folder} has {one}")
    at_old = at_new = 0
    while at_old < old.rows or at_new < new.rows:
        end_old = old.rows_within(at_old, old.rows, piece_bytes) if at_old < old.rows else old.rows
        end_new = new.rows_within(at_new, new.rows, piece_bytes) if at_new < new.rows else new.rows
        # Both pieces end at the lower of their last positions, unless one of the tables does.
        if end_old < old.rows or end_new < new.rows:
            ends = [
                int(base.sections.positions[end - 1])
                for base, end in ((old, end_old), (new, end_new))
                if end < base.rows
            ]
            end_old, end_new = (
                _rows_to(base, begin, end, min(ends))
                for base, begin, end in ((old, at_old, end_old), (new, at_new, end_new))
            )
        yield slice(at_old, end_old), slice(at_new, end_new)
        at_old, at_new = end_old, end_new


def _rows_to(base: Base, begin: int, end: int, position: int) -> int:
    """Return the end of a base's rows [begin, end) up to a position."""
    return begin + int(np.searchsorted(base.sections.positions[begin:end], np.uint64(position), side="right"))


def changed_in(old: Base, new: Base, piece: tuple[slice, slice]) -> ChangedRows:
    """Return what is different in one of `pieces_of`.

    Raises:
        CorruptData: Where rows of bytes begin is damaged.
    """
    (first, last), (new_first, new_last) = ((each.start, each.stop) for each in piece)
    old_positions, new_positions = old.positions_slice(first, last), new.positions_slice(new_first, new_last)
    new_rows = new.raw_rows(new_first, new_last)
    differs, gone = compared(old_positions, old.raw_rows(first, last), new_positions, new_rows)
    changed = int(differs.sum()) - added_rows(differs, gone)
    return ChangedRows(new_positions[differs], chosen(new_rows, differs), old_positions[gone], changed)


def added_rows(differs: NDArray[np.bool_], gone: NDArray[np.bool_]) -> int:
    """Return how many rows are new, given what `compared` returned."""
    return len(differs) - int((~gone).sum())


def compared(
    old_positions: UInt64Array, old_rows: RawRows, new_positions: UInt64Array, new_rows: RawRows
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Compare rows of one kind, both by ascending positions.

    Returns:
        Which of the new positions have other rows than before, or had none, (m,); and which of the old ones are not
        among the new ones, (n,).
    """
    changed, gone = np.empty(len(new_positions), np.bool_), np.empty(len(old_positions), np.bool_)
    changed_kernels.compare(
        address(old_positions),
        address(new_positions),
        _place(old_rows),
        _place(new_rows),
        (_offsets(old_rows), _offsets(new_rows)),
        changed,
        gone,
    )
    return changed, gone


def compared_by_number(
    old_rows: NDArray[np.uint8], new_rows: NDArray[np.uint8], numbers: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which vectors (n, row_bytes) are others among `new_rows`, (n,).

    Args:
        new_rows: uint8 (m, row_bytes): each of them contiguous, and they may lie apart.
        numbers: (n,): which of `new_rows` each is compared with; below 0: none, and it is not marked.
    """
    changed = np.empty(len(numbers), np.bool_)
    changed_kernels.compare_numbered(
        address(old_rows), address(new_rows), old_rows.shape[1], new_rows.strides[0], numbers, changed
    )
    return changed


def _place(rows: RawRows) -> tuple[int, int]:
    """Return where rows are, and their bytes."""
    return (address(rows.data), 0) if isinstance(rows, BytesRows) else (address(rows), rows.shape[1])


def _offsets(rows: RawRows) -> NDArray[np.int64]:
    return rows.offsets if isinstance(rows, BytesRows) else np.empty(0, np.int64)
