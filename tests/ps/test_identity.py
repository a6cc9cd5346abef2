"""What a version or a table is, whatever its number and path: another content is refused, and harms nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData, NotFound, OtherContent, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import text_of
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.refusals import NotOpened
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.store.base import Base
from ringpull.ps.transfer.stored_source import StoredSource
from ringpull.ps.wire.messages import DescribeRequest, RangePullRequest
from tests.ps.opened import ONE_SHARD
from tests.ps.tables import MODEL, VERSION, WrittenTable, rows_request, write_table

OLD, NEW = "00000000000000a1", "00000000000000b2"
EVERYTHING = SlotRange(0, SLOTS)


@pytest.fixture
def users(tmp_path: Path) -> WrittenTable:
    return write_table(tmp_path / "3" / "users", rows=200)


@pytest.fixture
def other(tmp_path: Path) -> WrittenTable:
    """Other rows under the same keys."""
    return write_table(tmp_path / "other" / "users", rows=200, seed=9)


def identity(table: WrittenTable) -> int:
    return Base.open(table.folder).identity


def opened(table: WrittenTable, version: str = OLD) -> Shard:
    shard = Shard(0)
    shard.open(MODEL, VERSION, {"users": table.folder}, identity=version, tables={"users": identity(table)})
    shard.assign(1, [ServedRanges(ONE_SHARD, {})], {(MODEL, VERSION): version})
    return shard


def rows_of(shard: Shard, table: WrittenTable, version: int = 0) -> np.ndarray:
    return pulled(shard, table.keys[:9], version).reshape(9, -1)


def pulled(shard: Shard, keys: np.ndarray, identity: int) -> np.ndarray:
    request = rows_request("users", keys)
    return shard.pull(type(request)(**{**fields(request), "identity": identity})).values


def fields(message: object) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__slots__}  # type: ignore[attr-defined]


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_a_pull_of_another_content_is_refused_and_says_what_to_do(users: WrittenTable) -> None:
    shard = opened(users)
    for asked in (int(OLD, 16), 0):
        np.testing.assert_array_equal(rows_of(shard, users, asked), users.rows[:9])
    with pytest.raises(OtherContent, match=f"{OLD}, the deployment serves {NEW}.; export under a new number"):
        rows_of(shard, users, int(NEW, 16))


def test_ranges_of_another_table_are_refused(users: WrittenTable, other: WrittenTable) -> None:
    shard, right, wrong = opened(users), identity(users), identity(other)
    assert shard.describe(DescribeRequest(MODEL, VERSION, "users", 0, SLOTS, right)).identity == right
    with pytest.raises(OtherContent, match=text_of(wrong)):
        shard.describe(DescribeRequest(MODEL, VERSION, "users", 0, SLOTS, wrong))
    with pytest.raises(OtherContent, match=text_of(wrong)):
        shard.range_pull(RangePullRequest(MODEL, VERSION, "users", 0, SLOTS, 0, 1000, wrong))


# -- what is opened ----------------------------------------------------------------------------------------------------


def test_files_of_another_content_are_not_opened(users: WrittenTable, other: WrittenTable) -> None:
    with pytest.raises(OtherContent, match=r"table users in .*other content now"):
        Shard(0).open(MODEL, VERSION, {"users": other.folder}, identity=OLD, tables={"users": identity(users)})


def test_the_header_alone_tells_another_content(users: WrittenTable, other: WrittenTable) -> None:
    """Who is told to open it again and again reads a few kilobytes each time, not all keys."""
    (other.folder / "positions").unlink()
    with pytest.raises(OtherContent):
        Base.open(other.folder, identity=identity(users))


def test_what_is_open_needs_no_file(users: WrittenTable, other: WrittenTable) -> None:
    """Neither its folder's absence nor other files in it matter to who serves."""
    shard, tables = opened(users), {"users": identity(users)}
    for replace_by in (None, other.folder):
        shutil.rmtree(users.folder)
        if replace_by is not None:
            shutil.copytree(replace_by, users.folder)
        shard.open(MODEL, VERSION, {"users": users.folder}, identity=OLD, tables=tables)
        np.testing.assert_array_equal(rows_of(shard, users, int(OLD, 16)), users.rows[:9])
        users.folder.mkdir(exist_ok=True)


def test_a_content_that_was_let_go_makes_room_for_the_next_of_its_number(
    users: WrittenTable, other: WrittenTable
) -> None:
    shard = opened(users)
    with pytest.raises(OtherContent):
        shard.open(MODEL, VERSION, {"users": users.folder}, identity=NEW, tables={"users": identity(other)})
    np.testing.assert_array_equal(rows_of(shard, users), users.rows[:9])
    shard.open(MODEL, VERSION, {"users": other.folder}, identity=NEW, tables={"users": identity(other)})
    np.testing.assert_array_equal(rows_of(shard, other, int(NEW, 16)), other.rows[:9])
    with pytest.raises(OtherContent):
        rows_of(shard, users, int(OLD, 16))


def test_an_assignment_names_the_content_and_another_one_is_closed(users: WrittenTable) -> None:
    shard = opened(users)
    shard.assign(2, [ServedRanges(ONE_SHARD, {})], {(MODEL, VERSION): OLD})
    assert shard.is_open(MODEL, VERSION)
    shard.assign(3, [ServedRanges(ONE_SHARD, {})], {(MODEL, VERSION): NEW})
    assert not shard.is_open(MODEL, VERSION)


