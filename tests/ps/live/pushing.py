"""Shards that take pushes, without a coordinator: what confirms first pushes, and what pushes and pulls look like."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.hashing import SLOTS, positions_of
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.patience import PATIENCE_S
from tests.ps.tables import MODEL, VERSION

LINEAGE = 0x1234
EPOCH = 1
RING = ServedRanges(Ring.even([0]), {})


def placed(folder: Path, *, version: int = VERSION, lineage: int = LINEAGE) -> VersionPlacement:
    """Return all of a version that has one table, which takes pushes."""
    table = TablePlacement(str(folder), (SlotRange(0, SLOTS),), ())
    return VersionPlacement(MODEL, version, {folder.name: table}, lineage=lineage, live=frozenset([folder.name]))


def push_of(
    keys: Sequence[int] | NDArray[np.uint64],
    rows: NDArray[np.float32] | Sequence[bytes] | None,
    *,
    table: str = "users",
    writer: int = 0,
    number: int = 0,
    lineage: int = LINEAGE,
) -> PushRequest:
    """Return a push of rows; None: of removals."""
    positions = positions_of(np.asarray(keys, np.uint64))
    nothing = np.empty(0, np.uint32)
    if rows is None:
        data, lengths = np.empty(0, np.uint8), nothing
    elif isinstance(rows, np.ndarray):
        data, lengths = np.ascontiguousarray(rows, np.float32).view(np.uint8).reshape(-1), nothing
    else:
        of_bytes = BytesRows.of(list(rows))
        data, lengths = of_bytes.data, np.diff(of_bytes.offsets).astype(np.uint32)
    return PushRequest(MODEL, table, EPOCH, lineage, writer, number, rows is None, positions, data, lengths)


def done(reply: object) -> PushReply:
    assert isinstance(reply, PushReply), reply
    return reply


def until(wanted: Callable[[], bool], what: str = "") -> None:
    """Wait for what another thread does soon; `what` says what it means if it never does."""
    until_s = time.monotonic() + PATIENCE_S
    while not wanted():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)
