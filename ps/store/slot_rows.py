"""Counts of a table's rows by slot, from its header and positions alone: a plan counts in thousands of tables.

Unlike an opened base the positions are not held against their checksum, which reads all of them: where they are damaged
the counts are wrong, and nothing else is.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, OtherContent
from ringpull.ps.hashing import POSITION_BYTES, SLOT_SHIFT, SLOTS
from ringpull.ps.identity import differ, text_of
from ringpull.ps.store import format as fmt
from ringpull.ps.store.file_errors import opened, unreadable
from ringpull.ps.store.format import Header
from ringpull.ps.store.mapping import mapped_array


def rows_below(folder: Path, identity: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many rows the table in a folder has below each slot, from 0 to `SLOTS`.

    Args:
        identity: Identity that the table must have; 0: any.

    Raises:
        CorruptData: A file is missing, of another format or of another size than the header says.
        OtherContent: It has another identity.
        Unavailable: A file cannot be read now.
    """
    path = folder / fmt.HEADER
    try:
        with opened(path) as file:
            header = Header.from_bytes(file.read(fmt.MAX_HEADER_BYTES), path)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    if differ(header.identity, identity):
        what = f"table {header.spec.name} in {folder}"
        raise OtherContent.found(what, text_of(header.identity), text_of(identity))
    positions = _positions(folder / fmt.POSITIONS, header.rows)
    inside = slots < SLOTS
    found = np.full(len(slots), header.rows, np.int64)
    found[inside] = np.searchsorted(positions, slots[inside].astype(np.uint64) << np.uint64(SLOT_SHIFT))
    return found


def _positions(path: Path, rows: int) -> NDArray[np.uint64]:
    if not rows:
        return np.empty(0, np.uint64)
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != rows * POSITION_BYTES:
                raise CorruptData(f"{path}: {size} bytes for {rows} rows; the file is truncated or foreign")
            return mapped_array(file.fileno(), size).view(np.uint64)
    except OSError as exc:
        raise unreadable(path, exc) from exc
