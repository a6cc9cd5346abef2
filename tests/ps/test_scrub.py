"""The scrub finds damage wherever it is, quarantines exactly that, and answers again when it is mended."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.damage import FIRST_RETRY_S
from ringpull.ps.errors import CorruptData, NotAnswered
from ringpull.ps.hashing import positions_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.ring import Ring
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.job import Cancelled, Job
from tests.ps.damaging import byte_of_block, flip, keys_of_block, zero
from tests.ps.opened import VERSIONS, range_request
from tests.ps.scrubbed import Scrubbed, without_position_blocks
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table

# -- found and quarantined ---------------------------------------------------------------------------------------------


def test_what_is_whole_is_answered(scrubbed: Scrubbed) -> None:
    scrubbed.round()
    assert scrubbed.base.block_count > 3
    assert scrubbed.answered().all()
    assert scrubbed.scrub.bytes == 320 * 4096 * 4
    assert (scrubbed.scrub.rounds, scrubbed.damage.counts.damaged, scrubbed.damage.blocks) == (1, 0, 0)
    assert scrubbed.damage.warnings(scrubbed.shard) == ()


@pytest.mark.parametrize("blocks", [[0], [-1], [2], [0, 1, 3]], ids=["first", "last", "middle", "several"])
def test_bad_rows_are_refused_and_all_others_answered(scrubbed: Scrubbed, blocks: list[int]) -> None:
    blocks = [block % scrubbed.base.block_count for block in blocks]
    for block in blocks:
        flip(scrubbed.table.folder / "rows", byte_of_block(scrubbed.base, block))
    scrubbed.round()
    bad = np.logical_or.reduce([keys_of_block(scrubbed.base, block, scrubbed.table.keys) for block in blocks])
    assert scrubbed.answered().tolist() == (~bad).tolist()
    assert scrubbed.damage.counts.damaged == scrubbed.damage.blocks == len(blocks)
    scrubbed.round()
    assert scrubbed.damage.counts.damaged == len(blocks)


@pytest.mark.parametrize("at", [0, -1], ids=["first byte", "last byte"])
@pytest.mark.parametrize(
    ("row_type", "name"), [*((row_type, "rows") for row_type in RowType), (RowType.BYTES, "starts")]
)
def test_a_byte_at_either_end_is_found_in_every_row_type(tmp_path: Path, row_type: RowType, name: str, at: int) -> None:
    table = write_table(tmp_path / "users", rows=300, dim=7, row_type=row_type)
    scrubbed = Scrubbed(table, tmp_path / "checked")
    scrubbed.round()
    assert scrubbed.answered().all()
    flip(table.folder / name, at)
    scrubbed.round()
    assert not scrubbed.answered().any()  # it is one block
    assert [each.file for each in scrubbed.damage.known(scrubbed.base)] == [name]
    flip(table.folder / name, at)
    scrubbed.round()
    assert scrubbed.answered().all()


def test_starts_that_were_written_over_lead_nobody_out_of_the_rows(tmp_path: Path) -> None:
    """Before the scrub comes by: the map has other numbers than those that were checked when it was opened."""
    scrubbed = Scrubbed(write_table(tmp_path / "users", rows=300, dim=7, row_type=RowType.BYTES), tmp_path / "checked")
    starts = scrubbed.table.folder / "starts"
    whole = starts.read_bytes()
    for number in (0, 2**64 - 1, 2**63, 1 << 40):
        with starts.open("r+b") as file:
            file.seek(8 * 10)
            file.write(number.to_bytes(8, "little") * 100)
        for key in scrubbed.table.keys:
            with suppress(NotAnswered):
                reply = scrubbed.shard.pull(rows_request("users", np.array([key])))
                assert reply.data.nbytes <= scrubbed.base.rows_bytes
    with starts.open("r+b") as file:
        file.write(whole)
    assert scrubbed.answered().all()


def test_zeros_in_the_first_page_are_found(scrubbed: Scrubbed) -> None:
    zero(scrubbed.table.folder / "rows", 0, 4096)
    scrubbed.round()
    assert scrubbed.answered().tolist() == (~keys_of_block(scrubbed.base, 0, scrubbed.table.keys)).tolist()


def test_a_file_that_was_cut_short_is_damage_and_ends_nothing(scrubbed: Scrubbed) -> None:
    size = (scrubbed.table.folder / "rows").stat().st_size
    os.truncate(scrubbed.table.folder / "rows", size - 5)
    scrubbed.round()
    last = scrubbed.base.block_count - 1
    assert scrubbed.answered().tolist() == (~keys_of_block(scrubbed.base, last, scrubbed.table.keys)).tolist()


@pytest.mark.parametrize("earlier_build", [False, True])
def test_bad_positions_are_refused(scrubbed: Scrubbed, tmp_path: Path, earlier_build: bool) -> None:
    if earlier_build:
        without_position_blocks(scrubbed.table.folder)
        scrubbed.start()
    scrubbed.round()
    assert scrubbed.answered().all()
    base, keys = scrubbed.base, scrubbed.table.keys
    first = int(base.sections.blocks[1, 0])
    flip(scrubbed.table.folder / "positions", 8 * (first + 3))
    scrubbed.round()
    answered = scrubbed.answered()
    assert not answered[keys_of_block(base, 1, keys)].any()
    assert answered[~(keys_of_block(base, 0, keys) | keys_of_block(base, 1, keys) | keys_of_block(base, 2, keys))].all()
    with pytest.raises(CorruptData, match="keys are damaged"):
        scrubbed.shard.range_pull(range_request())


def test_positions_of_an_earlier_build_that_are_bad_from_the_start_close_the_table(
    scrubbed: Scrubbed, tmp_path: Path
) -> None:
    """It has one checksum for all of them, so nobody can tell which are bad."""
    without_position_blocks(scrubbed.table.folder)
    scrubbed.start()
    flip(scrubbed.table.folder / "positions", 20)
    scrubbed.round()
    assert not scrubbed.answered().any()
    flip(scrubbed.table.folder / "positions", 20)
    scrubbed.round()
    assert scrubbed.answered().all()


@pytest.mark.parametrize("entry", [0, 1, -2, -1])
def test_a_bad_index_entry_is_refused(tmp_path: Path, entry: int) -> None:
    table = write_table(tmp_path / "users", rows=3000, dim=300)
    scrubbed = Scrubbed(table, tmp_path / "checked")
    scrubbed.round()
    width = scrubbed.base.sections.index.itemsize
    buckets = 1 << scrubbed.base.index_bits
    entry %= buckets + 1
    # Its highest byte: a kernel that followed it would leave the map.
    flip(table.folder / "index", width * entry + width - 1)
    scrubbed.round()
    bucket = positions_of(table.keys) >> np.uint64(64 - scrubbed.base.index_bits)
    beside = (bucket == entry) | (bucket + 1 == entry)
    assert not scrubbed.answered()[beside].any()
    assert scrubbed.answered().mean() > 0.9


@pytest.mark.parametrize("name", ["blocks", "position_blocks"])
def test_damaged_checksums_are_told_and_close_nothing(scrubbed: Scrubbed, name: str) -> None:
    flip(scrubbed.table.folder / name, 12)
    scrubbed.round()
    [warning] = scrubbed.damage.warnings(scrubbed.shard)
    assert str(scrubbed.table.folder / name) in warning
    assert scrubbed.answered().all()
    flip(scrubbed.table.folder / name, 12)
    scrubbed.round()
    assert scrubbed.damage.warnings(scrubbed.shard) == ()


def test_only_what_is_served_is_read(table: WrittenTable, tmp_path: Path) -> None:
    scrubbed = Scrubbed(table, tmp_path / "checked", ring=Ring.even([0, 1, 2, 3]))
    own = scrubbed.ring.owned_mask(0, 1)
    last = scrubbed.base.block_count - 1
    assert not own[int(scrubbed.base.sections.positions[-1]) >> 48]
    flip(table.folder / "rows", byte_of_block(scrubbed.base, last))
    scrubbed.round()
    assert scrubbed.damage.blocks == 0
    assert 0 < scrubbed.scrub.bytes < 320 * 4096 * 4


# -- mended ------------------------------------------------------------------------------------------------------------


def test_rows_that_are_written_back_are_answered_again(scrubbed: Scrubbed) -> None:
    at = byte_of_block(scrubbed.base, 1)
    for _ in range(2):
        flip(scrubbed.table.folder / "rows", at)
        scrubbed.round()
    assert scrubbed.answered().all()
    assert (scrubbed.damage.counts.damaged, scrubbed.damage.counts.repaired, scrubbed.damage.blocks) == (1, 1, 0)


def test_a_good_file_moved_into_the_place_of_a_bad_one_is_served(scrubbed: Scrubbed, written: WrittenTable) -> None:
    rows = scrubbed.table.folder / "rows"
    flip(rows, 1)
    scrubbed.round()
    assert not scrubbed.answered().all()
    shutil.copy(rows, rows.with_name("still bad"))
    rows.with_name("still bad").replace(rows)
    scrubbed.round()
    assert not scrubbed.answered().all()
    shutil.copy(written.folder / "rows", rows.with_name("good"))
    rows.with_name("good").replace(rows)
    scrubbed.round()
    assert scrubbed.served() is not scrubbed.base
    assert scrubbed.answered().all()
    assert (scrubbed.damage.counts.repaired, scrubbed.damage.blocks) == (1, 0)


def test_another_export_in_its_place_is_not_served(scrubbed: Scrubbed, tmp_path: Path) -> None:
    flip(scrubbed.table.folder / "rows", 1)
    scrubbed.round()
    other = write_table(tmp_path / "other" / "users", rows=320, dim=4096, seed=2)
    for file in other.folder.iterdir():
        file.replace(scrubbed.table.folder / file.name)
    scrubbed.round()
    assert scrubbed.served() is scrubbed.base
    assert scrubbed.damage.blocks == 1


# -- what happens meanwhile --------------------------------------------------------------------------------------------


def test_quarantine_stays_when_ranges_change(scrubbed: Scrubbed) -> None:
    flip(scrubbed.table.folder / "rows", byte_of_block(scrubbed.base, 1))
    scrubbed.round()
    refused = scrubbed.answered().tolist()
    scrubbed.shard.assign(2, [ServedRanges(Ring.even([0]), {})], VERSIONS)
    assert scrubbed.answered().tolist() == refused
    scrubbed.shard.install(MODEL, VERSION, {"users": scrubbed.base})
    assert scrubbed.answered().tolist() == refused


def test_damage_outlives_the_process(scrubbed: Scrubbed) -> None:
    """Before the first round of the next one, nothing of it is answered."""
    at = byte_of_block(scrubbed.base, 2)
    flip(scrubbed.table.folder / "rows", at)
    scrubbed.round()
    refused = scrubbed.answered().tolist()
    assert not all(refused)
    scrubbed.start()
    assert scrubbed.answered().tolist() == refused
    flip(scrubbed.table.folder / "rows", at)
    scrubbed.start()
    assert scrubbed.answered().all()


@pytest.mark.parametrize("what", ["retired", "replaced"])
def test_a_table_that_goes_during_a_round_is_unmapped_and_left(scrubbed: Scrubbed, what: str) -> None:
    asked = []

    def busy() -> bool:
        if not asked:
            if what == "retired":
                scrubbed.shard.retire(MODEL, VERSION)
            else:
                scrubbed.shard.install(MODEL, VERSION, {"users": Base.open(scrubbed.table.folder)})
            scrubbed.base = None  # type: ignore[assignment]
            asked.append(maps_of(scrubbed.table.folder))
        return False

    scrubbed.scrub._busy = busy
    assert maps_of(scrubbed.table.folder) == 3
    scrubbed.round()
    assert asked == [0 if what == "retired" else 3], "while it waits, it keeps nothing mapped"
    assert scrubbed.scrub.bytes == 0


def maps_of(folder: Path) -> int:
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_it_waits_for_pulls_and_comes_to_an_end(scrubbed: Scrubbed) -> None:
    asked: list[int] = []
    pulls = iter([True] * 7)

    def busy() -> bool:
        asked.append(scrubbed.scrub.bytes)
        return next(pulls, False)

    scrubbed.scrub._busy = busy
    scrubbed.round()
    assert asked[:8] == [0] * 8, "nothing is read before the pulls are over"
    assert len(set(asked)) == scrubbed.base.block_count, "and it asks before each block"
    scrubbed.busy = True
    scrubbed.scrub._busy = lambda: scrubbed.busy
    scrubbed.table = write_small(scrubbed)
    scrubbed.start()
    scrubbed.round()
    assert scrubbed.scrub.rounds == 1


def write_small(scrubbed: Scrubbed) -> WrittenTable:
    return write_table(scrubbed.table.folder.parent / "small" / "users", rows=50, dim=3)


def test_it_stops_within_a_round(scrubbed: Scrubbed) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        scrubbed.scrub.round(job)
    scrubbed.scrub.start()
    scrubbed.scrub.stop()
    scrubbed.scrub.stop()


def test_warnings_say_what_answers_and_what_repairs(table: WrittenTable, tmp_path: Path) -> None:
    scrubbed = Scrubbed(table, tmp_path / "checked")
    flip(table.folder / "rows", 1)
    scrubbed.round()
    [warning] = scrubbed.damage.warnings(scrubbed.shard)
    where = f"slots 58 to 12842, in {table.folder}/rows"
    for part in ("table model/3/users", "1 damaged blocks", where, "UNAVAILABLE", "move a good file"):
        assert part in warning
    scrubbed.shard.assign(2, [ServedRanges(Ring.even([0, 1], 2), {(MODEL, "users"): 2})], VERSIONS)
    [warning] = scrubbed.damage.warnings(scrubbed.shard)
    assert "other shards' copies answer" in warning
    # Two are wanted, and there is one shard.
    for wanted in (2, "all"):
        scrubbed.shard.assign(3, [ServedRanges(Ring.even([0], 2), {(MODEL, "users"): wanted})], VERSIONS)
        assert "UNAVAILABLE" in scrubbed.damage.warnings(scrubbed.shard)[0]


def test_copies_ask_to_be_copied_anew_less_and_less_often(scrubbed: Scrubbed) -> None:
    scrubbed.damage.copied = True
    assert not scrubbed.damage.wants_repair(scrubbed.shard)
    flip(scrubbed.table.folder / "rows", 1)
    scrubbed.round()
    wait_s = FIRST_RETRY_S
    for _ in range(3):
        assert scrubbed.damage.wants_repair(scrubbed.shard)
        scrubbed.damage.repair_tried()
        scrubbed.clock.now_s += wait_s * 0.99
        assert not scrubbed.damage.wants_repair(scrubbed.shard)
        scrubbed.clock.now_s += wait_s * 0.02
        wait_s *= 2
    scrubbed.damage.copied = False
    assert not scrubbed.damage.wants_repair(scrubbed.shard)
