"""Streaming ranges out of a shard: every row once, in order, nothing that is damaged or not owned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, NotOwner, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.raw_rows import rows_of
from ringpull.ps.wire.messages import DescribeRequest, range_checksum
from tests.ps.opened import assign, flip_a_row_byte, open_shard, range_request
from tests.ps.tables import MODEL, VERSION, WrittenTable, pulled, rows_request, write_table


@pytest.fixture(scope="module", params=[RowType.FLOAT32, RowType.BYTES])
def users(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users", row_type=request.param)


@pytest.mark.parametrize("max_bytes", [0, 20, 1000, 1 << 30])
@pytest.mark.parametrize(("begin", "end"), [(0, SLOTS), (0, 1), (20_000, 40_000), (SLOTS - 1, SLOTS)])
def test_a_range_streams_every_row_once_in_order(users: WrittenTable, begin: int, end: int, max_bytes: int) -> None:
    shard = open_shard(users)
    request = range_request(begin, end, max_bytes=max_bytes)
    positions, rows = [], []
    while True:
        reply = shard.range_pull(request)
        assert reply.checksum == range_checksum(reply.positions, reply.rows, reply.lengths)
        assert len(reply.positions) == 1 or reply.rows.nbytes + 2 * reply.lengths.nbytes <= max_bytes
        positions.append(reply.positions)
        rows.append(reply.rows)
        assert reply.next_cursor == sum(map(len, positions))
        if reply.next_cursor == reply.total_rows:
            break
        request = replace(request, cursor=reply.next_cursor)
    due = positions_of(users.keys)
    slots = due >> np.uint64(SLOT_SHIFT)
    order = np.argsort(due)
    order = order[(slots[order] >= begin) & (slots[order] < end)]
    np.testing.assert_array_equal(np.concatenate(positions), due[order])
    assert np.concatenate(rows).tobytes() == users.row_bytes(order)


def test_a_streamed_range_is_a_table_for_another_shard(users: WrittenTable, tmp_path: Path) -> None:
    """What a shard that joins does: it holds only what it streamed, and does not make defaults of the rest."""
    begin, end = 10_000, 30_000
    source = open_shard(users)
    block = source.range_pull(range_request(begin, end))
    assert block.next_cursor == block.total_rows
    spec = Base.open(users.folder).spec
    with BaseWriter(tmp_path / "users", spec, block.total_rows, held=((begin, end),)) as writer:
        writer.append(block.positions, rows_of(spec.row_bytes, len(block.positions), block.rows, block.lengths))
        writer.finish()
    target = Shard(1)
    target.open(MODEL, VERSION, {"users": tmp_path / "users"}, verify=True)
    assign(target, 2, Ring.even([1]))
    slots = positions_of(users.keys) >> np.uint64(SLOT_SHIFT)
    held = users.keys[(slots >= begin) & (slots < end)]
    assert pulled(target.pull(rows_request("users", held))) == users.row_bytes(np.isin(users.keys, held))
    with pytest.raises(Unavailable, match="not held here"):
        target.pull(rows_request("users", users.keys))
    assert target.range_pull(range_request(begin, end)).checksum == block.checksum
    with pytest.raises(Unavailable, match="does not hold all of the slots"):
        target.range_pull(range_request())


def test_a_range_must_be_owned_whole(users: WrittenTable) -> None:
    ring = Ring.even([0, 1])
    shard = open_shard(users, ring=ring)
    for owned in ring.ranges:
        request = range_request(owned.slots.begin, owned.slots.end)
        if owned.owners == (0,):
            assert shard.range_pull(request).total_rows > 0
        else:
            with pytest.raises(NotOwner, match=f"slot {owned.slots.begin} of table users at epoch 1"):
                shard.range_pull(request)
    with pytest.raises(NotOwner):
        shard.range_pull(range_request())


@pytest.mark.parametrize(("begin", "end"), [(5, 5), (6, 5), (0, SLOTS + 1), (-1, 5)])
def test_slots_that_are_no_range_are_refused(users: WrittenTable, begin: int, end: int) -> None:
    with pytest.raises(InvalidInput, match="not a range"):
        open_shard(users).range_pull(range_request(begin, end))


@pytest.mark.parametrize("cursor", [-1, 501, 2**62])
def test_a_cursor_outside_the_range_is_refused(users: WrittenTable, cursor: int) -> None:
    with pytest.raises(InvalidInput, match="the range has 500 rows"):
        open_shard(users).range_pull(range_request(cursor=cursor))


def test_a_cursor_at_the_end_is_an_empty_block(users: WrittenTable) -> None:
    reply = open_shard(users).range_pull(range_request(cursor=500))
    assert (len(reply.positions), len(reply.rows), reply.next_cursor, reply.total_rows) == (0, 0, 500, 500)


def test_damaged_rows_are_not_passed_on(tmp_path: Path) -> None:
    table = write_table(tmp_path / "users", rows=80_000, dim=16)  # several blocks of about 1 MiB
    assert Base.open(table.folder).block_count >= 4
    flip_a_row_byte(table)
    shard = open_shard(table)
    assert shard.range_pull(range_request(max_bytes=100_000)).total_rows == 80_000
    assert shard.range_pull(range_request(cursor=79_000)).next_cursor == 80_000
    with pytest.raises(CorruptData, match=r"slots \d+ to \d+ are damaged"):
        shard.range_pull(range_request(cursor=39_990, max_bytes=100_000))


def test_a_range_of_an_unknown_table_is_named(users: WrittenTable) -> None:
    with pytest.raises(NotFound, match="no table 'houses'"):
        open_shard(users).range_pull(replace(range_request(), table="houses"))


def test_a_table_describes_itself(users: WrittenTable) -> None:
    base = Base.open(users.folder)
    reply = open_shard(users).describe(DescribeRequest(MODEL, VERSION, "users", 0, SLOTS))
    assert TableSpec.from_dict(msgpack.unpackb(reply.spec.tobytes())) == base.spec
    assert (reply.identity, reply.rows) == (base.identity, base.rows)
    with pytest.raises(InvalidInput, match="describe: slots 5 to 5 are not a range"):
        open_shard(users).describe(DescribeRequest(MODEL, VERSION, "users", 5, 5))
