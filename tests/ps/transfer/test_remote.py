"""Tables at URLs: shards read just their ranges of them, check every byte, and go on where they were interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import CorruptData, InvalidInput, LimitExceeded, NotFound, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.slot_mask import mask_of
from ringpull.ps.spec import RowType
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.format import Header
from ringpull.ps.store.raw_rows import flat
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.remote import RemoteFolder, as_path, is_url
from ringpull.ps.transfer.stored_source import READ_BYTES, StoredSource
from ringpull.ps.transfer.stored_table import StoredTable
from tests.object_store import S3
from tests.ps.tables import MODEL, VERSION, WrittenTable, write_table
from tests.ps.transfer.placements import assert_holds, at, copied_bytes, owned_slots
from tests.ps.transfer.shards import Crew

pytestmark = pytest.mark.net

ROOT = Path(__file__).parents[3]
TWO = Ring.even([0, 1])
EVERYTHING = SlotRange(0, SLOTS)
FINE_BLOCK_BYTES = 4000
"""Of stored blocks, so that small tables have many."""
URL = f"s3://models/{MODEL}/{VERSION}"


@pytest.fixture(scope="module", params=[RowType.INT8, RowType.BYTES])
def fine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> WrittenTable:
    """A table of many blocks, also at memory://fine/users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "BLOCK_BYTES", FINE_BLOCK_BYTES)
        table = write_table(tmp_path_factory.mktemp("fine") / "users", rows=20_000, dim=7, row_type=request.param)
    assert Base.open(table.folder).block_count > 50
    in_memory(table.folder, "fine/users")
    return table


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """A table of three reads, 25 MB."""
    return write_table(tmp_path_factory.mktemp("large") / "users", rows=48_000, dim=128)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path) as made:
        yield made


def in_memory(folder: Path, name: str) -> str:
    """Copy a table's files to memory://; return their URL."""
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"


def streamed(source: StoredSource, slots: SlotRange, max_bytes: int, begin: int = 0) -> tuple[bytes, bytes]:
    """Read a range from row `begin` of it to its end; return positions and rows."""
    positions, rows, cursor = b"", b"", begin
    while cursor < source.describe(slots).rows:
        block = source.read(slots, cursor, max_bytes)
        assert len(block.positions) == block.next_cursor - cursor > 0
        positions, rows, cursor = positions + block.positions.tobytes(), rows + block.rows.tobytes(), block.next_cursor
    return positions, rows


def expected(table: WrittenTable, slots: SlotRange, begin: int = 0) -> tuple[bytes, bytes]:
    base = Base.open(table.folder)
    first, last = base.row_range(slots.begin, slots.end)
    return base.positions_slice(first + begin, last).tobytes(), flat(base.raw_rows(first + begin, last)).tobytes()


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("scheme", ["path", "file", "memory", "s3"])
def test_one_reader_for_paths_and_urls(fine: WrittenTable, request: pytest.FixtureRequest, scheme: str) -> None:
    where = {
        "path": lambda: str(fine.folder),
        "file": lambda: f"file://{fine.folder}",
        "memory": lambda: "memory://fine/users",
        "s3": lambda: request.getfixturevalue("s3").put(fine.folder, f"{MODEL}/fine/users"),
    }[scheme]()
    assert is_url(where) is (scheme in ("memory", "s3"))
    source = StoredSource(where)
    base = Base.open(fine.folder)
    assert source.identity() == base.identity
    content = source.describe(EVERYTHING)
    assert (content.spec, content.identity, content.rows) == (base.spec, base.identity, base.rows)
    assert content.stored_bytes == base.rows_bytes
    assert streamed(source, EVERYTHING, 1 << 20) == expected(fine, EVERYTHING)
    slots = SlotRange(3000, 20_000)
    assert streamed(StoredSource(where, read_bytes=1), slots, 3000) == expected(fine, slots)


