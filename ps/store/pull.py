"""Pulling from tables: takes one frame of look-ups, checks every count against its array, and calls the kernel once.

The frame comes from the network: nothing in it is believed. What passes the checks here cannot lead the kernel
outside its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput, LimitExceeded, NotAnswered
from ringpull.ps.hashing import SLOTS
from ringpull.ps.pull_messages import Op, PullReply, PullRequest
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store import descriptor, kernels
from ringpull.ps.store.gather import gather
from ringpull.ps.store.kernels import address
from ringpull.ps.store.table import Table

MAX_REPLY_BYTES: Final = 1 << 30
"""Upper bound on one reply's values."""

_ROWS: Final = Op.ROWS
_SUM: Final = Op.SUM
_MASK_SHAPE: Final = (SLOTS,)
_UINT8: Final = np.dtype(np.uint8)


class SlotNotOwned(Exception):
    """Raised by `pull` for a key outside the owner's mask; the shard turns it into `NotOwner` with its epoch."""

    def __init__(self, table: str, slot: int) -> None:
        super().__init__(f"table {table}: slot {slot} is not owned here")
        self.table = table
        self.slot = slot


class SlotNotAnswered(NotAnswered):
    """Raised by `pull` for an owned slot that is not in the folder, or is quarantined. Other replicas may answer."""


def pull(
    tables: Sequence[Table],
    masks: Sequence[SlotMask | None],
    request: PullRequest,
    *,
    max_reply_bytes: int = MAX_REPLY_BYTES,
) -> PullReply:
    """Do the look-ups of `request`; the GIL is released meanwhile.

    Args:
        tables: The table of each look-up.
        masks: Which slots each look-up may ask for; None for all.
        request: As decoded. Its arrays are read, not kept.
        max_reply_bytes: Upper bound on the bytes of values and rows in the answer; that of the request may be lower.

    Returns:
        New arrays. A key that the table does not have counts as its default vector, or an empty row, and in `missing`.

    Raises:
        InvalidInput: Counts, lengths, types and arrays do not fit each other.
        LimitExceeded: The answer would be larger than that. No row of bytes was copied.
        SlotNotOwned: A key lies outside its mask. Nothing was answered.
        SlotNotAnswered: A key's slot is not held or is quarantined. Nothing was answered.
    """
    values_size, found_size, bytes_keys = _check(tables, request)
    max_reply_bytes = min(max_reply_bytes, request.max_reply_bytes or max_reply_bytes)
    _check_limit(4 * values_size, max_reply_bytes)
    positions = _flat(request.positions, np.uint64, "positions")
    lengths = _flat(request.lengths, np.uint32, "lengths")
    weights = _flat(request.weights, np.float32, "weights")
    described = bytearray().join(
        table.packed + descriptor.LOOKUP.pack(_mask_address(mask), lookup.op, lookup.keys, lookup.bags, lookup.weighted)
        for table, mask, lookup in zip(tables, masks, request.lookups, strict=True)
    )
    descriptors = np.frombuffer(described, np.int64).reshape(-1, descriptor.DESCRIPTOR_FIELDS)
    values = np.empty(values_size, np.float32)
    missing = np.zeros(len(tables), np.uint32)
    found = np.empty(found_size, np.uint8)
    # Memory that nothing is written to costs nothing: few keys are absent, mostly.
    absents = np.empty(len(positions) if request.tell_absent else 0, np.uint32)
    outcome, at, slot = descriptor.DONE, 0, 0
    if not bytes_keys or values_size:
        outcome, at, slot = kernels.pull_frame(
            descriptors,
            address(positions),
            address(lengths),
            address(weights),
            address(values),
            missing,
            found,
            absents,
        )
    if outcome == descriptor.DONE and bytes_keys:
        from_ats, row_lengths = np.empty(bytes_keys, np.int64), np.empty(bytes_keys, np.uint32)
        outcome, at, size = kernels.locate_bytes(descriptors, address(positions), missing, found, from_ats, row_lengths)
        if outcome == descriptor.DONE:
            _check_limit(4 * values_size + size, max_reply_bytes)
            data = gather(from_ats, row_lengths, size)
            return PullReply(values, missing, found, row_lengths, data, _noted(request, missing, absents))
        slot = size
    if outcome != descriptor.DONE:
        _refuse(outcome, request.lookups[at].table, slot, tables[at], masks[at])
    return PullReply(values, missing, found, absent=_noted(request, missing, absents))


