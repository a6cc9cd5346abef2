"""Rows that a publish brings are read before they are served: a shard's own, once, behind every pull."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import runs
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.store.block_check import block_bytes, blocks_with
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.row_check import MAX_STEPS, DamagedRows, RowCheck, wait_for_pulls
from ringpull.ps.transfer.throttle import Throttle
from tests.ps.damaging import byte_of_block, flip, zero
from tests.ps.tables import MODEL, VERSION, WrittenTable, write_table

pytestmark = pytest.mark.net

ALL_SLOTS = (SlotRange(0, SLOTS),)
ROW_BYTES = 320 * 4096 * 4
TWO = Ring.even([0, 1])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """A table of several blocks."""
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=320, dim=4096)


@pytest.fixture
def folder(written: WrittenTable, tmp_path: Path) -> Path:
    return shutil.copytree(written.folder, tmp_path / "users")


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[ShardProcess]:
    running = ShardProcess(0, checked=tmp_path / "checked-rows")
    yield running
    running.stop()


def published(*folders: Path, slots: tuple[SlotRange, ...] = ALL_SLOTS, check_rows: bool = True) -> VersionPlacement:
    tables = {folder.name: TablePlacement(str(folder), slots, ()) for folder in folders}
    return VersionPlacement(MODEL, VERSION, tables, check_rows=check_rows)


def read(actor: ShardProcess) -> int:
    """Return the bytes that the last `prepare` read, which are all that it had to."""
    heartbeat = actor.heartbeat()
    assert heartbeat.checked_bytes == heartbeat.bytes_to_check
    return heartbeat.checked_bytes


def opened_again(actor: ShardProcess, placement: VersionPlacement) -> int:
    """Let go of the version, prepare it once more, and return the bytes that were read."""
    actor.assign(actor.heartbeat().epoch + 1, [ServedRanges(Ring.even([0]), {})], [])
    actor.prepare([placement])
    return read(actor)


# -- in place ----------------------------------------------------------------------------------------------------------


def test_what_is_whole_is_read_once(actor: ShardProcess, folder: Path) -> None:
    actor.prepare([published(folder)])
    assert read(actor) == ROW_BYTES
    assert opened_again(actor, published(folder)) == 0
    os.utime(folder / "rows", ns=(1, 1))
    assert opened_again(actor, published(folder)) == ROW_BYTES


def test_it_is_remembered_by_the_next_process_and_by_another_shard(
    actor: ShardProcess, folder: Path, tmp_path: Path
) -> None:
    actor.prepare([published(folder)])
    for shard in (0, 1):
        other = ShardProcess(shard, checked=tmp_path / "checked-rows")
        other.prepare([published(folder)])
        assert read(other) == 0
        other.stop()


def test_a_shard_reads_its_own_ranges_only(actor: ShardProcess, folder: Path, tmp_path: Path) -> None:
    base = Base.open(folder)
    own = tuple(runs(TWO.owned_mask(0, 1)))
    blocks = blocks_with(base, own)
    [elsewhere, *_] = sorted(set(range(base.block_count)) - set(blocks))
    flip(folder / "rows", byte_of_block(base, elsewhere))
    actor.prepare([published(folder, slots=own)])
    assert read(actor) == sum(block_bytes(base, block) for block in blocks) < ROW_BYTES
    other = ShardProcess(1, checked=tmp_path / "checked-rows")
    with pytest.raises(CorruptData, match=f"{folder}/rows: block {elsewhere}, rows"):
        other.prepare([published(folder, slots=tuple(runs(TWO.owned_mask(1, 1))))])
    other.stop()


def zero_first_page(file: Path) -> None:
    zero(file, 0, 4096)


def flip_last(file: Path) -> None:
    flip(file, -1)


def flip_middle(file: Path) -> None:
    flip(file, file.stat().st_size // 2)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [zero_first_page, flip_last, flip_middle, cut])
@pytest.mark.parametrize("name", ["rows", "positions", "index", "blocks", "position_blocks", "header"])
def test_a_damaged_file_is_named_and_the_version_not_opened(
    actor: ShardProcess, folder: Path, tmp_path: Path, name: str, damage: object
) -> None:
    damage(folder / name)  # type: ignore[operator]
    whole = write_table(tmp_path / "items", rows=50, dim=3).folder
    with pytest.raises(CorruptData, match=f"{folder}/{name}"):
        actor.prepare([published(whole, folder)])
    actor.assign(1, [ServedRanges(Ring.even([0]), {})], [(MODEL, VERSION)])
    assert actor.statistics().tables == ()


def test_trusted_files_are_not_read(actor: ShardProcess, folder: Path) -> None:
    zero_first_page(folder / "rows")
    actor.prepare([published(folder, check_rows=False)])
    assert read(actor) == 0
    with pytest.raises(CorruptData, match="rows: block 0"):
        actor.prepare([published(folder)])  # open already, it is checked all the same


@pytest.mark.parametrize(
    ("row_type", "name"), [*((row_type, "rows") for row_type in RowType), (RowType.BYTES, "starts")]
)
@pytest.mark.parametrize("at", [0, -1])
def test_rows_of_every_type_are_checked_to_the_last_byte(tmp_path: Path, row_type: RowType, name: str, at: int) -> None:
    table = write_table(tmp_path / "users", rows=100, dim=7, row_type=row_type)
    check = RowCheck(CheckedRows(), Throttle())
    base = Base.open(table.folder)
    check.check(base, [0], Job())
    flip(table.folder / name, at)
    with pytest.raises(DamagedRows, match=f"{name}: block 0"):
        check.check(base, [0], Job())


# -- waiting for pulls -------------------------------------------------------------------------------------------------


def test_no_block_is_read_while_a_pull_is_in_flight(folder: Path) -> None:
    pulls = iter([True, True, False, False, True, False])
    asked: list[int] = []
    job = Job()

    def busy() -> bool:
        asked.append(job.checked_bytes)
        return next(pulls, False)

    base = Base.open(folder)
    check = RowCheck(CheckedRows(), Throttle(), busy)
    check.check(base, check.unchecked(base, ALL_SLOTS, job), job)
    one = block_bytes(base, 0)
    assert asked[:7] == [0, 0, 0, one, 2 * one, 2 * one, 3 * one]
    assert job.checked_bytes == job.bytes_to_check == ROW_BYTES


def test_it_comes_to_an_end_on_a_shard_that_always_has_pulls() -> None:
    asked: list[None] = []

    def busy() -> bool:
        asked.append(None)
        return True

    wait_for_pulls(busy, Job())
    assert len(asked) == MAX_STEPS


def test_a_pause_of_the_change_holds_it_and_a_cancel_ends_it(folder: Path, tmp_path: Path) -> None:
    throttle, job = Throttle(), Job()
    base, memory = Base.open(folder), CheckedRows(tmp_path / "checked")
    held = threading.Event()

    def busy() -> bool:
        if job.checked_bytes and not held.is_set():
            throttle.set(0)
            held.set()
        return False

    failed: list[Exception] = []

    def run() -> None:
        check = RowCheck(memory, throttle, busy)
        try:
            check.check(base, check.unchecked(base, ALL_SLOTS, job), job)
        except Unavailable as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    held.wait()
    job.cancel()
    thread.join()
    [error] = failed
    assert isinstance(error, Cancelled)
    assert job.checked_bytes == block_bytes(base, 0)
    assert memory.checked(base).nonzero()[0].tolist() == [0], "what was read is not read again"


def test_a_cancelled_prepare_opens_nothing(actor: ShardProcess, folder: Path) -> None:
    actor.throttle(0)
    failed: list[Exception] = []

    def run() -> None:
        try:
            actor.prepare([published(folder)])
        except Unavailable as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    while not actor.heartbeat().bytes_to_check:
        pass
    actor.cancel()
    thread.join()
    assert len(failed) == 1
    assert not actor._shard.is_open(MODEL, VERSION)