@pytest.mark.medium
@settings(max_examples=60)
@given(st.data())
def test_any_range_from_any_row_in_steps_of_any_size(fine: WrittenTable, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, SLOTS - 1))
    slots = SlotRange(begin, data.draw(st.integers(begin + 1, SLOTS)))
    source = StoredSource("memory://fine/users", read_bytes=data.draw(st.integers(1, 50_000)))
    content = source.describe(slots)
    assert content.stored_bytes == len(expected(fine, slots)[1])
    first_row = data.draw(st.integers(0, content.rows))
    max_bytes = data.draw(st.integers(500, 50_000))
    assert streamed(source, slots, max_bytes, first_row) == expected(fine, slots, first_row)


def test_a_cursor_beyond_the_range_is_refused(fine: WrittenTable) -> None:
    source = StoredSource("memory://fine/users")
    rows = source.describe(EVERYTHING).rows
    assert len(source.read(EVERYTHING, rows, 1000).positions) == 0
    with pytest.raises(InvalidInput, match=f"the cursor is {rows + 1}; the range has {rows} rows"):
        source.read(EVERYTHING, rows + 1, 1000)


def test_an_empty_table(tmp_path: Path) -> None:
    table = write_table(tmp_path / "users", rows=0)
    source = StoredSource(in_memory(table.folder, "empty/users"))
    assert source.describe(EVERYTHING).rows == 0
    assert len(source.read(EVERYTHING, 0, 1000).positions) == 0


def test_a_table_of_an_earlier_build_is_read_after_all_its_positions_were(fine: WrittenTable) -> None:
    header = Header.from_bytes((fine.folder / fmt.HEADER).read_bytes(), "header")
    sections = {name: section for name, section in header.sections.items() if name != fmt.POSITION_BLOCKS}
    url = in_memory(fine.folder, "earlier/users")
    files = fsspec.filesystem("memory")
    files.pipe_file("/earlier/users/header", replace(header, sections=sections).to_bytes())
    files.rm_file("/earlier/users/position_blocks")
    slots = SlotRange(100, 30_000)
    assert streamed(StoredSource(url), slots, 5000) == expected(fine, slots)
    positions = bytearray(files.cat_file("/earlier/users/positions"))
    positions[8 * 19_000] ^= 1
    files.pipe_file("/earlier/users/positions", bytes(positions))
    with pytest.raises(CorruptData, match="earlier/users/positions: the checksum does not match"):
        StoredSource(url).describe(slots)


@pytest.mark.medium
def test_only_the_ranges_of_a_shard_are_fetched(crew: Crew, s3: S3, large: WrittenTable) -> None:
    s3.put(large.folder, f"{MODEL}/{VERSION}/users")
    member, mine = crew.add(0), owned_slots(TWO, 0)
    member.prepare(at(URL, mine))
    mask = TWO.owned_mask(0, 1)
    assert_holds(member.base(), large, mask)
    base = Base.open(large.folder)
    owned_rows = sum(last - first for first, last in (base.row_range(slots.begin, slots.end) for slots in mine))
    edges = 2 * len(mine) * 2 * fmt.BLOCK_BYTES
    assert owned_rows * base.spec.row_bytes <= s3.given_of("/rows") <= owned_rows * base.spec.row_bytes + edges
    assert s3.given_of("/rows") < 0.6 * base.rows * base.spec.row_bytes
    assert s3.given_of("/positions") < 0.6 * base.rows * 8
    assert s3.given_of("/index") == 0
    assert member.job.copied_bytes == member.job.bytes_to_copy == copied_bytes(large, mask)


@pytest.mark.medium
def test_what_is_here_is_not_fetched_again(crew: Crew, s3: S3, fine: WrittenTable) -> None:
    s3.put(fine.folder, f"{MODEL}/{VERSION}/users")
    member = crew.add(0)
    member.prepare(at(URL, [SlotRange(0, 20_000)]))
    s3.forget()
    member.restart()
    member.prepare(at(URL, [SlotRange(0, 20_000)]))
    assert set(s3.given) == {f"{MODEL}/{VERSION}/users/header"}
    member.prepare(at(URL, [SlotRange(0, 25_000)]))
    assert_holds(member.base(), fine, mask_of([SlotRange(0, 25_000)]))
    assert member.job.copied_bytes == copied_bytes(fine, mask_of([SlotRange(20_000, 25_000)]))


