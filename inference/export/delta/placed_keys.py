"""Keys of a weight beside those of the version before: which row of the weight has the key of each of the base's rows,
and which rows have keys that the base has not.

The base lies in ring order already, so only keys that it has not are sorted. Of row numbers nothing is kept but those:
a position says its key, which is the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.export.delta.side_by_side import side_by_side
from ringpull.inference.export.keys import RowKeys
from ringpull.inference.schema.transforms import keys_of_values
from ringpull.ps.errors import DuplicateKey, HashCollision
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, as_keys, keys_of, positions_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import KeyType, UInt64Array
from ringpull.ps.store.base import Base

_AT_ONCE: Final = 1 << 18
"""Keys that are looked up at a time."""


class PlacedKeys:
    """Keys of a weight by the rows of a base: which row of the weight has which. May be read by several threads."""

    def __init__(self, keys: RowKeys, base: Base) -> None:
        """Look up all keys.

        Raises:
            DuplicateKey, HashCollision: Two rows have one key.
        """
        self._rows, self._base = keys.rows, base
        self._numbers: NDArray[np.int64] | None
        self._numbers, added, positions = _by_number(keys, base) if keys.ids is None else _by_id(keys, base)
        order = np.argsort(positions)
        self._added_positions, self._added = positions[order], added[order]
        if bool((self._added_positions[1:] == self._added_positions[:-1]).any()):
            raise _one_key(keys)

    def of_rows(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the row of the weight for each of the base's rows [begin, end), -1 where their key is gone."""
        if self._numbers is not None:
            return self._numbers[begin:end]
        keys = keys_of(self._base.positions_slice(begin, end))
        numbers = keys.view(np.int64)
        numbers[keys >= np.uint64(self._rows)] = -1
        return numbers

    def added(self, slots: SlotRange) -> tuple[UInt64Array, NDArray[np.int64]]:
        """Return the positions in a slot range that the base does not have, ascending, and the row of each."""
        begin, end = (
            len(self._added) if slot == SLOTS else int(np.searchsorted(self._added_positions, _first_of(slot)))
            for slot in (slots.begin, slots.end)
        )
        return self._added_positions[begin:end], self._added[begin:end]


def _first_of(slot: int) -> np.uint64:
    return np.uint64(slot << SLOT_SHIFT)


def _by_number(keys: RowKeys, base: Base) -> tuple[None, NDArray[np.int64], UInt64Array]:
    """Return which row numbers a base does not have, and their positions, in any order."""
    added = np.empty(0, np.int64)
    if sum(len(known) for known in _known_numbers(keys.rows, base)) < keys.rows:
        missing = np.ones(keys.rows, bool)
        for known in _known_numbers(keys.rows, base):
            missing[known] = False
        added = np.flatnonzero(missing)
    return None, added, positions_of(added.view(np.uint64))


def _known_numbers(rows: int, base: Base) -> Iterator[NDArray[np.int64]]:
    """Yield the keys of a base that are below `rows`."""
    for begin in range(0, base.rows, _AT_ONCE):
        keys = keys_of(base.positions_slice(begin, min(begin + _AT_ONCE, base.rows)))
        yield keys[keys < np.uint64(rows)].view(np.int64)


def _by_id(keys: RowKeys, base: Base) -> tuple[NDArray[np.int64], NDArray[np.int64], UInt64Array]:
    """Return the row for each of a base's rows, -1 where there is none, the other rows, and their positions."""
    numbers = np.full(base.rows, -1, np.int64)
    added: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    positions: list[UInt64Array] = [np.empty(0, np.uint64)]

    def look_up(begin: int) -> tuple[int, UInt64Array, NDArray[np.int64]]:
        found = _positions(keys, begin)
        return begin, found, base.find(found)

    known = 0
    for begin, looked_up, rows in side_by_side(range(keys.first, keys.rows, _AT_ONCE), look_up):
        own, here = np.arange(begin, begin + len(rows)), rows >= 0
        numbers[rows[here]] = own[here]
        known += int(np.count_nonzero(here))
        added.append(own[~here])
        positions.append(looked_up[~here])
    if np.count_nonzero(numbers >= 0) != known:
        raise _one_key(keys)
    return numbers, np.concatenate(added), np.concatenate(positions)


def _positions(keys: RowKeys, begin: int) -> UInt64Array:
    """Return the positions of the keys from a row on, some of them."""
    ids = keys.of(begin, min(begin + _AT_ONCE, keys.rows))
    return positions_of(as_keys(np.ascontiguousarray(ids)) if ids.dtype.kind in "iu" else _hashed(ids))


def _hashed(ids: NDArray[Any]) -> UInt64Array:
    return keys_of_values(ids).view(np.uint64)


def _one_key(keys: RowKeys) -> DuplicateKey | HashCollision:
    """Return the error for the first two rows that have one key."""
    assert keys.ids is not None, "rows have different numbers"
    positions = np.concatenate([_positions(keys, begin) for begin in range(keys.first, keys.rows, _AT_ONCE)])
    order = np.argsort(positions)
    positions = positions[order]
    at = int(np.argmax(positions[1:] == positions[:-1]))
    one, other = keys.ids[order[at]], keys.ids[order[at + 1]]
    key = int(keys_of(positions[at : at + 1])[0])
    if one != other and keys.key_type is KeyType.STRING:
        return HashCollision(
            f"table {keys.table}: the keys {one!r} and {other!r} have one hash, {key:#018x}; rename one of them",
            key=key,
        )
    shown = repr(str(one)) if keys.key_type is KeyType.STRING else one
    return DuplicateKey(f"table {keys.table}: key {shown} was given more than once", key=key)