# -- a shard's process -------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ShardProcess]]:
    started: list[ShardProcess] = []

    def start(data_dir: Path | None = None) -> ShardProcess:
        started.append(ShardProcess(0, metrics=False, data_dir=data_dir))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def placed(table: WrittenTable, number: int, version: str, content: WrittenTable | None = None) -> VersionPlacement:
    """A version of one table, in the folder of `table`, that has to have a content."""
    tables = {
        "users": TablePlacement(str(table.folder), (EVERYTHING,), (), identity=identity(content or table)),
    }
    return VersionPlacement(MODEL, number, tables, identity=version, folder=str(table.folder.parent))


def assigned(process: ShardProcess, *numbers: int) -> None:
    process.assign(1, [ServedRanges(Ring.even([0]), {})], {(MODEL, number): OLD for number in numbers})


@pytest.mark.net
@pytest.mark.medium
@pytest.mark.parametrize("copies", [False, True])
def test_a_version_that_is_another_holds_up_no_other_one(
    start: Callable[..., ShardProcess], users: WrittenTable, other: WrittenTable, tmp_path: Path, copies: bool
) -> None:
    """The shard serves what it can, says of the rest what is wrong, and opens it when the right files are back."""
    process = start(tmp_path / "data" if copies else None)
    wanted = [placed(other, 2, OLD, users), placed(users, VERSION, OLD)]
    with pytest.raises(NotOpened, match=r"model/2: .*other content now.*export under a new number") as caught:
        process.prepare(wanted)
    assert {name: type(error) for name, error in caught.value.errors.items()} == {(MODEL, 2): OtherContent}
    assigned(process, 2, VERSION)
    shard = process._shard
    np.testing.assert_array_equal(rows_of(shard, users), users.rows[:9])
    with pytest.raises(Unavailable, match=r"version 2 is not open on shard 0: .*other content now"):
        shard.pull(rows_request("users", users.keys[:9], version=2))
    [warning] = process.heartbeat().warnings
    assert warning.startswith("model/2 is not served: ")
    assert "export under a new number" in warning
    shutil.rmtree(other.folder)
    shutil.copytree(users.folder, other.folder)
    process.prepare(wanted)
    assert shard.pull(rows_request("users", users.keys[:9], version=2)).missing.tolist() == [0]
    assert process.heartbeat().warnings == ()


@pytest.mark.net
@pytest.mark.medium
@pytest.mark.parametrize("copies", [False, True])
def test_a_folder_that_is_gone_matters_only_to_who_has_nothing(
    start: Callable[..., ShardProcess], users: WrittenTable, tmp_path: Path, copies: bool
) -> None:
    process = start(tmp_path / "data" if copies else None)
    wanted = [placed(users, VERSION, OLD)]
    process.prepare(wanted)
    shutil.rmtree(users.folder)
    process.prepare(wanted)
    assigned(process, VERSION)
    np.testing.assert_array_equal(rows_of(process._shard, users), users.rows[:9])
    process.stop()
    again = start(tmp_path / "data" if copies else None)
    if copies:
        again.prepare(wanted)
        assigned(again, VERSION)
        np.testing.assert_array_equal(rows_of(again._shard, users), users.rows[:9])
    else:
        with pytest.raises(NotFound, match="cannot be opened on this machine"):
            again.prepare(wanted)


@pytest.mark.net
@pytest.mark.medium
def test_what_was_let_go_is_closed_where_the_next_content_cannot_be_opened(
    start: Callable[..., ShardProcess], users: WrittenTable, other: WrittenTable
) -> None:
    """Also where both versions have one manifest: then only their tables tell them apart."""
    process = start()
    process.prepare([placed(users, VERSION, OLD)])
    assigned(process, VERSION)
    with pytest.raises(OtherContent):
        process.prepare([placed(users, VERSION, OLD, other)])
    with pytest.raises(Unavailable, match="other content"):
        rows_of(process._shard, users, int(OLD, 16))


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["header", "index", "positions", "rows", "blocks", "position_blocks"])
def test_a_file_that_is_a_link_out_of_the_version_is_refused(users: WrittenTable, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (users.folder / name).rename(elsewhere)
    (users.folder / name).symlink_to(elsewhere)
    for read in (
        lambda: Base.open(users.folder),
        lambda: Base.open(users.folder, within=users.folder.parent),
        lambda: StoredSource(str(users.folder)).describe(EVERYTHING),
    ):
        with pytest.raises(CorruptData, match=rf"{name}: leads out of .*, to {elsewhere}; a version holds its own"):
            read()


def test_links_within_a_version_and_to_it_are_followed(users: WrittenTable, tmp_path: Path) -> None:
    """As git-sync and `releases/current` have them."""
    version = users.folder.parent
    (version / "data").mkdir()
    (users.folder / "rows").rename(version / "data" / "rows")
    (users.folder / "rows").symlink_to("../data/rows")
    (tmp_path / "current").symlink_to(version)
    through = tmp_path / "current" / "users"
    assert Base.open(through, within=tmp_path / "current").verify() == []
    assert StoredSource(str(through), within=str(tmp_path / "current")).describe(EVERYTHING).rows == len(users.keys)


def test_a_link_to_itself_is_damage(users: WrittenTable) -> None:
    (users.folder / "rows").unlink()
    (users.folder / "rows").symlink_to("rows")
    with pytest.raises(CorruptData, match="rows"):
        Base.open(users.folder)
