"""What cannot be read now is neither whole nor bad: quarantine and memory stay, and a check of it fails."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import NotFound, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.refusals import NotOpened, Refusals
from ringpull.ps.ring import SlotRange
from ringpull.ps.scrub import Scrubber
from ringpull.ps.shard import Shard
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.row_check import RowCheck
from ringpull.ps.transfer.throttle import Throttle
from tests.ps.damaging import byte_of_block, flip
from tests.ps.opened import ONE_SHARD, VERSIONS
from tests.ps.tables import MODEL, VERSION, WrittenTable, write_table

KEY = (MODEL, VERSION, "users")
NOT_TOLD = [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, below: Path, number: int) -> Iterator[None]:
    """Have the system refuse whatever is below a folder."""

    def refused(call: Any) -> Any:
        def refusing(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).is_relative_to(below):
                raise OSError(number, os.strerror(number), str(path))
            return call(path, *args, **kwargs)

        return refusing

    with monkeypatch.context() as patch:
        for module, name in ((os, "open"), (os, "stat"), (io, "open")):
            patch.setattr(module, name, refused(getattr(module, name)))
        yield


@pytest.mark.parametrize("number", NOT_TOLD)
@pytest.mark.parametrize("name", ["rows", "positions", "blocks", "position_blocks"])
def test_a_scrub_that_cannot_open_a_file_lifts_and_remembers_nothing(
    table: WrittenTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    memory = CheckedRows(tmp_path / "checked")
    damage = Damage(memory)
    shard = Shard(0, damage.known)
    scrub = Scrubber(shard, damage, memory)
    shard.open(MODEL, VERSION, {"users": table.folder})
    shard.assign(1, [ServedRanges(ONE_SHARD, {})], VERSIONS)
    base = shard.base(KEY)
    assert base is not None
    flip(table.folder / name, byte_of_block(base, 1) if name == "rows" else 12)
    scrub.round(Job())
    before = damage.known(base)
    assert before
    with failing(monkeypatch, table.folder, number):
        scrub.round(Job())
    assert damage.known(base) == before
    assert damage.counts.repaired == 0
    # The next process reads again what was bad, and does not serve it where it cannot.
    if name == "rows":
        again = Base.open(table.folder)
        with failing(monkeypatch, table.folder, number):
            assert Damage(memory).known(again) == before


@pytest.mark.parametrize("number", NOT_TOLD)
def test_a_check_that_cannot_read_fails_and_is_not_remembered(
    table: WrittenTable, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    base, memory = Base.open(table.folder), CheckedRows()
    check = RowCheck(memory, Throttle())
    with failing(monkeypatch, table.folder, number), pytest.raises(Unavailable, match="cannot be opened now"):
        check.check(base, [0, 1], Job())
    assert not memory.checked(base).any()


@pytest.mark.net
@pytest.mark.parametrize("number", NOT_TOLD)
@pytest.mark.parametrize("copied", [False, True], ids=["in place", "copied"])
def test_a_version_that_cannot_be_looked_at_holds_up_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool, number: int
) -> None:
    process = ShardProcess(0, data_dir=tmp_path / "data" if copied else None)
    placements = [
        VersionPlacement(
            MODEL,
            version,
            {"users": TablePlacement(str(folder), (SlotRange(0, SLOTS),), (), identity=Base.open(folder).identity)},
        )
        for version in (1, 2)
        for folder in [write_table(tmp_path / str(version) / "users", rows=30, dim=3, seed=version).folder]
    ]
    try:
        with failing(monkeypatch, tmp_path / "1", number), pytest.raises(NotOpened) as raised:
            process.prepare(placements)
        assert list(raised.value.errors) == [(MODEL, 1)]
        assert type(raised.value.errors[MODEL, 1]) is Unavailable
        assert process._shard.is_open(MODEL, 2)
        process.prepare(placements)
        assert process._shard.is_open(MODEL, 1)
    finally:
        process.stop()


def test_any_error_of_the_system_is_of_its_version() -> None:
    refusals = Refusals()
    with refusals.of("m", 1):
        raise PermissionError(errno.EACCES, "Permission denied", "/models/m/1")
    with refusals.of("m", 2):
        raise NotFound("not there")
    assert {name: type(error) for name, error in refusals.errors.items()} == {("m", 1): Unavailable, ("m", 2): NotFound}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_a_base_that_cannot_be_read_now_is_not_damaged(
    table: WrittenTable, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Or a shard would delete its own copy of it, and copy it anew."""
    with failing(monkeypatch, table.folder, number), pytest.raises(Unavailable, match="cannot be read"):
        Base.open(table.folder)