@pytest.mark.medium
def test_over_the_limit_nothing_is_copied(crew: Crew, s3: S3, large: WrittenTable) -> None:
    s3.put(large.folder, f"{MODEL}/{VERSION}/users")
    member = crew.add(0, limit_bytes=20 << 20)
    with pytest.raises(LimitExceeded, match="the limit is 20971520"):
        member.prepare(at(URL, owned_slots(TWO, 0)))
    assert s3.given_of("/rows") == 0
    assert member.size() == 0


# -- interruptions -----------------------------------------------------------------------------------------------------

PREPARE = f"""
import sys
from pathlib import Path
from ringpull.ps.ring import SlotRange
from tests.ps.transfer.shards import Member
from tests.ps.transfer.placements import at

Member(0, Path(sys.argv[1]), {{}}).prepare(at({URL!r}, [SlotRange(0, {SLOTS})]))
"""


@pytest.mark.medium
def test_after_kill_9_it_goes_on_where_it_stopped(crew: Crew, s3: S3, large: WrittenTable, tmp_path: Path) -> None:
    s3.put(large.folder, f"{MODEL}/{VERSION}/users")
    base = Base.open(large.folder)
    killed = threading.Event()

    def hold_back(key: str) -> None:
        if key.endswith("/rows") and s3.given_of("/rows") > 1.5 * READ_BYTES:
            killed.wait()

    s3.before_get = hold_back
    child = subprocess.Popen([sys.executable, "-c", PREPARE, str(tmp_path / "data")], cwd=ROOT)
    piece = tmp_path / "data" / "shard-0" / MODEL / str(VERSION) / "users" / "piece-00000"
    while not piece.exists() or piece.stat().st_size < READ_BYTES:
        assert child.poll() is None
        killed.wait(0.02)
    child.kill()
    child.wait()
    killed.set()
    s3.settle()
    kept = Piece.open(piece).rows
    assert 0 < kept < base.rows
    first_time = s3.given_of("/rows")
    # From another URL: the server may still find requests of the one that was killed.
    s3.put(large.folder, "again/users")
    member = crew.add(0)
    member.prepare(at("s3://models/again", [EVERYTHING]))
    assert_holds(member.base(), large, mask_of([EVERYTHING]))
    everything = base.rows * base.spec.row_bytes
    second_time = s3.given_of("again/users/rows")
    assert second_time == everything - kept * base.spec.row_bytes, "just what is not here yet"
    assert first_time + second_time <= everything + 2 * READ_BYTES, "one being written, one on its way"


@pytest.mark.medium
def test_a_storage_that_fails_on_the_way_is_gone_on_with(crew: Crew, s3: S3, large: WrittenTable) -> None:
    s3.put(large.folder, f"{MODEL}/{VERSION}/users")
    member = crew.add(0)
    s3.refuses = lambda key: key.endswith("/rows") and s3.given_of("/rows") > 1.5 * READ_BYTES
    with pytest.raises(Unavailable, match=r"s3://models/model/3/users/\w+: cannot be read from here: "):
        member.prepare(at(URL, [EVERYTHING]))
    copied = member.job.copied_bytes
    assert copied > READ_BYTES
    s3.refuses = lambda key: False
    member.prepare(at(URL, [EVERYTHING]))
    assert_holds(member.base(), large, mask_of([EVERYTHING]))
    assert s3.given_of("/rows") <= len(large.keys) * 512 + 2 * READ_BYTES


def test_who_cannot_reach_the_files_gets_them_from_an_owner(crew: Crew, s3: S3, fine: WrittenTable) -> None:
    s3.put(fine.folder, f"{MODEL}/{VERSION}/users")
    [owner] = crew.bring_up(1, Ring.even([0]), fine)
    other = crew.add(1)
    s3.refuses = lambda key: True
    with pytest.raises(Unavailable, match=r"slots 0 to 30000 cannot be copied: files in s3.*: Forbidden"):
        other.prepare(at(URL, [SlotRange(0, 30_000)]))
    other.prepare(at(URL, [SlotRange(0, 30_000)], RangeSource(EVERYTHING, "peer", owner.id)))
    assert_holds(other.base(), fine, mask_of([SlotRange(0, 30_000)]))


