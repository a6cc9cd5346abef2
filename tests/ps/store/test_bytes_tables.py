"""Tables of bytes: written in any order and any memory, opened, found, pulled, and damaged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, DuplicateKey, ExportError, InvalidInput, LimitExceeded, RingpullError
from ringpull.ps.hashing import SLOTS, keys_of, positions_of
from ringpull.ps.pull_messages import Op, PullReply
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.spec import MAX_BYTES_ROW, KeyType, RowType, TableSpec
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.base_writer import BaseWriter
from ringpull.ps.store.format import Header
from ringpull.ps.store.pull import SlotNotOwned, pull
from ringpull.ps.store.table import Table
from ringpull.ps.store.writer import TableWriter
from tests.mangling import mangled
from tests.ps.tables import WrittenTable, bytes_row, pull_request, rows_request, write_table

SPEC = TableSpec(name="t", dim=0, row_type=RowType.BYTES)

GOLDEN = {
    "header": (
        "52504c5441424c45030000001001000070a44e204cd350bb85a47370656387a46e616d65a6676f6c64656ea364696d00"
        "a8726f775f74797065a56279746573a86b65795f74797065a675696e743634a764656661756c74c0a87265706c696361"
        "73a3616c6cae6f6e5f756e617661696c61626c65a56572726f72a4726f777303aa696e6465785f6269747301a468656c"
        "64919200ce00010000a873656374696f6e7387a5696e646578920ccfae2c8603990315bda9706f736974696f6e739218"
        "cf5b7d67c033d77c4aa4726f77739205c0a6626c6f636b739210cf86541086589c0fc6af706f736974696f6e5f626c6f"
        "636b739210cfd6e388b69dd6f723a67374617274739220cf801173f2b80198a6ac73746172745f626c6f636b739210cf"
        "563c8d4cabbf391a"
    ),
    "index": ("000000000100000003000000"),
    "positions": ("e7830665202abf3a93a431af1008788f2ccbc234fcbc56b4"),
    "rows": ("00ff6f6e65"),
    "blocks": ("0000000000000000da0469ef19280e81"),
    "position_blocks": ("e7830665202abf3a4a7cd733c0677d5b"),
    "starts": ("0000000000000000000000000000000002000000000000000500000000000000"),
    "start_blocks": ("0000000000000000a69801b8f2731180"),
}


def write(folder: Path, rows: dict[int, bytes], spec: TableSpec = SPEC, **options: int) -> Base:
    with TableWriter(folder, spec, **options) as writer:
        writer.add_bytes(np.array(list(rows), np.uint64), BytesRows.of(list(rows.values())))
        writer.finish()
    return Base.open(folder, verify_rows=True)


def content(base: Base) -> dict[int, bytes]:
    keys = keys_of(base.positions_slice(0, base.rows))
    return {int(key): bytes_row(base, number) for number, key in enumerate(keys)}


def split(reply: PullReply) -> list[bytes]:
    offsets = np.concatenate([[0], np.cumsum(reply.lengths, dtype=np.int64)])
    return list(BytesRows(reply.data, offsets))


# -- format ------------------------------------------------------------------------------------------------------------


def test_the_files_of_a_small_table(tmp_path: Path) -> None:
    """Golden bytes of format version 3: a change here is a new format version and a line in the CHANGELOG."""
    spec = TableSpec(name="golden", dim=0, row_type=RowType.BYTES, key_type=KeyType.UINT64, replicas="all")
    write(tmp_path / "golden", {1: b"one", 2: b"", 2**63: b"\x00\xff"}, spec)
    assert {path.name: path.read_bytes().hex() for path in (tmp_path / "golden").iterdir()} == GOLDEN


def test_the_golden_bytes_are_readable(tmp_path: Path) -> None:
    for name, data in GOLDEN.items():
        (tmp_path / name).write_bytes(bytes.fromhex(data))
    base = Base.open(tmp_path, verify_rows=True)
    assert content(base) == {1: b"one", 2: b"", 2**63: b"\x00\xff"}


@pytest.mark.parametrize("version", [1, 2, 4])
def test_another_format_version_is_refused_by_its_number(tmp_path: Path, version: int) -> None:
    write(tmp_path / "t", {1: b"x"})
    header = (tmp_path / "t" / "header").read_bytes()
    assert header[8:12] == bytes([3, 0, 0, 0])
    with pytest.raises(CorruptData, match=f"format version {version}"):
        Header.from_bytes(header[:8] + bytes([version]) + header[9:], "header")


# -- writing -----------------------------------------------------------------------------------------------------------


@st.composite
def rows_by_key(draw: st.DrawFn) -> dict[int, bytes]:
    sizes = st.one_of(st.just(0), st.integers(1, 40), st.integers(500, 5000))
    keys = draw(st.lists(st.integers(0, 2**64 - 1), max_size=60, unique=True))
    return {key: np.random.default_rng(key).bytes(draw(sizes)) for key in keys}


@pytest.mark.medium
@settings(max_examples=60)
@given(rows=rows_by_key(), buffer_bytes=st.sampled_from([1, 700, 64 << 20]), chunk=st.integers(1, 60))
def test_any_rows_in_any_chunks_and_memory_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, bytes], buffer_bytes: int, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("written")
    with TableWriter(folder / "t", SPEC, buffer_bytes=buffer_bytes) as writer:
        keys = list(rows)
        for begin in range(0, len(keys), chunk):
            some = keys[begin : begin + chunk]
            writer.add_bytes(np.array(some, np.uint64), BytesRows.of([rows[key] for key in some]))
        writer.finish()
    base = Base.open(folder / "t", verify_rows=True)
    assert content(base) == rows
    assert base.rows_bytes == sum(map(len, rows.values()))
    write(folder / "again", dict(reversed(rows.items())))
    for path in (folder / "t").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), "whatever the order"


def test_the_longest_row_and_one_more_byte(tmp_path: Path) -> None:
    longest = bytes(range(256)) * (MAX_BYTES_ROW // 256)
    base = write(tmp_path / "t", {5: longest, 6: b""}, buffer_bytes=1)
    assert content(base) == {5: longest, 6: b""}
    told = rf"table t: the row of key 77 has {MAX_BYTES_ROW + 1} bytes; a row may have at most {MAX_BYTES_ROW}"
    with pytest.raises(InvalidInput, match="its rows are bytes, which are no vectors"):
        base.row(0)
    with TableWriter(tmp_path / "longer", SPEC) as writer, pytest.raises(InvalidInput, match=told):
        writer.add_bytes([3, 77], BytesRows.of([b"", longest + b"x"]))


@pytest.mark.medium
def test_blocks_end_at_slots_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty rows make blocks, too; and where a block ends does not depend on how rows came."""
    monkeypatch.setattr(fmt, "BLOCK_BYTES", 1000)
    rng = np.random.default_rng(1)
    one_slot = [keys_of(np.array([(9 << 48) + i], np.uint64))[0] for i in range(1000)]
    for name, keys in (("spread", range(3000)), ("slot", map(int, one_slot))):
        rows = {key: rng.bytes(int(rng.choice([0, 0, 3, 90]))) for key in keys}
        base = write(tmp_path / name, rows)
        few = write(tmp_path / f"{name}-few", rows, buffer_bytes=400)
        assert few.sections.blocks.tolist() == base.sections.blocks.tolist()
        firsts = np.append(base.sections.blocks[:, 0], base.rows).astype(int)
        sizes = np.diff(base.block_bounds) + 8 * np.diff(firsts)
        assert (sizes[:-1] >= 1000).all()
        assert sizes.max() < (2000 + 98 if name == "slot" else 1000 + 98 * 2)
    empty = write(tmp_path / "empty", dict.fromkeys(range(3000), b""))
    assert empty.block_count > 20
    assert content(empty) == dict.fromkeys(range(3000), b"")


