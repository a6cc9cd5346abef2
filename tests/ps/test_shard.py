"""A shard's verbs against the reference, its guard of ownership and epoch, and what it refuses."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpull.ps.errors import CorruptData, InvalidInput, NotFound, NotOwner
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import Op
from ringpull.ps.ring import Ring
from ringpull.ps.shard import Shard
from ringpull.ps.spec import ALL, Pooling, Replicas
from ringpull.ps.store.base import Base
from ringpull.ps.wire.messages import DescribeRequest, TableStatistics
from tests.ps.opened import ONE_SHARD, VERSIONS, assign, flip_a_row_byte, open_shard, owned_keys, range_request
from tests.ps.tables import MODEL, VERSION, WrittenTable, pull_request, rows_request, write_table
from tests.reference import assert_close

UNKNOWN = np.array([1, 2, 2**64 - 1], np.uint64)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "items", rows=200, dim=16, seed=2)


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
    assign(shard, 7, ring)
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


rings = st.builds(
    lambda shards, ranks, leavers: Ring.even(shards, ranks).with_shards(set(shards) - leavers or set(shards)),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(1, 3),
    st.sets(st.integers(0, 6), max_size=3),
)


@pytest.mark.medium
@given(
    specs=st.lists(st.tuples(rings, st.sampled_from([1, 2, ALL])), max_size=3),
    shard=st.integers(0, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_answers_for_what_it_owns_in_any_of_its_specs(
    users: WrittenTable, specs: list[tuple[Ring, Replicas]], shard: int, seed: int
) -> None:
    opened = Shard(shard)
    opened.open(MODEL, VERSION, {"users": users.folder})
    opened.assign(1, [ServedRanges(ring, {(MODEL, "users"): replicas}) for ring, replicas in specs], VERSIONS)
    owned = np.zeros(SLOTS, bool)
    for ring, replicas in specs:
        owned |= ring.owned_mask(shard, replicas) == 1
    mine = owned[(positions_of(users.keys) >> np.uint64(SLOT_SHIFT)).astype(np.int64)]
    assert opened.owned(MODEL, "users").tolist() == owned.astype(int).tolist()
    assert opened.pull(rows_request("users", users.keys[mine])).values.tobytes() == users.rows[mine].tobytes()
    assert opened.statistics().tables[0].rows == mine.sum()
    if not mine.all():
        with pytest.raises(NotOwner):
            opened.pull(rows_request("users", users.keys[~mine][:1]))
    begin = int(np.random.default_rng(seed).integers(SLOTS))
    end = begin + 1 + int(np.argmin(np.append(owned[begin + 1 :], False)))
    stretch, describe = range_request(begin, end), DescribeRequest(MODEL, VERSION, "users", begin, end)
    if owned[begin]:
        assert opened.range_pull(stretch).total_rows == opened.describe(describe).rows
    else:
        with pytest.raises(NotOwner):
            opened.range_pull(stretch)
        with pytest.raises(NotOwner):
            opened.describe(describe)


def test_versions_that_are_not_named_are_retired(users: WrittenTable, tmp_path: Path) -> None:
    newer = write_table(tmp_path / "users", seed=9)
    shard = open_shard(users)
    shard.open(MODEL, 4, {"users": newer.folder})
    served_ranges = ServedRanges(ONE_SHARD, {})
    assert not shard.assign(0, [served_ranges], []), "late news retires nothing"
    assert shard.is_open(MODEL, VERSION)
    assert shard.assign(2, [served_ranges], [(MODEL, 4), (MODEL, 5)])
    with pytest.raises(NotFound):
        shard.pull(rows_request("users", users.keys))
    assert shard.pull(rows_request("users", newer.keys, version=4)).found.all()
    assert not shard.is_open(MODEL, 5)


def test_the_same_rows_from_another_base_keep_their_counts(users: WrittenTable, tmp_path: Path) -> None:
    shard = open_shard(users)
    shard.pull(rows_request("users", users.keys))
    shard.install(MODEL, VERSION, {"users": Base.open(users.folder)})
    shard.pull(rows_request("users", users.keys))
    assert shard.statistics().tables[0].keys == 2 * len(users.keys)


def test_late_news_is_ignored(users: WrittenTable) -> None:
    shard = open_shard(users)
    assign(shard, 5, Ring.even([1]))
    assign(shard, 4, ONE_SHARD)
    with pytest.raises(NotOwner) as raised:
        shard.pull(rows_request("users", users.keys[:1]))
    assert raised.value.epoch == 5
    assign(shard, 5, ONE_SHARD)
    assert shard.pull(rows_request("users", users.keys[:1])).found.tolist() == [1]


def test_a_version_opened_after_the_assignment_is_guarded_too(users: WrittenTable) -> None:
    shard = Shard(0)
    assign(shard, 2, Ring.even([0, 1]), {(MODEL, "users"): ALL})
    shard.open(MODEL, VERSION, {"users": users.folder})
    assert shard.pull(rows_request("users", users.keys)).found.all()
    assign(shard, 3, Ring.even([0, 1]))
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
            assign(shard, epoch, halves if epoch % 2 else ONE_SHARD)
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


def test_verify_finds_a_flipped_byte_at_opening(tmp_path: Path) -> None:
    table = write_table(tmp_path / "users")
    flip_a_row_byte(table)
    Shard(0).open(MODEL, VERSION, {"users": table.folder})
    with pytest.raises(CorruptData, match="damaged"):
        Shard(0).open(MODEL, VERSION, {"users": table.folder}, verify=True)


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
    assign(shard, 2, Ring.even([0, 1]))
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