@pytest.mark.medium
def test_where_an_owner_does_not_answer_the_files_do(crew: Crew, s3: S3, fine: WrittenTable) -> None:
    s3.put(fine.folder, f"{MODEL}/{VERSION}/users")
    member = crew.add(1)
    member.prepare(at(URL, [SlotRange(0, 30_000)], RangeSource(EVERYTHING, "peer", 0)))
    assert_holds(member.base(), fine, mask_of([SlotRange(0, 30_000)]))


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [fmt.HEADER, fmt.BLOCKS, fmt.POSITION_BLOCKS, fmt.POSITIONS, fmt.ROWS])
def test_a_changed_byte_is_found_and_named(fine: WrittenTable, name: str) -> None:
    url = in_memory(fine.folder, "damaged/users")
    files = fsspec.filesystem("memory")
    content = bytearray(files.cat_file(f"/damaged/users/{name}"))
    content[len(content) // 2] ^= 1
    files.pipe_file(f"/damaged/users/{name}", bytes(content))
    with pytest.raises(CorruptData, match=rf"memory://damaged/users/{name}: .*checksum"):
        streamed(StoredSource(url), EVERYTHING, 10_000)


@pytest.mark.parametrize(
    "name",
    [fmt.HEADER, fmt.BLOCKS, fmt.POSITION_BLOCKS, fmt.POSITIONS, fmt.ROWS, fmt.STARTS, fmt.START_BLOCKS],
)
def test_a_file_that_is_too_short_or_missing_is_named(fine: WrittenTable, name: str) -> None:
    if not (fine.folder / name).exists():
        return  # vectors have no starts
    url = in_memory(fine.folder, "short/users")
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/short/users/{name}", files.cat_file(f"/short/users/{name}")[:-1])
    with pytest.raises(CorruptData, match=f"memory://short/users/{name}: "):
        streamed(StoredSource(url), EVERYTHING, 10_000)
    files.rm_file(f"/short/users/{name}")
    with pytest.raises(NotFound, match=f"memory://short/users/{name}: there is no such file"):
        streamed(StoredSource(url), EVERYTHING, 10_000)


def test_all_damage_is_listed_as_in_a_folder(fine: WrittenTable, tmp_path: Path) -> None:
    url, files = in_memory(fine.folder, "listed/users"), fsspec.filesystem("memory")
    assert StoredTable(RemoteFolder(url)).verify() == []
    base = Base.open(fine.folder)
    for block in (0, 7, base.block_count - 1):
        first_row = int(base.sections.blocks[block, 0])
        for name, where in ((fmt.ROWS, base.byte_range(first_row, base.rows)[0]), (fmt.POSITIONS, 8 * first_row)):
            content = bytearray(files.cat_file(f"/listed/users/{name}"))
            content[where] ^= 1
            files.pipe_file(f"/listed/users/{name}", bytes(content))
        found = StoredTable(RemoteFolder(url)).verify()[-1]
        files.pipe_file("/listed/users/positions", (fine.folder / fmt.POSITIONS).read_bytes())
        exact = StoredTable(RemoteFolder(url)).verify()[-1]
        assert (found.block, found.slots[0]) == (block, exact.slots[0])
        assert found.slots[1] >= exact.slots[1]
    (tmp_path / "rows").write_bytes(files.cat_file("/listed/users/rows"))
    for path in fine.folder.iterdir():
        if path.name != fmt.ROWS:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert StoredTable(RemoteFolder(url)).verify() == Base.open(tmp_path).verify() != []
    files.pipe_file("/listed/users/index", bytes(len((fine.folder / fmt.INDEX).read_bytes())))
    with pytest.raises(CorruptData, match="listed/users/index: the checksum does not match"):
        StoredTable(RemoteFolder(url)).verify()


@pytest.mark.medium
def test_a_damaged_block_is_named_and_an_owner_has_it(crew: Crew, s3: S3, fine: WrittenTable) -> None:
    s3.put(fine.folder, f"{MODEL}/{VERSION}/users")
    base = Base.open(fine.folder)
    block = base.block_count // 2
    first_row = int(base.sections.blocks[block, 0])
    s3.flip_byte(f"{MODEL}/{VERSION}/users/rows", base.byte_range(first_row, base.rows)[0] + 3)
    member = crew.add(1)
    with pytest.raises(CorruptData, match=f"{URL}/users/rows: block {block}, rows {first_row} to "):
        member.prepare(at(URL, [EVERYTHING]))
    [owner] = crew.bring_up(1, Ring.even([0]), fine)
    member.prepare(at(URL, [EVERYTHING], RangeSource(EVERYTHING, "peer", owner.id)))
    assert_holds(member.base(), fine, mask_of([EVERYTHING]))


def test_damage_of_starts_is_named(tmp_path: Path) -> None:
    """Damage of one block, with the blocks on either side of it whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "BLOCK_BYTES", FINE_BLOCK_BYTES)
        table = write_table(tmp_path / "users", rows=2000, dim=7, row_type=RowType.BYTES)
    base, starts = Base.open(table.folder), table.folder / "starts"
    first_row = int(base.sections.blocks[3, 0])
    content = bytearray(starts.read_bytes())
    content[8 * (first_row + 1)] ^= 1
    starts.write_bytes(content)
    [bad] = StoredTable(RemoteFolder(str(table.folder))).verify()
    assert (bad.block, bad.file, bad.first_row) == (3, fmt.STARTS, first_row)
    with pytest.raises(CorruptData, match=f"starts: block 3, rows {first_row} to "):
        streamed(StoredSource(str(table.folder)), EVERYTHING, 10_000)


@pytest.mark.medium
def test_another_export_under_the_same_url_is_noticed(crew: Crew, s3: S3, fine: WrittenTable, tmp_path: Path) -> None:
    s3.put(fine.folder, f"{MODEL}/{VERSION}/users")
    member = crew.add(0)
    member.prepare(at(URL, [SlotRange(0, 9000)]))
    other = write_table(tmp_path / "other" / "users", rows=500, dim=7, row_type=RowType.INT8, seed=5)
    s3.put(other.folder, f"{MODEL}/{VERSION}/users")
    with pytest.raises(CorruptData, match="export under a new number"):
        member.prepare(at(URL, [SlotRange(0, 10_000)]))
    member.restart()
    member.prepare(at(URL, [SlotRange(0, 10_000)]))
    assert_holds(member.base(), other, mask_of([SlotRange(0, 10_000)]))


# -- folders at URLs ---------------------------------------------------------------------------------------------------


def test_names_are_those_of_now(s3: S3, tmp_path: Path) -> None:
    folder = RemoteFolder("s3://models/names")
    assert folder.names() == []
    for name in ("7", "10"):
        s3.files.pipe_file(f"models/names/{name}/manifest.json", b"{}")
        assert name in folder.names()
    assert folder.names() == ["10", "7"]
    assert folder.exists("7/manifest.json")
    assert not folder.exists("8/manifest.json")
    assert folder.size("7/manifest.json") == 2
    with pytest.raises(CorruptData, match="2 bytes; such a file has at most 1"):
        folder.read("7/manifest.json", max_bytes=1)


def test_what_fsspec_cannot_open_says_why() -> None:
    with pytest.raises(InvalidInput, match="nosuch://x/y: "):
        RemoteFolder("nosuch://x/y")
    with pytest.raises(InvalidInput, match=r"gs:// needs a package that is not installed: .*`pip install gcsfs`"):
        RemoteFolder("gs://x/y")


def test_without_s3fs_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["s3fs"] = None
from ringpull.ps.errors import InvalidInput
from ringpull.ps.transfer.remote import RemoteFolder
try:
    RemoteFolder("s3://models/ranker")
except InvalidInput as exc:
    print(exc)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "install it with `pip install 'ringpull[s3]'`" in ran.stdout


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("/a/b", "/a/b"),
        ("a/b", "a/b"),
        ("s3://a/b/", "s3://a/b"),
        ("memory://a", "memory://a"),
    ],
)
def test_file_urls_are_paths(folder: str, path: str) -> None:
    assert as_path(folder) == path