def test_strings_are_keys_and_duplicates_are_named(tmp_path: Path) -> None:
    spec = TableSpec(name="t", dim=0, row_type=RowType.BYTES, key_type=KeyType.STRING)
    with TableWriter(tmp_path / "t", spec, buffer_bytes=1) as writer:
        writer.add_bytes(["a", "b", "c"], BytesRows.of([b"1", b"22", b""]))
        writer.add_bytes(["b"], BytesRows.of([b"3"]))
        with pytest.raises(DuplicateKey, match="key 'b' was given more than once"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([b"x"], "rows are list; they must be BytesRows"),
        (BytesRows.of([b"x", b"y"]), r"offsets int64 \(3,\); they must be .* \(2,\)"),
        (BytesRows(np.zeros(3, np.int8), np.array([0, 3])), "data int8"),  # type: ignore[arg-type]
        (BytesRows(np.zeros(3, np.uint8), np.array([0, 3], np.int32)), "offsets int32"),  # type: ignore[arg-type]
        (BytesRows(np.zeros(3, np.uint8), np.array([0, 2])), "offsets of rows must ascend from 0 .* 3"),
        (BytesRows(np.zeros(3, np.uint8), np.array([1, 3])), "must ascend"),
    ],
    ids=["a list", "too many", "int8", "int32", "too few bytes", "not from 0"],
)
def test_rows_that_are_none_are_refused(tmp_path: Path, rows: object, what: str) -> None:
    with TableWriter(tmp_path / "t", SPEC) as writer, pytest.raises(InvalidInput, match=what):
        writer.add_bytes([1], rows)  # type: ignore[arg-type]


