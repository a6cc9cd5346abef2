"""Plain pushes are taken in by one pass: all is as if they had been taken in step by step, whatever comes between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ringpull.ps.hashing import positions_of
from ringpull.ps.live import commit
from ringpull.ps.live.commit import Answer, Commits
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.numbers import Numbers, slots_of
from ringpull.ps.live.plain_push import MAX_BYTES, Taken, taken
from ringpull.ps.live.record import LiveName
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.newer.segments import FIRST_BLOCK_BYTES
from ringpull.ps.store.row_codec import encode
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from tests.ps.live.pushing import EPOCH, LINEAGE
from tests.ps.tables import MODEL

NAME = LiveName(MODEL, LINEAGE, "users")
WRITER = 9
KEYS = np.arange(20_000, dtype=np.uint64)
"""So many that they have most slots."""
VECTORS = [(RowType.FLOAT32, 16), (RowType.FLOAT32, 5), (RowType.FLOAT16, 7), (RowType.BFLOAT16, 64), (RowType.INT8, 8)]


class Side:
    """A live table in memory, and commits to it, with plain pushes or without."""

    def __init__(self, spec: TableSpec, *, plain: bool) -> None:
        self.plain = plain
        self.taken = 0
        self.tables, self.numbers = LiveTables(0), Numbers()
        self.table = self.tables.made(NAME, spec.row_bytes)
        self.table.row_type = spec.row_type
        self.commits = Commits(
            self.tables,
            self.numbers,
            None,
            target=lambda _: self.table,
            epoch=lambda: EPOCH,
            renew=lambda *_: None,
            clock=lambda: 0.0,
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
    assert (sides[0].taken > 20) is (row_type is not RowType.INT8)


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
