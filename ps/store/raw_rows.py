"""Rows as stored, several of them: what writers, readers and copies pass on, whatever the table's row type.

Rows of vectors are a uint8 array (n, row_bytes). Rows of bytes are `BytesRows`: their bytes end to end, and where each
begins. Beyond this machine, in frames and pieces, both are flat bytes, the latter with the length of each row beside
them; vectors have no lengths there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import MAX_BYTES_ROW

RawRows = NDArray[np.uint8] | BytesRows

PIECE_BYTES: Final = 4 << 20
"""Bytes of rows that are put in order at a time."""

Lengths = NDArray[np.uint32]

NO_LENGTHS: Final[Lengths] = np.empty(0, np.uint32)
"""Lengths of vectors, which need none."""

LENGTH_BYTES: Final = 4
"""Bytes of the length of a row of bytes, beyond this machine."""


def flat(rows: RawRows) -> NDArray[np.uint8]:
    """Return the bytes of rows end to end, uint8 (total,): a view."""
    return rows.data if isinstance(rows, BytesRows) else rows.reshape(-1)


def lengths_of(rows: RawRows) -> Lengths:
    """Return the length of each row, uint32 (n,); of vectors none."""
    return np.diff(rows.offsets).astype(np.uint32) if isinstance(rows, BytesRows) else NO_LENGTHS


def part_of(rows: RawRows, begin: int, end: int) -> RawRows:
    """Return rows [begin, end): a view."""
    if not isinstance(rows, BytesRows):
        return rows[begin:end]
    offsets = rows.offsets[begin : end + 1]
    return BytesRows(rows.data[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])


def chosen(rows: RawRows, which: NDArray[np.bool_]) -> RawRows:
    """Return some of the rows, those that are marked."""
    if not isinstance(rows, BytesRows):
        return rows[which]
    from ringpull.ps.store.gather import gather_from  # compiled: clients, which push, have no compiler

    return gather_from(rows.data, rows.offsets[:-1][which], np.diff(rows.offsets)[which].astype(np.uint32))


def rows_of(row_bytes: int, count: int, data: NDArray[np.uint8], lengths: Lengths) -> RawRows:
    """Return `count` rows from flat bytes and lengths, which came from elsewhere.

    Args:
        row_bytes: Bytes of each; 0: they have lengths.

    Raises:
        CorruptData: They do not fit each other.
    """
    if row_bytes:
        if len(lengths) or len(data) != count * row_bytes:
            raise CorruptData(
                f"{count} rows have {len(data)} bytes and {len(lengths)} lengths; they are of {row_bytes} each"
            )
        return data.reshape(count, row_bytes)
    if len(lengths) != count:
        raise CorruptData(f"{count} rows have {len(lengths)} lengths")
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if int(offsets[-1]) != len(data) or (count and int(lengths.max()) > MAX_BYTES_ROW):
        raise CorruptData(
            f"{count} rows have {len(data)} bytes, where their lengths add up to {int(offsets[-1])}; a row has at most"
            f" {MAX_BYTES_ROW}"
        )
    return BytesRows(data, offsets)


def ordered_pieces(rows: NDArray[np.uint8], order: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
    """Yield `rows[order]` (n, row_bytes) in pieces of a few MiB, so that the sorted copy is never all in memory."""
    step = max(1, PIECE_BYTES // rows.shape[1])
    for begin in range(0, len(order), step):
        yield rows[order[begin : begin + step]]


def gathered_pieces(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: Lengths) -> Iterator[BytesRows]:
    """Yield rows of bytes that lie anywhere in `data`, end to end, in pieces of a few MiB or of one row.

    Args:
        data: uint8 (total,), contiguous.
        starts: (n,): where each row begins.
        lengths: (n,): bytes of each; no row leads out of `data`.
    """
    from ringpull.ps.store.gather import gather_from  # compiled, see `chosen`

    ends = np.cumsum(lengths, dtype=np.int64)
    begin = 0
    while begin < len(starts):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + PIECE_BYTES, side="right")))
        end = min(end, begin + PIECE_BYTES // LENGTH_BYTES)  # empty rows take memory, too
        yield gather_from(data, starts[begin:end], lengths[begin:end])
        begin = end