def test_descending_offsets_are_refused(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", SPEC) as writer, pytest.raises(InvalidInput, match="must ascend"):
        writer.add_bytes([1, 2, 3], BytesRows(np.zeros(3, np.uint8), np.array([0, 2, 1, 3])))


def test_vectors_and_bytes_are_not_mixed_up(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", SPEC) as writer, pytest.raises(InvalidInput, match=r"are bytes; .* add_bytes"):
        writer.add([1], np.zeros((1, 1), np.float32))
    told = "vectors of float32; add them with add"
    with TableWriter(tmp_path / "v", TableSpec(name="v", dim=2)) as writer, pytest.raises(InvalidInput, match=told):
        writer.add_bytes([1], BytesRows.of([b"x"]))
    for default in ("mean", np.zeros(2, np.float32)):
        with pytest.raises(InvalidInput, match="default"):
            TableWriter(tmp_path / "d", SPEC, default=default)  # type: ignore[arg-type]
    with BaseWriter(tmp_path / "b", SPEC, 1) as base, pytest.raises(ExportError, match="rows of bytes are due"):
        base.append(np.array([1], np.uint64), np.zeros((1, 4), np.uint8))


# -- pulling -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "lists", rows=700, dim=9, row_type=RowType.BYTES)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "vectors", rows=700, dim=3)


@pytest.mark.medium
@settings(max_examples=60)
@given(
    frame=st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1399), max_size=150)), max_size=5),
)
def test_any_frame_of_bytes_and_vectors(
    written: WrittenTable, vectors: WrittenTable, frame: list[tuple[bool, list[int]]]
) -> None:
    """Numbers below 700 are keys that the table has, perhaps more than once; the others are not."""
    tables, lookups, lists, values, missing, found = [], [], [], [], [], []
    for of_bytes, numbers in frame:
        table = written if of_bytes else vectors
        keys = np.array([table.keys[n] if n < len(table.keys) else n for n in numbers], np.uint64)
        rows, known = table.reference.pull(keys)
        tables.append(Table(Base.open(table.folder)))
        lookups.append((table.folder.name, Op.ROWS, keys, (), None))
        missing.append(int((~known).sum()))
        found += known.tolist()
        if of_bytes:
            lists += rows
        else:
            values += np.array(rows).ravel().tolist()
    reply = pull(tables, [None] * len(tables), pull_request(lookups))
    assert split(reply) == lists
    assert reply.values.tolist() == values
    assert reply.missing.tolist() == missing
    assert reply.found.tolist() == found


def test_pooling_is_refused_and_names_the_table(written: WrittenTable) -> None:
    table = Table(Base.open(written.folder))
    for op in (Op.SUM, Op.MAX):
        with pytest.raises(InvalidInput, match=f"table lists has rows of bytes, .* {op.name} was asked for"):
            pull([table], [None], pull_request([("lists", op, written.keys[:2], [2], None)]))


def test_an_answer_that_is_too_large_is_refused(written: WrittenTable) -> None:
    table, size = Table(Base.open(written.folder)), len(written.row_bytes())
    request = rows_request("lists", written.keys)
    assert pull([table], [None], request, max_reply_bytes=size).data.nbytes == size
    with pytest.raises(LimitExceeded, match=f"has {size} bytes; the limit is {size - 1}"):
        pull([table], [None], request, max_reply_bytes=size - 1)
    assert pull([table], [None], replace(request, max_reply_bytes=size)).data.nbytes == size
    for limits in ({}, {"max_reply_bytes": size}):
        with pytest.raises(LimitExceeded, match=f"has {size} bytes; the limit is {size - 1}"):
            pull([table], [None], replace(request, max_reply_bytes=size - 1), **limits)