def _noted(request: PullRequest, missing: NDArray[np.uint32], absents: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the part of `absents` that the kernel has written, in memory of its own."""
    if not absents.size or not missing.any():
        return absents[:0].copy()
    pooled = [lookup.op != _ROWS for lookup in request.lookups]
    return absents[: int(missing[pooled].sum())].copy()


def _check_limit(size: int, max_reply_bytes: int) -> None:
    if size > max_reply_bytes:
        raise LimitExceeded(f"pull: the answer has {size} bytes; the limit is {max_reply_bytes}")


def _check(tables: Sequence[Table], request: PullRequest) -> tuple[int, int, int]:
    """Check the counts of all look-ups; return how many values, found flags and rows of bytes the answer has."""
    keys = bags = weights = values = found = bytes_keys = 0
    for table, lookup in zip(tables, request.lookups, strict=True):
        name, op, its_keys, its_bags, weighted = lookup
        if its_keys < 0 or its_bags < 0:
            raise InvalidInput(f"pull: table {name}: {its_keys} keys and {its_bags} bags; neither can be negative")
        if weighted:
            assert op == _SUM, f"pull: table {name} is weighted with {op.name}"  # the wire refuses that
            weights += its_keys
        keys += its_keys
        if op == _ROWS:
            if its_bags != 0:
                raise InvalidInput(f"pull: table {name}: {its_bags} bags for unpooled rows; there must be 0")
            found += its_keys
            values += its_keys * table.spec.dim
            bytes_keys += its_keys if table.spec.is_bytes else 0
        elif table.spec.is_bytes:
            raise InvalidInput(f"pull: table {name} has rows of bytes, which cannot be pooled; {op.name} was asked for")
        else:
            bags += its_bags
            values += its_bags * table.spec.dim
    for name, due, array in (
        ("positions", keys, request.positions),
        ("lengths", bags, request.lengths),
        ("weights", weights, request.weights),
    ):
        if array.size != due:
            raise InvalidInput(f"pull: {array.size} {name}, but the look-ups announce {due}")
    return values, found, bytes_keys


def _flat(array: NDArray[Any], dtype: type[np.generic], name: str) -> NDArray[Any]:
    """Return the array as the kernel reads it: one-dimensional, contiguous, aligned; a copy only where it is not."""
    if array.dtype != dtype or array.ndim != 1:
        raise InvalidInput(f"pull: {name} are {array.dtype} {array.shape}; they must be {np.dtype(dtype)} (n,)")
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array)


def _mask_address(mask: SlotMask | None) -> int:
    if mask is None:
        return 0
    if mask.dtype != _UINT8 or mask.shape != _MASK_SHAPE or not mask.flags.c_contiguous:
        raise InvalidInput(f"pull: a mask is {mask.dtype} {mask.shape}; it must be contiguous uint8 {_MASK_SHAPE}")
    return address(mask)


def _refuse(outcome: int, name: str, slot: int, table: Table, mask: SlotMask | None) -> None:
    if outcome == descriptor.NOT_OWNED:
        raise SlotNotOwned(name, slot)
    if outcome == descriptor.NOT_ANSWERED:
        # Its own range first: where there are too many for an error, the others are told when they are asked for.
        ranges = sorted(table.unanswered(mask), key=lambda each: slot not in each)
        raise SlotNotAnswered(
            f"table {name}: slot {slot} is not held here, or quarantined because its rows are damaged",
            table=name,
            slots=tuple((each.begin, each.end) for each in ranges),
        )
    if outcome == descriptor.DAMAGED:
        raise SlotNotAnswered(
            f"table {name}: where the rows of slot {slot} begin is damaged", table=name, slots=((slot, slot + 1),)
        )
    raise InvalidInput(f"pull: table {name}: lengths must be at least 1 each and add up to the number of keys")
