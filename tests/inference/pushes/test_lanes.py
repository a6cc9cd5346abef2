"""Lanes: every row goes out once, in order for each key, however pushes are joined and cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ringpull.inference.client import lanes as client_lanes
from ringpull.inference.client.lanes import LANES, PIECES, Lanes, Outgoing
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import SLOT_SHIFT, keys_of_strings, positions_of


def rows_of(keys: np.ndarray, value: float) -> KeyedRows:
    return KeyedRows.of(keys, np.full((len(keys), 2), value, np.float32))


def test_a_small_push_goes_out_whole_while_nothing_is_out() -> None:
    lanes = Lanes()
    lanes.add("user", rows_of(np.arange(100), 1), 1)
    message = lanes.next()
    assert message is not None
    assert (len(message.keyed), message.lanes, message.number) == (100, tuple(range(LANES)), 1 * PIECES + PIECES - 1)
    lanes.add("user", rows_of(np.arange(50), 2), 2)
    lanes.add("user", rows_of(np.arange(50), 3), 3)
    assert lanes.next() is None
    assert lanes.acknowledged == 0
    lanes.done(message)
    assert lanes.acknowledged == 1
    joined = lanes.next()
    assert joined is not None
    assert (len(joined.keyed), joined.pushes, joined.number) == (100, (2, 3), 3 * PIECES + PIECES - 1)
    lanes.done(joined)
    assert lanes.idle
    assert (lanes.acknowledged, lanes.held_bytes) == (3, 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("whole", [True, False])
def test_rows_of_a_key_go_in_order_and_numbers_rise(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    lanes, out, sent = Lanes(whole=whole, piece_bytes=400), list[Outgoing](), list[Outgoing]()
    last: dict[tuple[str, int], tuple[int, float]] = {}
    given, value = 0, 0.0
    for step in range(200):
        if step < 120:
            table = str(rng.choice(["user", "item"]))
            keys = rng.integers(0, 50, int(rng.choice([1, 5, 200])))
            value += 1
            given += len(keys)
            lanes.add(table, rows_of(keys, value), step + 1)
        while (message := lanes.next()) is not None:
            busy = [lane for each in out for lane in each.lanes]
            assert not set(busy) & set(message.lanes)
            out.append(message)
        while out and (rng.random() < 0.7 or step >= 120):
            message = out.pop(int(rng.integers(len(out))))
            sent.append(message)
            lanes.done(message)
            if step < 120:
                break
            while (more := lanes.next()) is not None:
                out.append(more)
    assert lanes.idle
    assert not out
    assert (lanes.acknowledged, lanes.held_bytes) == (120, 0)
    assert sum(len(each.keyed) for each in sent) == given
    for message in sent:
        for key, row, slot in zip(message.keyed.keys, message.keyed.rows, message.keyed.slots(), strict=True):
            number, before = last.get((message.table, int(slot)), (0, 0.0))
            assert message.number >= number
            assert len(message.lanes) > 1 or slot % LANES == message.lanes[0]
            del before
            last[message.table, int(slot)] = (message.number, 0.0)
            seen = last.get((message.table, -1 - int(key)), (0, 0.0))[1]
            assert row[0] >= seen
            last[message.table, -1 - int(key)] = (0, float(row[0]))


def test_messages_that_are_out_have_numbers_of_their_own_at_each_slot() -> None:
    """An equal number means the same rows: else those of the second would be taken for a repetition."""
    lanes = Lanes(piece_bytes=300)
    lanes.add("user", rows_of(np.arange(2000) % 3, 1), 7)
    numbers: dict[int, list[int]] = {}
    while (message := lanes.next()) is not None:
        for slot in set(message.keyed.slots().tolist()):
            numbers.setdefault(slot, []).append(message.number)
        lanes.done(message)
    assert all(each == sorted(set(each)) for each in numbers.values())
    assert {each[-1] for each in numbers.values()} == {7 * PIECES + PIECES - 1}


@pytest.mark.parametrize("number", [0, 5, 4, -1, 1 << 62])
def test_a_number_that_does_not_rise_is_refused(number: int) -> None:
    lanes = Lanes(5)
    with pytest.raises(InvalidInput, match=f"number: is {number}"):
        lanes.add("user", rows_of(np.arange(3), 1), number)
    assert lanes.idle


def test_slots_are_those_of_the_ring() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2**63), 2**63 - 1, 500)
    texts = [f"user:{n}" for n in numbers]
    for keyed, keys in (
        (KeyedRows.of(numbers, None, remove=True), numbers.view(np.uint64)),
        (
            KeyedRows.of(numbers.astype(np.int32), None, remove=True),
            numbers.astype(np.int32).astype(np.int64).view("u8"),
        ),
        (KeyedRows.of(texts, None, remove=True), keys_of_strings(texts)),
    ):
        expected = (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(np.uint16)
        np.testing.assert_array_equal(keyed.slots(), expected)


def test_rows_of_bytes_are_cut_and_joined() -> None:
    rows = [bytes([place]) * place for place in range(9)]
    keyed = KeyedRows.of([f"k{place}" for place in range(9)], rows)
    some, slice_ = keyed.at(np.array([7, 0, 3])), keyed.at(slice(2, 5))
    joined = KeyedRows.joined([some, slice_])
    assert isinstance(joined.rows, BytesRows)
    assert list(joined.rows) == [rows[place] for place in (7, 0, 3, 2, 3, 4)]
    assert joined.keys.tolist() == ["k7", "k0", "k3", "k2", "k3", "k4"]


@pytest.mark.parametrize(
    ("keys", "rows", "remove", "message"),
    [
        ([1, 2], [[1.0]], False, "rows: 1 rows for 2 keys"),
        ([1], None, False, "rows: are missing"),
        ([1], [[1.0]], True, "remove takes the keys out"),
        ([1], [1.0], False, r"have the shape \(1,\)"),
        ([1], [["a"]], False, "they must be float32"),
        ([1, 2], [[1.0], [1.0, 2.0]], False, "vectors of one length"),
        ([1.5], [[1.0]], False, "keys: must be all integers"),
        ([1, "a"], [[1.0], [2.0]], False, "keys: must be all integers"),
        ({1, 2}, [[1.0], [2.0]], False, "keys: is a set, which has no order to put rows in"),
        (frozenset({1}), [[1.0]], False, "keys: is a frozenset, which"),
        ([1, 2], [b"x", [1.0]], False, "must be all bytes"),
        ([1, 2], [b"x", 5], False, "must be all bytes"),
        ([1, 2], [b"x", [1, 2]], False, "must be all bytes"),
        ([1, 2], [b"x", np.ones(2, np.uint8)], False, "must be all bytes"),
        ([1], np.ma.array([[1.0, 2.0]], mask=[[False, True]]), False, "rows: masks some"),
    ],
)
def test_keys_and_rows_that_do_not_fit_are_refused_by_name(keys, rows, remove, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        KeyedRows.of(keys, rows, remove=remove)


def test_remove_may_be_any_truth() -> None:
    assert KeyedRows.of([1, 2], None, remove=np.bool_(True)).rows is None  # type: ignore[arg-type]
    assert sorted(KeyedRows.of({1, 2}, None, remove=True).keys) == [1, 2]  # of which no order is asked
    with pytest.raises(InvalidInput, match="give one of both"):
        KeyedRows.of([1], [[1.0]], remove=np.bool_(True))  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", [False, True])
def test_messages_of_very_uneven_rows_are_of_bounded_bytes(monkeypatch: pytest.MonkeyPatch, texts: bool) -> None:
    """Large rows side by side among many small ones: cut by their number, all of them would be in one message."""
    monkeypatch.setattr(client_lanes, "UNEVEN", 4)
    sizes = [0] * 3_000 + [900] * 300 + [1] * 3_000
    keys = [f"k{place}" for place in range(len(sizes))] if texts else list(range(len(sizes)))
    lanes, out = Lanes(piece_bytes=4_000), list[Outgoing]()
    lanes.add("blobs", KeyedRows.of(keys, [b"x" * size for size in sizes]), 1)
    while (message := lanes.next()) is not None:
        assert message.keyed.nbytes <= 4_000 + 920
        out.append(message)
        lanes.done(message)
    assert lanes.idle
    assert sorted(key for each in out for key in each.keyed.keys.tolist()) == sorted(keys)
    assert {len(row) for each in out for row in each.keyed.rows or ()} == {0, 1, 900}


def test_long_keys_are_cut_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_lanes, "UNEVEN", 4)
    keys = [str(place) for place in range(1_000)] + [str(place) * 200 for place in range(100, 200)]
    lanes = Lanes(piece_bytes=2_000)
    lanes.add("user", KeyedRows.of(keys, np.ones((1_100, 2), np.float32)), 1)
    while (message := lanes.next()) is not None:
        assert message.keyed.nbytes <= 2_000 + 620
        lanes.done(message)
    assert lanes.idle


def test_uneven_rows_that_fit_are_cut_as_they_always_were() -> None:
    """By their number: a life that goes on under the numbers of an older build's has the same rows under each."""
    keys = np.arange(4_000)
    keyed = KeyedRows.of(keys, [b"x" * (900 if key < 300 else 1) for key in keys])
    lanes, out = Lanes(whole=False, piece_bytes=20_000), list[Outgoing]()
    lanes.add("blobs", keyed, 1)
    while (message := lanes.next()) is not None:
        out.append(message)
        lanes.done(message)
    for lane in range(LANES):
        own = keyed.at(np.flatnonzero(keyed.slots() % LANES == lane))
        count = -(-own.nbytes // 20_000)
        bounds = np.linspace(0, len(own), count + 1).astype(int)
        expected = [own.keys[begin:end].tolist() for begin, end in pairwise(bounds)]
        assert count > 1
        assert [each.keyed.keys.tolist() for each in out if each.lanes == (lane,)] == expected