def test_slots_of_others_and_damaged_ones_are_refused(written: WrittenTable) -> None:
    base = Base.open(written.folder)
    slot = int(positions_of(written.keys[3:4])[0] >> np.uint64(48))
    mask: SlotMask = np.ones(SLOTS, np.uint8)
    mask[slot] = 0
    request = rows_request("lists", written.keys[:8])
    with pytest.raises(SlotNotOwned) as caught:
        pull([Table(base)], [mask], request)
    assert (caught.value.table, caught.value.slot) == ("lists", slot)
    with pytest.raises(RingpullError, match=f"slot {slot} is not held here, or quarantined"):
        pull([Table(base, quarantined=[slot])], [None], request)
    assert split(pull([Table(base)], [None], request)) == written.rows[:8].tolist()


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(max_examples=150)
@given(data=st.data())
def test_a_mangled_file_is_refused_by_name_or_changes_no_answer(
    written: WrittenTable, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = shutil.copytree(written.folder, tmp_path_factory.mktemp("mangled") / "lists")
    name = data.draw(st.sampled_from([path.name for path in sorted(folder.iterdir())]))
    whole = (folder / name).read_bytes()
    broken = data.draw(mangled(whole))
    (folder / name).write_bytes(broken)
    try:
        base = Base.open(folder)
    except RingpullError as exc:
        assert name in str(exc)  # noqa: PT017 - both outcomes are right
        return
    assert name == fmt.ROWS or broken == whole
    numbers = base.find(positions_of(written.keys))
    same = [bytes_row(base, number) for number in numbers.tolist()] == written.rows.tolist()
    assert bool(base.verify()) == (not same)


def rewritten(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes into a file, with a header whose checksums say that they are right."""
    header = Header.from_bytes((folder / "header").read_bytes(), folder)
    sections = dict(header.sections)
    sections[name] = fmt.Section(bytes=len(data), checksum=fmt.xxhash.xxh3_64_intdigest(data))
    (folder / name).write_bytes(data)
    (folder / "header").write_bytes(fmt.replace(header, sections=sections).to_bytes())


@pytest.mark.parametrize(
    ("row", "start", "what"),
    [
        (0, 8, "must ascend from 0"),
        (50, 0, "must ascend"),
        (50, 2**64 - 1, "must ascend"),
        (-1, 2**40, "must ascend from 0 to the number of bytes"),
    ],
    ids=["begin", "back", "beyond", "end"],
)
def test_starts_that_were_made_up_lead_nowhere(
    written: WrittenTable, tmp_path: Path, row: int, start: int, what: str
) -> None:
    folder = shutil.copytree(written.folder, tmp_path / "lists")
    starts = np.frombuffer((folder / "starts").read_bytes(), np.uint64).copy()
    starts[row] = start
    rewritten(folder, "starts", starts.tobytes())
    with pytest.raises(CorruptData, match=f"starts: .*{what}"):
        Base.open(folder)


def test_a_row_that_is_too_long_and_a_block_that_begins_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write(folder, {1: bytes(MAX_BYTES_ROW), 2: bytes(MAX_BYTES_ROW)})
    blocks = np.frombuffer((folder / "start_blocks").read_bytes(), np.uint64).copy()
    starts = np.frombuffer((folder / "starts").read_bytes(), np.uint64).copy()
    starts[1] += np.uint64(1)
    whole = (folder / "starts").read_bytes(), (folder / "header").read_bytes()
    rewritten(folder, "starts", starts.tobytes())
    with pytest.raises(CorruptData, match=f"starts: a row has more than {MAX_BYTES_ROW}"):
        Base.open(folder)
    (folder / "starts").write_bytes(whole[0])
    (folder / "header").write_bytes(whole[1])
    blocks[0] = 1
    rewritten(folder, "start_blocks", blocks.tobytes())
    with pytest.raises(CorruptData, match="start_blocks: a block begins where none of its rows does"):
        Base.open(folder)
