"""Room for rows of bytes: taken before they are asked for, and no more asked for than a reply holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringpull.inference.head.request.row_reader import RowReader
from ringpull.inference.head.request.rows_by_key import RowLimits, RowsRequest
from ringpull.inference.model.manifest import TableEntry
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import LimitExceeded
from ringpull.ps.spec import RowType, TableSpec
from ringpull.router.lookup import LookupResult

LIMITS = RowLimits(max_keys=100, max_reply_bytes=10_000)
ENTRY = TableEntry(spec=TableSpec(name="t", dim=0, row_type=RowType.BYTES), path="x", rows=10, bytes=10 * (8 + 300))
"""Rows of 300 bytes each, in the mean."""


class Router:
    """Gives each key a row of so many bytes, or refuses to."""

    def __init__(self, row_bytes: int, refuses: bool = False) -> None:
        self.row_bytes = row_bytes
        self.refuses = refuses
        self.told: list[int] = []

    async def pull(self, model: str, version: int, lookups: Any, *, deadline_s: float, max_reply_bytes: int = 0) -> Any:
        self.told.append(max_reply_bytes)
        if self.refuses:
            raise LimitExceeded("pull: the answer has 99999 bytes")
        keys = len(lookups[0].keys)
        rows = BytesRows.of([b"x" * self.row_bytes] * keys)
        return [LookupResult(np.empty((keys, 0), np.float32), 0, np.ones(keys, np.bool_), bytes_rows=rows)]


async def room_of(router: Router, keys: int) -> list[int]:
    taken: list[int] = []
    reader = RowReader("m", 1, [ENTRY], router)
    request = RowsRequest(model="m", table="t", keys=np.arange(keys, dtype=np.uint64))
    try:
        await reader.read(request, LIMITS, taken.append, deadline_s=1e9)
    except LimitExceeded:
        taken.append(-1)
    return taken


async def test_room_is_taken_before_they_come_and_for_what_is_more() -> None:
    assert await room_of(Router(100), 10) == [3_000, 0]
    first, more = await room_of(Router(500), 10)
    assert first == 3_000
    assert first + more == LIMITS.check_reply(10 * 500 + 11 * 8, 10)
    # No more than a reply may have: it may be short, whatever the mean.
    assert (await room_of(Router(1), 90))[0] == LIMITS.max_reply_bytes


async def test_shards_are_told_what_a_reply_holds() -> None:
    router = Router(1)
    await room_of(router, 10)
    [most] = router.told
    assert LIMITS.check_reply(most + 11 * 8, 10) == LIMITS.max_reply_bytes
    with pytest.raises(LimitExceeded):
        LIMITS.check_reply(most + 1 + 11 * 8, 10)
    reader = RowReader("m", 1, [ENTRY], Router(1, refuses=True))
    request = RowsRequest(model="m", table="t", keys=np.arange(5, dtype=np.uint64))
    with pytest.raises(LimitExceeded, match=r"rows of these 5 have more bytes; max_message_bytes is 10000.*99999"):
        await reader.read(request, LIMITS, lambda nbytes: None, deadline_s=1e9)
    tiny = RowLimits(max_keys=100, max_reply_bytes=1_050)
    with pytest.raises(LimitExceeded, match="max_message_bytes is 1050"):
        await RowReader("m", 1, [ENTRY], router).read(request, tiny, lambda nbytes: None, deadline_s=1e9)
    assert len(router.told) == 1
