"""Merging partials: order, first touch, means, empty bags, default vectors, and answers that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.ring import OwnedRange, Ring, SlotRange
from ringpull.ps.spec import Pooling
from ringpull.router.batch import Batch
from ringpull.router.lookup import Lookup, LookupResult
from ringpull.router.merge import Merge
from ringpull.router.partition import Part, partition
from ringpull.router.replicas import DOWN
from tests.router.cases import absent_keys

HALF = 1 << 15
RING = Ring((OwnedRange(SlotRange(0, HALF), (0,)), OwnedRange(SlotRange(HALF, 1 << 16), (1,))))


def by_shard() -> tuple[list[int], list[int]]:
    """Two keys of shard 0, and two of shard 1."""
    keys = np.arange(50, dtype=np.uint64)
    slots = positions_of(keys) >> np.uint64(SLOT_SHIFT)
    return keys[slots < HALF][:2].tolist(), keys[slots >= HALF][:2].tolist()


(A0, A1), (B0, B1) = by_shard()


def parts_of(batch: Batch, *, down: bool = False) -> list[Part]:
    waiting = np.array([DOWN, DOWN, DOWN] if down else [0, 0, DOWN])
    return partition(batch, np.ones(len(batch.tables), np.int64), 0, RING.owner_table(1), waiting)


def merged(
    lookup: Lookup, dim: int, *answers: list[float], missing: int = 0, found: list[list[int]] | None = None
) -> LookupResult:
    """Merge one look-up's partials, given per shard as flat values."""
    batch = Batch.of([lookup])
    merge = Merge(batch, np.array([dim]))
    for i, (part, values) in enumerate(zip(parts_of(batch), answers, strict=True)):
        flags = np.array([] if found is None else found[i], np.uint8)
        reply = PullReply(np.array(values, np.float32), np.array([missing], np.uint32), flags)
        part.check_reply(reply, np.array([dim]))
        merge.add(part, reply)
    (result,) = merge.results()
    return result


def bags(pooling: Pooling, *of: list[int]) -> Lookup:
    keys = np.array([key for bag in of for key in bag], np.uint64)
    return Lookup("t", pooling, keys, np.cumsum([0, *map(len, of)]))


def test_sums_add_up_and_missing_counts_too():
    result = merged(bags(Pooling.SUM, [A0, B0], [B1]), 2, [1, 2], [10, 20, 5, 6], missing=3)
    assert result.values.tolist() == [[11, 22], [5, 6]]
    assert (result.missing, result.lost, result.found) == (6, 0, None)


def test_means_are_divided_once_by_the_length_of_the_whole_bag():
    result = merged(bags(Pooling.MEAN, [A0, B0, B1, A0]), 1, [10], [2])
    assert result.values.tolist() == [[3]]


def test_maxima_never_meet_a_zero_that_no_row_has():
    result = merged(bags(Pooling.MAX, [A0, B0], [A1]), 2, [-3, -4, -9, -8], [-5, -1])
    assert result.values.tolist() == [[-3, -1], [-9, -8]]


@pytest.mark.parametrize("answers", [([np.nan, 1], [1, np.nan]), ([1, np.nan], [np.nan, 1])])
def test_a_nan_stays_in_a_maximum(answers):
    assert np.isnan(merged(bags(Pooling.MAX, [A0, B0]), 2, *answers).values).all()


@pytest.mark.parametrize("pooling", [Pooling.SUM, Pooling.MEAN, Pooling.MAX])
def test_empty_bags_are_zeros(pooling):
    result = merged(bags(pooling, [], [A0], []), 3, [-1, -2, -3])
    assert result.values.tolist() == [[0, 0, 0], [-1, -2, -3], [0, 0, 0]]


def test_rows_and_found_flags_come_in_the_order_of_keys():
    lookup = Lookup("t", Pooling.NONE, np.array([B0, A0, A1, B0], np.uint64))
    result = merged(lookup, 1, [7, 8], [1, 2], found=[[1, 0], [0, 1]])
    assert result.values.tolist() == [[1], [7], [8], [2]]
    assert result.found is not None
    assert result.found.dtype == np.bool_
    assert result.found.tolist() == [False, True, False, True]


