"""One range from several sources, some of which fail: what is written is right, and nobody is asked for it twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import ConnectionLost, CorruptData, NotFound, NotOwner, RingpullError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.fetch import Fetch, Fetcher, describe
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import Block, TableContent
from ringpull.ps.transfer.stored_source import StoredSource
from ringpull.ps.transfer.throttle import Throttle
from ringpull.ps.wire.messages import range_checksum
from tests.ps.tables import WrittenTable, write_table

SLOT_RANGE = SlotRange(1000, 60_000)
BLOCK_BYTES = 5000
Damage = Callable[[Block], Block]


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=3000, dim=8)


class Source:
    """A folder that counts what it gave, and fails or lies from some row on."""

    def __init__(
        self,
        folder: Path,
        *,
        fails_at: int | None = None,
        error: RingpullError | None = None,
        damage: Damage | None = None,
        other: dict[str, object] | None = None,
    ) -> None:
        self._folder = StoredSource(str(folder))
        self._fails_at = fails_at
        self._error = error
        self._damage = damage
        self._other = other or {}
        self.cursors: list[int] = []

    def describe(self, slots: SlotRange) -> TableContent:
        if self._error is not None and self._fails_at is None:
            raise self._error
        return replace(self._folder.describe(slots), **self._other)

    def read(self, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
        self.cursors.append(cursor)
        block = self._folder.read(slots, cursor, max_bytes)
        if self._fails_at is not None and cursor >= self._fails_at:
            if self._damage is not None:
                return self._damage(block)
            assert self._error is not None
            raise self._error
        return block


def fetched(tmp_path: Path, users: WrittenTable, *sources: Source, job: Job | None = None) -> Piece:
    base = Base.open(users.folder)
    piece = Piece.create(tmp_path / "piece-01000", SLOT_RANGE.begin, base.spec.row_bytes, base.identity)
    content = StoredSource(str(users.folder)).describe(SLOT_RANGE)
    with Fetcher(job or Job(), Throttle(), block_bytes=BLOCK_BYTES) as fetcher:
        fetcher.fetch(Fetch(SLOT_RANGE, sources, content), piece)
    return piece


def assert_whole(piece: Piece, users: WrittenTable) -> None:
    base = Base.open(users.folder)
    first, last = base.row_range(SLOT_RANGE.begin, SLOT_RANGE.end)
    parts = list(piece.read(SlotRange(0, SLOTS)))
    assert (
        np.concatenate([positions for positions, _ in parts]).tobytes() == base.positions_slice(first, last).tobytes()
    )
    assert b"".join(rows.tobytes() for _, rows in parts) == base.raw_rows(first, last).tobytes()
    assert (piece.until, piece.tail_rows) == (SLOT_RANGE.end, 0)


def test_one_source_gives_all(tmp_path: Path, users: WrittenTable) -> None:
    job, source = Job(), Source(users.folder)
    piece = fetched(tmp_path, users, source, job=job)
    assert_whole(piece, users)
    assert job.copied_bytes == piece.rows * (8 + 32)
    assert len(source.cursors) == -(-piece.rows // (BLOCK_BYTES // 32))


@pytest.mark.parametrize(
    "error", [ConnectionLost("gone"), NotOwner("not mine"), CorruptData("rows are damaged"), NotFound("no version")]
)
@pytest.mark.parametrize("fails_at", [None, 0, 900])
def test_the_next_source_goes_on_where_one_failed(
    tmp_path: Path, users: WrittenTable, error: RingpullError, fails_at: int | None
) -> None:
    first, second = Source(users.folder, fails_at=fails_at, error=error), Source(users.folder)
    piece = fetched(tmp_path, users, first, second)
    assert_whole(piece, users)
    answered = [cursor for cursor in first.cursors if fails_at is not None and cursor < fails_at]
    assert answered + second.cursors == sorted({*answered, *second.cursors}), "a block was copied twice"


def flip(block: Block) -> Block:
    rows = block.rows.copy()
    rows[7] ^= 1
    return replace(block, rows=rows)


def reverse(block: Block) -> Block:
    positions = block.positions[::-1]
    return replace(block, positions=positions, checksum=range_checksum(positions, block.rows))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "does not match its checksum"),
        (reverse, "do not ascend"),
        (lambda block: replace(block, next_cursor=block.next_cursor + 1), "goes on at"),
        (lambda block: replace(block, total_rows=7), "goes on at"),
    ],
)
def test_a_damaged_block_is_refused_and_another_source_asked(
    tmp_path: Path, users: WrittenTable, damage: Damage, told: str
) -> None:
    bad = Source(users.folder, fails_at=900, damage=damage)
    assert_whole(fetched(tmp_path, users, bad, Source(users.folder)), users)
    (tmp_path / "piece-01000").unlink()
    with pytest.raises(CorruptData, match=told):
        fetched(tmp_path, users, Source(users.folder, fails_at=900, damage=damage))


@pytest.mark.parametrize("other", [{"identity": 5}, {"rows": 3}])
def test_a_source_of_other_content_is_not_asked_for_rows(
    tmp_path: Path, users: WrittenTable, other: dict[str, object]
) -> None:
    stranger = Source(users.folder, other=other)
    assert_whole(fetched(tmp_path, users, stranger, Source(users.folder)), users)
    assert stranger.cursors == []


def test_without_a_source_that_can_the_reasons_are_told(tmp_path: Path, users: WrittenTable) -> None:
    gone = Source(users.folder, error=ConnectionLost("hung up"))
    damaged = Source(users.folder, error=CorruptData("rows are damaged"))
    with pytest.raises(Unavailable, match=r"table users: slots 1000 to 60000 .*: hung up; .*: rows are damaged"):
        fetched(tmp_path, users, gone, damaged)
    (tmp_path / "piece-01000").unlink()
    with pytest.raises(CorruptData, match="rows are damaged"):
        fetched(tmp_path, users, damaged)
    with pytest.raises(Unavailable, match="nobody to ask"):
        describe("users", SLOT_RANGE, [])
    assert describe("users", SLOT_RANGE, [gone, Source(users.folder)]).spec.name == "users"


def test_a_cancelled_job_asks_no_other_source(tmp_path: Path, users: WrittenTable) -> None:
    job = Job()

    def cancel(block: Block) -> Block:
        job.cancel()
        return block

    second = Source(users.folder)
    with pytest.raises(Cancelled):
        fetched(tmp_path, users, Source(users.folder, fails_at=300, damage=cancel), second, job=job)
    assert second.cursors == []
