"""Plain pushes are taken in by one call: all is as if they had been taken in step by step, whatever comes between."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import LimitExceeded, RingpullError, StaleNumber, Unavailable
from ringpull.ps.hashing import positions_of
from ringpull.ps.live import commit
from ringpull.ps.live.commit import Answer, Commits
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.numbers import FORGET_AFTER_S, NAMELESS, Numbers, slots_of
from ringpull.ps.live.plain_push import MAX_BYTES, Taken, taken
from ringpull.ps.live.push_kernels import AT_ONCE
from ringpull.ps.live.record import LiveName
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.newer.segments import FIRST_BLOCK_BYTES, Reserved, Segments
from ringpull.ps.store.row_codec import encode
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.ps.live.pushing import EPOCH, LINEAGE
from tests.ps.tables import MODEL

NAME = LiveName(MODEL, LINEAGE, "users")
WRITER = 9
KEYS = np.arange(20_000, dtype=np.uint64)
"""Keys that have most slots."""
VECTORS = [(RowType.FLOAT32, 16), (RowType.FLOAT32, 5), (RowType.FLOAT16, 7), (RowType.BFLOAT16, 64), (RowType.INT8, 8)]


@pytest.fixture(autouse=True)
def same_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all sides begin with the same stamp."""
    monkeypatch.setattr(secrets, "randbelow", lambda below: 5)


