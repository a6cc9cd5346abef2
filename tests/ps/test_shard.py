"""A shard's verbs against the reference, its guard of ownership and epoch, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import CorruptData, InvalidInput, NotFound, NotOwner, Unavailable
from ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ps.ring import Ring
from ps.shard import Shard
from ps.spec import ALL, Pooling, Replicas
from ps.store.base import Base
from ps.store.base_writer import BaseWriter
from ps.wire.messages import Op, RangePullRequest, TableStatistics, range_checksum
from tests.ps.tables import MODEL, VERSION, WrittenTable, pull_request, rows_request, write_table
from tests.reference import assert_close

ONE_SHARD = Ring.even([0])
UNKNOWN = np.array([1, 2, 2**64 - 1], np.uint64)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "items", rows=200, dim=16, seed=2)


def open_shard(*tables: WrittenTable, shard: int = 0, ring: Ring = ONE_SHARD, replicas: Replicas = 1) -> Shard:
    opened = Shard(shard)
    opened.open(MODEL, VERSION, {table.folder.name: table.folder for table in tables})
    opened.assign(1, ring, {(MODEL, table.folder.name): replicas for table in tables})
    return opened


def owned_keys(keys: np.ndarray, ring: Ring, shard: int, replicas: Replicas = 1) -> np.ndarray:
    slots = (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)
    return keys[ring.owned_mask(shard, replicas)[slots] != 0]


# -- pull --------------------------------------------------------------------------------------------------------------


def test_rows_are_bit_exact_and_unknown_keys_are_the_default(users: WrittenTable) -> None:
    keys = np.concatenate([users.keys[::-1], UNKNOWN, users.keys[:3]])
    reply = open_shard(users).pull(rows_request("users", keys))
    rows, found = users.reference.pull(keys)
    assert reply.values.tobytes() == rows.tobytes()
    assert reply.found.astype(bool).tolist() == found.tolist()
    assert reply.missing.tolist() == [3]


@pytest.mark.parametrize(
    ("op", "pooling", "weighted"),
    [(Op.SUM, Pooling.SUM, False), (Op.SUM, Pooling.SUM, True), (Op.MAX, Pooling.MAX, False)],
)
def test_bags_are_pooled_like_the_reference(users: WrittenTable, op: Op, pooling: Pooling, weighted: bool) -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 20, 40)
    keys = rng.choice(np.concatenate([users.keys[:50], UNKNOWN]), lengths.sum())
    weights = rng.normal(size=len(keys)).astype(np.float32) if weighted else None
    reply = open_shard(users).pull(pull_request([("users", op, keys, lengths.tolist(), weights)]))
    offsets = np.concatenate([[0], lengths.cumsum()])
    assert_close(reply.values.reshape(40, 5), users.reference.pull_bags(keys, offsets, pooling, weights))
    assert reply.missing.tolist() == [np.isin(keys, UNKNOWN).sum()]


def test_one_frame_carries_look_ups_of_several_tables(users: WrittenTable, items: WrittenTable) -> None:
    weights = np.array([0.5, -2.0], np.float32)
    reply = open_shard(users, items).pull(
        pull_request(
            [
                ("items", Op.ROWS, items.keys[:3], (), None),
                ("users", Op.SUM, users.keys[:2], (2,), weights),
                ("items", Op.MAX, np.concatenate([items.keys[3:5], UNKNOWN]), (1, 4), None),
                ("users", Op.ROWS, UNKNOWN, (), None),
            ]
        )
    )
    parts = np.split(reply.values, np.cumsum([3 * 16, 5, 2 * 16]))
    assert parts[0].tobytes() == items.rows[:3].tobytes()
    assert_close(parts[1], weights.astype(np.float64) @ users.rows[:2])
    np.testing.assert_array_equal(parts[2][:16], items.rows[3])
    np.testing.assert_array_equal(parts[2][16:], np.maximum(items.rows[4], items.reference.default))
    assert parts[3].tobytes() == np.tile(users.reference.default, 3).tobytes()
    assert reply.missing.tolist() == [0, 0, 3, 3]
    assert reply.found.tolist() == [1, 1, 1, 0, 0, 0]


def test_an_empty_pull_is_answered(users: WrittenTable) -> None:
    reply = open_shard(users).pull(pull_request([]))
    assert (len(reply.values), len(reply.missing), len(reply.found)) == (0, 0, 0)


@pytest.mark.parametrize("replicas", [1, 2, ALL])
def test_every_owner_answers_and_together_they_have_everything(users: WrittenTable, replicas: Replicas) -> None:
    ring = Ring.even(range(5), ranks=2)
    answered = 0
    for shard in range(5):
        mine = owned_keys(users.keys, ring, shard, replicas)
        reply = open_shard(users, shard=shard, ring=ring, replicas=replicas).pull(rows_request("users", mine))
        assert reply.values.tobytes() == users.reference.pull(mine)[0].tobytes()
        answered += len(mine)
    assert answered == len(users.keys) * (5 if replicas == ALL else replicas)


@given(
    lengths=st.lists(st.integers(0, 2**32 - 1), max_size=6),
    keys=st.integers(0, 12),
    op=st.sampled_from([Op.SUM, Op.MAX]),
)
def test_lengths_that_do_not_fit_are_refused(users: WrittenTable, lengths: list[int], keys: int, op: Op) -> None:
    request = pull_request([("users", op, users.keys[:keys], lengths, None)])
    shard = open_shard(users)
    if sum(lengths) == keys and all(lengths):
        assert shard.pull(request).values.size == 5 * len(lengths)
    else:
        with pytest.raises(InvalidInput):
            shard.pull(request)


# -- ownership ---------------------------------------------------------------------------------------------------------


def test_a_slot_of_another_shard_is_refused_with_the_epoch(users: WrittenTable) -> None:
    ring = Ring.even([0, 1])
    shard = open_shard(users, ring=ring)
    shard.assign(7, ring, {})
    foreign = owned_keys(users.keys, ring, 1)[:1]
    with pytest.raises(NotOwner, match=r"shard 0 does not own slot \d+ of table users at epoch 7") as raised:
        shard.pull(rows_request("users", np.concatenate([owned_keys(users.keys, ring, 0), foreign])))
    assert raised.value.epoch == 7


def test_nothing_is_owned_before_the_first_assignment(users: WrittenTable) -> None:
    shard = Shard(0)
    shard.open(MODEL, VERSION, {"users": users.folder})
    with pytest.raises(NotOwner) as raised:
        shard.pull(rows_request("users", users.keys[:1]))
    assert raised.value.epoch == 0
    assert shard.statistics().slots == 0


def test_a_shard_outside_the_ring_owns_nothing(users: WrittenTable) -> None:
    shard = open_shard(users, shard=9, replicas=ALL)
    with pytest.raises(NotOwner):
        shard.pull(rows_request("users", users.keys[:1]))


def test_late_news_is_ignored(users: WrittenTable) -> None:
    shard = open_shard(users)
    shard.assign(5, Ring.even([1]), {})
    shard.assign(4, ONE_SHARD, {})
    with pytest.raises(NotOwner) as raised:
        shard.pull(rows_request("users", users.keys[:1]))
    assert raised.value.epoch == 5
    shard.assign(5, ONE_SHARD, {})
    assert shard.pull(rows_request("users", users.keys[:1])).found.tolist() == [1]


def test_a_version_opened_after_the_assignment_is_guarded_too(users: WrittenTable) -> None:
    shard = Shard(0)
    shard.assign(2, Ring.even([0, 1]), {(MODEL, "users"): ALL})
    shard.open(MODEL, VERSION, {"users": users.folder})
    assert shard.pull(rows_request("users", users.keys)).found.all()
    shard.assign(3, Ring.even([0, 1]), {})
    with pytest.raises(NotOwner):
        shard.pull(rows_request("users", users.keys))


def test_pulls_see_one_epoch_while_the_ring_changes(users: WrittenTable) -> None:
    """Ownership flips all the time: each answer is whole or NotOwner."""
    shard = open_shard(users)
    halves = Ring.even([0, 1])
    expected = users.rows.tobytes()
    stop = threading.Event()

    def flip() -> None:
        epoch = 2
        while not stop.is_set():
            shard.assign(epoch, halves if epoch % 2 else ONE_SHARD, {})
            epoch += 1

    flipping = threading.Thread(target=flip)
    flipping.start()
    outcomes = set()
    try:
        for _ in range(300):
            try:
                assert shard.pull(rows_request("users", users.keys)).values.tobytes() == expected
                outcomes.add("whole")
            except NotOwner as error:
                outcomes.add("odd epoch" if error.epoch % 2 else "wrong")
    finally:
        stop.set()
        flipping.join()
    assert "wrong" not in outcomes


# -- names and life ----------------------------------------------------------------------------------------------------


def test_unknown_names_are_named(users: WrittenTable) -> None:
    shard = open_shard(users)
    with pytest.raises(NotFound, match="model 'other', version 3 is not open on shard 0"):
        shard.pull(rows_request("users", users.keys, model="other"))
    with pytest.raises(NotFound, match="version 4 is not open"):
        shard.pull(rows_request("users", users.keys, version=4))
    with pytest.raises(NotFound, match=r"no table 'houses'; it has \['users'\]"):
        shard.pull(rows_request("houses", users.keys))


def test_opening_again_is_harmless_and_other_folders_are_refused(users: WrittenTable, items: WrittenTable) -> None:
    shard = open_shard(users)
    shard.pull(rows_request("users", users.keys))
    shard.open(MODEL, VERSION, {"users": users.folder})
    assert shard.statistics().tables[0].keys == len(users.keys)
    with pytest.raises(InvalidInput, match="version 3 is open already, from other folders"):
        shard.open(MODEL, VERSION, {"users": users.folder, "items": items.folder})


def test_a_version_opens_whole_or_not_at_all(users: WrittenTable, tmp_path: Path) -> None:
    shard = Shard(0)
    with pytest.raises(CorruptData, match="nowhere"):
        shard.open(MODEL, VERSION, {"users": users.folder, "nowhere": tmp_path / "nowhere"})
    with pytest.raises(NotFound):
        shard.pull(rows_request("users", users.keys))


def test_a_folder_with_another_table_is_refused(users: WrittenTable) -> None:
    with pytest.raises(CorruptData, match="holds the table 'users', where 'items' should be"):
        Shard(0).open(MODEL, VERSION, {"items": users.folder})


def test_versions_are_served_side_by_side_and_retired(users: WrittenTable, tmp_path: Path) -> None:
    newer = write_table(tmp_path / "users", seed=9)
    shard = open_shard(users)
    shard.open(MODEL, 4, {"users": newer.folder}, prefault=True)
    assert shard.pull(rows_request("users", newer.keys, version=4)).values.tobytes() == newer.rows.tobytes()
    assert shard.pull(rows_request("users", users.keys)).values.tobytes() == users.rows.tobytes()
    shard.retire(MODEL, VERSION)
    with pytest.raises(NotFound):
        shard.pull(rows_request("users", users.keys))
    with pytest.raises(NotFound):
        shard.retire(MODEL, VERSION)
    shard.prefault()
    assert shard.pull(rows_request("users", newer.keys, version=4)).found.all()
    assert "open: model/4" in repr(shard)


def test_retiring_takes_no_memory_from_under_a_pull(users: WrittenTable) -> None:
    shard = open_shard(users)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            shard.retire(MODEL, VERSION)
            shard.open(MODEL, VERSION, {"users": users.folder})

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(200):
            try:
                assert shard.pull(rows_request("users", users.keys)).values.tobytes() == users.rows.tobytes()
            except NotFound:
                continue
    finally:
        stop.set()
        churning.join()


def flip_a_row_byte(table: WrittenTable) -> None:
    path = table.folder / "rows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_finds_a_flipped_byte_at_opening(tmp_path: Path) -> None:
    table = write_table(tmp_path / "users")
    flip_a_row_byte(table)
    Shard(0).open(MODEL, VERSION, {"users": table.folder})
    with pytest.raises(CorruptData, match="damaged"):
        Shard(0).open(MODEL, VERSION, {"users": table.folder}, verify=True)


# -- range_pull --------------------------------------------------------------------------------------------------------


def range_request(begin: int = 0, end: int = SLOTS, cursor: int = 0, max_bytes: int = 1 << 20) -> RangePullRequest:
    return RangePullRequest(MODEL, VERSION, "users", begin, end, cursor, max_bytes)


@pytest.mark.parametrize("max_bytes", [0, 20, 1000, 1 << 30])
@pytest.mark.parametrize(("begin", "end"), [(0, SLOTS), (0, 1), (20_000, 40_000), (SLOTS - 1, SLOTS)])
def test_a_range_streams_every_row_once_in_order(users: WrittenTable, begin: int, end: int, max_bytes: int) -> None:
    shard = open_shard(users)
    request = range_request(begin, end, max_bytes=max_bytes)
    positions, rows = [], []
    while True:
        reply = shard.range_pull(request)
        assert reply.checksum == range_checksum(reply.positions, reply.rows)
        assert len(reply.positions) <= max(1, max_bytes // 20)
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
    assert np.concatenate(rows).tobytes() == users.rows[order].tobytes()


def test_a_streamed_range_is_a_table_for_another_shard(users: WrittenTable, tmp_path: Path) -> None:
    """What a shard that joins does: it holds only what it streamed, and does not make defaults of the rest."""
    begin, end = 10_000, 30_000
    source = open_shard(users)
    block = source.range_pull(range_request(begin, end))
    assert block.next_cursor == block.total_rows
    spec = Base.open(users.folder).spec
    with BaseWriter(tmp_path / "users", spec, block.total_rows, held=((begin, end),)) as writer:
        writer.append(block.positions, block.rows.reshape(-1, spec.row_bytes))
        writer.finish()
    target = Shard(1)
    target.open(MODEL, VERSION, {"users": tmp_path / "users"}, verify=True)
    target.assign(2, Ring.even([1]), {})
    slots = positions_of(users.keys) >> np.uint64(SLOT_SHIFT)
    held = users.keys[(slots >= begin) & (slots < end)]
    assert target.pull(rows_request("users", held)).values.tobytes() == users.reference.pull(held)[0].tobytes()
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
    with pytest.raises(CorruptData, match=r"rows \d+ to \d+ are damaged"):
        shard.range_pull(range_request(cursor=39_990, max_bytes=100_000))


def test_a_range_of_an_unknown_table_is_named(users: WrittenTable) -> None:
    with pytest.raises(NotFound, match="no table 'houses'"):
        open_shard(users).range_pull(replace(range_request(), table="houses"))


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_count_what_was_asked_and_owned(users: WrittenTable, items: WrittenTable) -> None:
    ring = Ring.even(range(4))
    shards = [open_shard(users, items, shard=shard, ring=ring) for shard in range(4)]
    statistics = [shard.statistics() for shard in shards]
    assert sum(each.slots for each in statistics) == SLOTS
    assert sum(each.tables[0].rows for each in statistics) == len(users.keys)
    assert sum(each.tables[1].bytes for each in statistics) == len(items.keys) * (16 * 4 + 8)
    mine = owned_keys(users.keys, ring, 2)
    for _ in range(2):
        shards[2].pull(rows_request("users", mine))
    with pytest.raises(NotOwner):
        shards[2].pull(rows_request("users", users.keys))
    unknown = owned_keys(np.arange(1000, dtype=np.uint64), ring, 2)
    shards[2].pull(rows_request("items", unknown))
    after = shards[2].statistics()
    assert (after.shard, after.epoch, after.requests) == (2, 1, 3)
    assert after.tables[0] == TableStatistics(
        MODEL, VERSION, "users", rows=len(mine), bytes=len(mine) * 28, keys=2 * len(mine), missing=0
    )
    assert (after.tables[1].keys, after.tables[1].missing) == (len(unknown), len(unknown))


def test_counts_outlive_a_new_epoch(users: WrittenTable) -> None:
    shard = open_shard(users)
    shard.pull(rows_request("users", users.keys))
    shard.assign(2, Ring.even([0, 1]), {})
    assert shard.statistics().tables[0].keys == len(users.keys)
    assert shard.statistics().tables[0].rows < len(users.keys)


def test_counts_are_exact_under_threads(users: WrittenTable) -> None:
    shard = open_shard(users)
    request = rows_request("users", np.concatenate([users.keys[:7], UNKNOWN]))
    threads = [threading.Thread(target=lambda: [shard.pull(request) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [table] = shard.statistics().tables
    assert (shard.statistics().requests, table.keys, table.missing) == (400, 4000, 1200)
