"""The scrub looks again and again at what is bad, at its rate, and at files that are exchanged or cut under it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from ringpull.ps.open_versions import TableKey
from ringpull.ps.placement import ServedRanges
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.block_check import as_bad
from tests.ps.damaging import flip, keys_of_block
from tests.ps.opened import ONE_SHARD, VERSIONS
from tests.ps.scrubbed import KEY, Scrubbed, without_position_blocks
from tests.ps.tables import WrittenTable, write_table


@pytest.mark.parametrize("name", ["blocks", "position_blocks"])
def test_checksums_that_were_cut_short_end_nothing(scrubbed: Scrubbed, name: str) -> None:
    """Through the map this was a SIGBUS. And bad rows are found all the same."""
    os.truncate(scrubbed.table.folder / name, 0)
    flip(scrubbed.table.folder / "rows", 1)
    scrubbed.round()
    assert scrubbed.answered().tolist() == (~keys_of_block(scrubbed.base, 0, scrubbed.table.keys)).tolist()
    [warning] = scrubbed.damage.warnings(scrubbed.shard)
    assert f"{scrubbed.table.folder / name} damaged, checksums only" in warning
    assert "1 damaged blocks" in warning


def test_no_position_is_read_through_the_map(scrubbed: Scrubbed) -> None:
    """Where a block begins and ends is in memory."""
    scrubbed.round()
    os.truncate(scrubbed.table.folder / "positions", 0)
    scrubbed.round()
    assert not scrubbed.answered().any()


def test_what_is_mended_is_answered_before_a_long_round_is_over(table: WrittenTable, tmp_path: Path) -> None:
    """Known damage of whichever table is due: a round of 500 GB takes most of a day."""
    long = write_table(tmp_path / "items", rows=320, dim=4096, seed=3)
    scrubbed = Scrubbed(table, tmp_path / "checked")
    scrubbed.shard.open("other", 1, {"items": long.folder})
    scrubbed.shard.assign(2, [ServedRanges(ONE_SHARD, {})], [*VERSIONS, ("other", 1)])
    flip(table.folder / "rows", 1)
    scrubbed.round()
    assert scrubbed.damage.blocks == 1
    asked: list[int] = []

    def busy() -> bool:
        """At the third block of the round, somebody mends the file; each block takes two seconds."""
        asked.append(scrubbed.damage.blocks)
        if len(asked) == 3:
            flip(table.folder / "rows", 1)
        scrubbed.clock.now_s += 2.0
        return False

    scrubbed.scrub._busy = busy
    scrubbed.round()
    assert asked[3:].index(0) <= 4, "blocks until it is answered for"
    # And when the last table of a round is damaged, that is looked at before the first one.
    flip(long.folder / "rows", 1)
    scrubbed.round()
    flip(long.folder / "rows", 1)
    asked.clear()
    scrubbed.round()
    assert asked[:2] == [1, 0]


def test_files_that_are_no_better_are_opened_once(scrubbed: Scrubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open them reads all of their keys."""
    rows = scrubbed.table.folder / "rows"
    flip(rows, 1)
    scrubbed.round()
    shutil.copy(rows, rows.with_name("still bad"))
    rows.with_name("still bad").replace(rows)
    opened: list[Path] = []
    real = Base.open

    def opening(folder: Path, **how: object) -> Base:
        opened.append(folder)
        return real(folder, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Base, "open", opening)
    for _ in range(3):
        scrubbed.round()
    assert len(opened) == 1
    flip(rows, 1)
    scrubbed.round()
    assert len(opened) == 2
    assert scrubbed.answered().all()