class Side:
    """A live table in memory, and commits to it, with plain pushes or without."""

    def __init__(self, spec: TableSpec, *, plain: bool, log: Log | None = None) -> None:
        self.plain, self.log = plain, log
        self.now_s = 0.0
        self.taken = 0
        self.tables, self.numbers = LiveTables(0), Numbers()
        self.table = self.tables.made(NAME, spec.row_bytes)
        self.table.row_type = spec.row_type
        self.commits = Commits(
            self.tables,
            self.numbers,
            log,
            target=lambda _: self.table,
            epoch=lambda: EPOCH,
            renew=lambda *_: None,
            clock=lambda: self.now_s,
        )

    def commit(self, requests: Sequence[PushRequest], monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
        monkeypatch.setattr(commit, "taken", self._taken)
        return self.commits.commit(requests)

    def _taken(
        self, request: PushRequest, table: LiveTable, numbers: Numbers, stamp: int, now_s: float
    ) -> Taken | None:
        if not self.plain:
            return None
        made = taken(request, table, numbers, stamp, now_s)
        self.taken += made is not None
        return made

    def state(self) -> list[object]:
        positions = positions_of(KEYS)
        words = self.table.pushed.get(positions)
        there = words != 0
        gone = self.table.segments.is_gone(words[there])
        rows = self.table.segments.rows(words[there][~gone])
        assert isinstance(rows, np.ndarray)
        last = self.numbers.last(NAME, WRITER, slots_of(positions))
        stamps = self.table.segments.stamps(words[there])
        return [each.tolist() for each in (there, gone, rows, last, stamps)]


def push(
    keys: np.ndarray, values: np.ndarray, spec: TableSpec, number: int, *, writer: int = WRITER, remove: bool = False
) -> PushRequest:
    rows = np.empty(0, np.uint8) if remove else encode(values, spec).reshape(-1).view(np.uint8)
    return PushRequest(MODEL, "users", EPOCH, LINEAGE, writer, number, remove, positions_of(keys), rows)


def told(answer: Answer) -> object:
    return answer if isinstance(answer, PushReply) else (type(answer), str(answer))


@pytest.mark.parametrize(("row_type", "dim"), VECTORS)
def test_all_is_as_if_pushes_were_taken_in_step_by_step(
    row_type: RowType, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TableSpec(name="users", dim=dim, row_type=row_type)
    rng = np.random.default_rng(dim)
    sides = [Side(spec, plain=True), Side(spec, plain=False)]
    number = 1
    groups = [[push(KEYS, rng.random((len(KEYS), dim), np.float32), spec, number)]]
    for _ in range(60):
        group = []
        for _ in range(rng.integers(1, 4)):
            keys = rng.choice(KEYS, rng.integers(1, 400))  # some twice
            values = rng.random((len(keys), dim), np.float32)
            kind = rng.integers(0, 10)
            if kind == 0:
                values[rng.integers(len(keys)), rng.integers(dim)] = np.nan if row_type is not RowType.INT8 else 1
            number += kind not in (1, 2)  # a repetition, of other keys in part
            writer, its_number = (0, 0) if kind == 3 else (WRITER, max(1, number - 5 if kind == 4 else number))
            group.append(push(keys, values, spec, its_number, writer=writer, remove=bool(kind == 5)))
        groups.append(group)
    for group in groups:
        answers = [[told(each) for each in side.commit(group, monkeypatch)] for side in sides]
        assert answers[0] == answers[1]
    assert sides[0].state() == sides[1].state()
    if row_type is RowType.INT8:
        assert sides[0].taken == 0
    else:
        assert sides[0].taken > 20


def test_what_is_refused_leaves_numbers_and_memory_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(name="users", dim=16)
    side = Side(spec, plain=True)
    zeros = np.zeros((len(KEYS), 16), np.float32)
    side.commit([push(KEYS, zeros, spec, 5)], monkeypatch)
    before, used = side.state(), side.table.segments.arena_bytes
    bad = zeros[:9].copy()
    bad[8, 15] = np.inf
    for refused in (push(KEYS[:9], bad, spec, 6), push(KEYS[:9], zeros[:9], spec, 4)):
        assert not isinstance(side.commit([refused], monkeypatch)[0], PushReply)
    assert side.taken == 0
    assert (side.state(), side.table.segments.arena_bytes) == (before, used)
    assert isinstance(side.commit([push(KEYS[:9], zeros[:9] + 1, spec, 6)], monkeypatch)[0], PushReply)
    assert side.taken == 1


def test_a_push_that_its_block_has_no_room_for_or_that_is_large_is_taken_in_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = TableSpec(name="users", dim=16)
    side = Side(spec, plain=True)
    side.commit([push(KEYS, np.zeros((len(KEYS), 16), np.float32), spec, 1)], monkeypatch)
    side.table.segments.seal()  # The next block has its first size.
    count = MAX_BYTES // spec.row_bytes
    values = np.arange(count * 16, dtype=np.float32).reshape(count, 16)
    fits = FIRST_BLOCK_BYTES // (spec.row_bytes + 8) // count
    for number in range(2, fits + 4):
        values += 1
        assert isinstance(side.commit([push(KEYS[:count], values, spec, number)], monkeypatch)[0], PushReply)
    assert 0 < side.taken < fits + 2
    words = side.table.pushed.get(positions_of(KEYS[:count]))
    rows = side.table.segments.rows(words)
    assert isinstance(rows, np.ndarray)
    assert np.array_equal(rows.reshape(-1).view(np.float32), values.reshape(-1))
    before = side.taken
    more = np.zeros((count + 1, 16), np.float32)
    assert isinstance(side.commit([push(KEYS[: count + 1], more, spec, 99)], monkeypatch)[0], PushReply)
    assert side.taken == before


def test_a_push_of_many_keys_is_taken_in_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(name="users", dim=1, row_type=RowType.FLOAT16)
    side = Side(spec, plain=True)
    for number, count in enumerate((len(KEYS), AT_ONCE, AT_ONCE + 1), start=1):
        keys = np.arange(count, dtype=np.uint64)
        answers = side.commit([push(keys, np.ones((count, 1), np.float32), spec, number)], monkeypatch)
        assert isinstance(answers[0], PushReply)
    assert (AT_ONCE + 1) * spec.row_bytes <= MAX_BYTES
    assert side.taken == 1


@pytest.mark.parametrize("failing", ["log", "show"])
def test_slots_of_a_push_that_fails_get_back_the_numbers_they_had(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TableSpec(name="users", dim=16)
    sides = [
        Side(
            spec,
            plain=plain,
            log=Log.open(tmp_path / str(plain), shard=0, deployment="one", replay=lambda *_: None, durable=False),
        )
        for plain in (True, False)
    ]
    keys = np.concatenate([KEYS[:300], KEYS[:20]])  # some twice
    rows = np.random.default_rng(1).random((len(keys), 16), np.float32)

    def no_log(_: object) -> None:
        raise Unavailable("the log has no disk")

    def no_show(*_: object) -> None:
        raise LimitExceeded("a directory has no memory")

    for side in sides:
        assert side.log is not None
        side.commit([push(KEYS, np.zeros((len(KEYS), 16), np.float32), spec, 5)], monkeypatch)
        with monkeypatch.context() as broken:
            if failing == "log":
                broken.setattr(side.log, "append", no_log)
            else:
                broken.setattr(side.table, "show", no_show)
            assert isinstance(side.commit([push(keys, rows, spec, 7)], monkeypatch)[0], RingpullError)
    assert sides[0].taken == 1
    assert (sides[0].numbers.last(NAME, WRITER, slots_of(positions_of(KEYS))) == 5).all()
    assert sides[0].state() == sides[1].state()
    for number, applies in ((4, False), (7, True), (6, False)):
        answers = [side.commit([push(keys, rows, spec, number)], monkeypatch)[0] for side in sides]
        assert told(answers[0]) == told(answers[1])
        assert isinstance(answers[0], PushReply if applies else StaleNumber)
    assert sides[0].state() == sides[1].state()
    assert (sides[0].taken, sides[1].taken) == (2, 0)
    for side in sides:
        assert side.log is not None
        side.log.close()


def test_a_nameless_writer_that_pushes_plainly_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(name="users", dim=16)
    side = Side(spec, plain=True)
    rows = np.zeros((len(KEYS), 16), np.float32)
    side.commit([push(KEYS, rows, spec, 1, writer=NAMELESS | WRITER)], monkeypatch)
    side.now_s = FORGET_AFTER_S + 1
    side.commit([push(KEYS[:9], rows[:9], spec, 2, writer=NAMELESS | WRITER)], monkeypatch)
    assert side.taken == 1
    assert side.numbers.forget(FORGET_AFTER_S + 2) == 0
    assert side.numbers.forget(2 * FORGET_AFTER_S + 2) == 1


def test_a_push_that_there_is_no_memory_for_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(name="users", dim=16)
    side = Side(spec, plain=True)
    rows = np.zeros((len(KEYS), 16), np.float32)
    side.commit([push(KEYS, rows, spec, 1)], monkeypatch)

    def no_memory(_segments: Segments, _count: int) -> Reserved:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(Segments, "reserved", no_memory)
        group = [push(KEYS[:9], rows[:9], spec, 2), push(KEYS[:9], rows[:9], spec, 1, writer=WRITER + 1)]
        answers = side.commit(group, monkeypatch)
    assert isinstance(answers[0], LimitExceeded)
    assert isinstance(answers[1], PushReply)
    assert (side.numbers.last(NAME, WRITER, slots_of(positions_of(KEYS))) == 1).all()
    assert isinstance(side.commit([push(KEYS[:9], rows[:9], spec, 2)], monkeypatch)[0], PushReply)
    assert side.taken == 1


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("failing", [{1}, {2}, {3}, {1, 2}, {1, 3}, {2, 3}, {1, 2, 3}])
def test_what_cannot_be_shown_leaves_the_numbers_of_others_of_its_group(
    plain: bool, failing: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TableSpec(name="users", dim=1)
    side, shows = Side(spec, plain=plain), list[int]()
    side.commit([push(KEYS, np.zeros((len(KEYS), 1), np.float32), spec, 4)], monkeypatch)
    show = side.table.show

    def fails(positions: np.ndarray, words: np.ndarray, stamp: int) -> tuple[int, list[int]]:
        shows.append(stamp)
        if len(shows) in failing:
            raise LimitExceeded("no memory for a larger directory")
        return show(positions, words, stamp)

    def of(number: int) -> PushRequest:
        return push(KEYS[7:9], np.full((2, 1), number, np.float32), spec, number)

    monkeypatch.setattr(side.table, "show", fails)
    answers = side.commit([of(5), of(6), of(7)], monkeypatch)
    assert {place for place, each in enumerate(answers, 1) if isinstance(each, LimitExceeded)} == failing
    monkeypatch.setattr(side.table, "show", show)
    newest = max({1, 2, 3} - failing, default=0)
    for place in sorted(failing):
        (again,) = side.commit([of(4 + place)], monkeypatch)
        if place < newest:
            assert isinstance(again, StaleNumber), "a newer one has been acknowledged"
        else:
            assert isinstance(again, PushReply)
            assert (again.rows, again.repeated) == (2, 0)
    word = side.table.pushed.get(positions_of(KEYS[7:9]))
    rows = side.table.segments.rows(word)
    assert isinstance(rows, np.ndarray)
    assert rows.view(np.float32).ravel().tolist() == [7, 7]


def test_what_repeats_in_part_a_push_that_cannot_be_shown_fails_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(name="users", dim=1)
    side, shows = Side(spec, plain=False), list[int]()
    show = side.table.show

    def fails(positions: np.ndarray, words: np.ndarray, stamp: int) -> tuple[int, list[int]]:
        shows.append(stamp)
        if len(shows) == 1:
            raise LimitExceeded("no memory for a larger directory")
        return show(positions, words, stamp)

    def of(keys: np.ndarray, number: int = 5) -> PushRequest:
        return push(keys, np.full((len(keys), 1), number, np.float32), spec, number)

    monkeypatch.setattr(side.table, "show", fails)
    answers = side.commit([of(KEYS[7:8]), of(KEYS[7:9]), of(KEYS[3:4], 6)], monkeypatch)
    assert [type(each) for each in answers] == [LimitExceeded, LimitExceeded, PushReply]
    (again,) = side.commit([of(KEYS[7:9])], monkeypatch)
    assert isinstance(again, PushReply)
    assert (again.rows, again.repeated) == (2, 0)