def test_answers_may_be_read_only_views_of_a_receive_buffer():
    batch = Batch.of([bags(Pooling.SUM, [A0])])
    merge = Merge(batch, np.array([2]))
    (part,) = parts_of(batch)
    raw = np.array([1, 2], np.float32).tobytes()
    merge.add(part, PullReply(np.frombuffer(raw, np.float32), np.zeros(1, np.uint32), np.frombuffer(b"", np.uint8)))
    assert merge.results()[0].values.tolist() == [[1, 2]]


def test_results_belong_to_the_caller():
    result = merged(bags(Pooling.SUM, [A0]), 2, [1, 2])
    assert result.values.flags.writeable
    assert result.values.flags.c_contiguous


def test_lost_keys_are_default_vectors_and_not_missing():
    default = np.array([2, -1], np.float32)
    keys = np.array([A0, B0, A1], np.uint64)
    lookups = [
        Lookup("t", Pooling.SUM, keys, np.array([0, 2, 2, 3])),
        Lookup("t", Pooling.SUM, keys, np.array([0, 2, 2, 3]), np.array([1, 2, 4], np.float32)),
        Lookup("t", Pooling.MEAN, keys, np.array([0, 2, 2, 3])),
        Lookup("t", Pooling.MAX, keys, np.array([0, 2, 2, 3])),
        Lookup("t", Pooling.NONE, keys),
    ]
    batch = Batch.of(lookups)
    merge = Merge(batch, np.full(5, 2))
    (part,) = parts_of(batch, down=True)
    merge.add_lost(part, [default] * 5)
    results = merge.results()
    assert [result.values.tolist() for result in results] == [
        [[4, -2], [0, 0], [2, -1]],
        [[6, -3], [0, 0], [8, -4]],
        [[2, -1], [0, 0], [2, -1]],
        [[2, -1], [0, 0], [2, -1]],
        [[2, -1], [2, -1], [2, -1]],
    ]
    assert [(result.missing, result.lost) for result in results] == [(0, 3)] * 5
    assert [absent_keys(result) for result in results] == [sorted([(0, A0), (0, B0), (2, A1)])] * 4 + [[]]
    assert results[4].found is not None
    assert not results[4].found.any()


@pytest.mark.parametrize(("values", "missing", "found"), [(3, 1, 0), (4, 0, 0), (4, 1, 1), (0, 1, 0), (5, 1, 0)])
def test_answers_that_do_not_fit_are_refused(values, missing, found):
    batch = Batch.of([bags(Pooling.SUM, [A0], [A1])])
    (part,) = parts_of(batch)
    reply = PullReply(np.zeros(values, np.float32), np.zeros(missing, np.uint32), np.zeros(found, np.uint8))
    with pytest.raises(ProtocolError, match=r"shard 0 answered .* 4, 1 and 0 were due"):
        part.check_reply(reply, np.array([2]))


@pytest.mark.parametrize(
    "absent",
    [[0], [0, 0], [1, 0], [0, 1, 2], [0, 3], [2, 3], [0, 2**32 - 1]],
    ids=["too few", "twice", "descending", "too many", "beyond", "of rows", "far beyond"],
)
def test_absent_keys_that_do_not_fit_are_refused(absent):
    rows = Lookup("t", Pooling.NONE, np.array([A0], np.uint64))
    batch = Batch.of([bags(Pooling.SUM, [A0], [A1]), rows])
    (part,) = parts_of(batch)
    reply = PullReply(
        np.zeros(6, np.float32), np.array([2, 1], np.uint32), np.zeros(1, np.uint8), absent=np.array(absent, np.uint32)
    )
    part.check_reply(replace(reply, absent=np.array([0, 1], np.uint32)), np.array([2, 2]))
    with pytest.raises(ProtocolError, match="keys of bags as absent; they must be 2, ascending"):
        part.check_reply(reply, np.array([2, 2]))


def test_no_lookups_give_no_results():
    assert list(Merge(Batch.of([]), np.empty(0, np.int64)).results()) == []