def test_good_files_that_are_links_within_the_version_are_served(table: WrittenTable, tmp_path: Path) -> None:
    """As they may be when the version is opened."""
    version = tmp_path / "version"
    folder = version / "users"
    shutil.copytree(table.folder, folder)
    scrubbed = Scrubbed(WrittenTable(folder, table.keys, table.rows, table.reference), tmp_path / "checked", version)
    flip(folder / "rows", 1)
    scrubbed.round()
    assert not scrubbed.answered().all()
    shutil.copy(table.folder / "rows", version / "rows")
    (folder / "link").symlink_to("../rows")
    (folder / "link").rename(folder / "rows")
    scrubbed.round()
    assert scrubbed.answered().all()


def test_a_table_that_cannot_be_repaired_holds_up_no_other_one(scrubbed: Scrubbed, tmp_path: Path) -> None:
    other = write_table(tmp_path / "items", rows=50, dim=3, seed=3)
    scrubbed.shard.open("other", 1, {"items": other.folder})
    scrubbed.shard.assign(2, [ServedRanges(ONE_SHARD, {})], [*VERSIONS, ("other", 1)])
    scrubbed.damage.copied = True
    flip(scrubbed.table.folder / "rows", 1)
    scrubbed.round()
    scrubbed.damage.repair_tried()
    assert not scrubbed.damage.wants_repair(scrubbed.shard)
    flip(other.folder / "rows", 1)
    scrubbed.round()
    assert scrubbed.damage.wants_repair(scrubbed.shard)


def test_of_two_that_find_damage_neither_undoes_what_the_other_found(scrubbed: Scrubbed) -> None:
    """One is the scrub, the other a prepare that checks rows: it comes between the reading and the quarantine."""
    base = scrubbed.base
    quarantine = scrubbed.shard.quarantine
    [first, second] = as_bad(base, 0), as_bad(base, 2)
    beside = threading.Thread(target=lambda: scrubbed.damage.add(scrubbed.shard, KEY, base, [second]))

    def quarantining(key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        if beside.ident is None:
            beside.start()
            beside.join(0.05)  # It waits for us, or has done its part by then.
        return quarantine(key, base, bad)

    scrubbed.shard.quarantine = quarantining  # type: ignore[method-assign]
    scrubbed.damage.note(scrubbed.shard, KEY, base, [("rows", 0)], [first])
    beside.join()
    assert {each.block for each in scrubbed.damage.known(base)} == {0, 2}
    bad = keys_of_block(base, 0, scrubbed.table.keys) | keys_of_block(base, 2, scrubbed.table.keys)
    assert scrubbed.answered().tolist() == (~bad).tolist()


def test_a_disk_that_dies_is_taken_in_a_few_times(tmp_path: Path) -> None:
    """Each time costs as much as there is bad by then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "BLOCK_BYTES", 4096)
        table = write_table(tmp_path / "users", rows=3200, dim=64)
    scrubbed = Scrubbed(table, tmp_path / "checked")
    (table.folder / "rows").write_bytes(b"")
    noted: list[int] = []
    quarantine = scrubbed.shard.quarantine

    def quarantining(key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        noted.append(len(bad))
        return quarantine(key, base, bad)

    scrubbed.shard.quarantine = quarantining  # type: ignore[method-assign]
    scrubbed.round()
    assert noted[0] == 1, "the first is refused at once"
    assert noted[-1] == scrubbed.base.block_count == 200
    assert len(noted) < 50


def test_keys_count_for_the_rate_too(tmp_path: Path) -> None:
    """Rows of four bytes have keys of eight."""
    table = write_table(tmp_path / "users", rows=3000, dim=1)
    scrubbed = Scrubbed(table, tmp_path / "checked")
    taken: list[int] = []
    scrubbed.scrub._throttle.take = lambda size, job: taken.append(size)  # type: ignore[method-assign]
    scrubbed.round()
    assert sum(taken) >= 3000 * (4 + 8)
    without_position_blocks(table.folder)
    scrubbed.start()
    scrubbed.scrub._throttle.take = lambda size, job: taken.append(size)  # type: ignore[method-assign]
    taken.clear()
    scrubbed.round()
    assert sum(taken) >= 3000 * (4 + 8 + 8)
