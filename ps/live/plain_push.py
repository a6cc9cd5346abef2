"""Plain push: what most pushes are, taken in by one compiled call: its rows are looked at once and copied once.

It has rows of numbers, of a writer that has used most slots, all of them new, and the arena has room for them. Anything
else, and whatever is wrong with it, is for `ringpull.ps.live.commit` to tell apart: nothing was changed then.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ringpull.ps.live.finite_rows import EXPONENTS, words_of
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.numbers import NO_WRITER, Numbers, Slots
from ringpull.ps.live.push_kernels import AT_ONCE, take_plain
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.kernels import address
from ringpull.ps.wire.push_messages import PushRequest

MAX_BYTES: Final = 4 * AT_ONCE
"""Bytes of rows up to which a push is taken in at once, as the interpreter is kept meanwhile."""


class Taken(NamedTuple):
    """What is known of a push that was taken in, and is not shown yet."""

    words: UInt64Array
    """Words of its rows."""
    slots: Slots
    last: UInt64Array
    """Numbers that its slots had before."""


def taken(request: PushRequest, table: LiveTable, numbers: Numbers, stamp: int, now_s: float) -> Taken | None:
    """Write the rows of a push to memory, and note its number, if it is a plain one; else change nothing.

    Args:
        request: One of a table that takes it, with as many bytes of rows as its keys need.
        numbers: Those of the table's shard.
        stamp: The push's.

    Raises:
        MemoryError: There is none left. Nothing was changed.
    """
    exponent = None if table.row_type is None else EXPONENTS.get(table.row_type)
    positions, rows, count = request.positions, request.rows, len(request.positions)
    if exponent is None or request.remove or request.writer == NO_WRITER:
        return None
    if count > AT_ONCE or rows.size > MAX_BYTES:
        return None
    last_numbers = numbers.writable_at_all_slots(table.name, request.writer)
    if last_numbers is None or not (positions.flags.c_contiguous and rows.flags.c_contiguous):
        return None
    row_words = words_of(rows, exponent.dtype)
    if not row_words.flags.aligned:  # The kernel is not compiled for such arrays.
        return None
    place = table.segments.reserved(count)
    if place is None:
        return None
    block, first, word = place
    made = Taken(np.empty(count, np.uint64), np.empty(count, np.uint16), np.empty(count, np.uint64))
    if not take_plain(
        address(positions),
        last_numbers,
        np.uint64(request.number),
        row_words,
        exponent,
        address(rows),
        block.rows_at + first * block.step,
        block.stamps,
        first,
        np.uint64(stamp),
        made.words,
        np.uint64(word),
        np.uint64(block.step),
        made.slots,
        made.last,
    ):
        return None
    block.keep(count)
    numbers.seen(table.name, request.writer, now_s)
    return made
