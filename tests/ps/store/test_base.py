"""`Base`: what it finds, and that no damage passes unseen."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import CorruptData, InvalidInput, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS, keys_of, positions_of
from ringpull.ps.spec import TableSpec
from ringpull.ps.store import base as base_module
from ringpull.ps.store import file_errors, sections
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.format import Header, Section
from ringpull.ps.store.writer import TableWriter
from tests.ps.tables import WrittenTable, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    """3,000 rows of 4 KiB: 12 blocks."""
    return write_table(tmp_path_factory.mktemp("base") / "table", rows=3000, dim=1024)


@pytest.fixture
def copy(tmp_path: Path, table: WrittenTable) -> Path:
    """A copy that may be damaged."""
    folder = tmp_path / "table"
    folder.mkdir()
    for path in table.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def middle(path: Path) -> int:
    return path.stat().st_size // 2


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", [fmt.HEADER, fmt.ROWS])
def test_trouble_with_reading_is_no_damage(copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """It passes: what was to be opened is tried again, and not given up."""
    opened = file_errors.opened

    def failing(path: Path) -> BinaryIO:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path)

    for module in (file_errors, base_module, sections):
        monkeypatch.setattr(module, "opened", failing)
    with pytest.raises(Unavailable, match=f"{name}: cannot be read: {os.strerror(number)}"):
        Base.open(copy)


def test_find_gives_rows_or_minus_one(table: WrittenTable) -> None:
    base = Base.open(table.folder)
    rng = np.random.default_rng(5)
    strangers = np.setdiff1d(rng.integers(0, 2**64, 5000, np.uint64), table.keys)
    numbers = base.find(positions_of(np.concatenate([table.keys, strangers])))
    assert (numbers[len(table.keys) :] == -1).all()
    for key, number in list(zip(table.keys, numbers, strict=False))[::100]:
        assert np.array_equal(base.row(int(number)), table.reference.row(int(key)))


@pytest.mark.medium
@settings(deadline=None, max_examples=60)
@given(
    stored=st.lists(st.integers(0, 2**64 - 1) | st.integers(2**40, 2**40 + 300), unique=True, max_size=300),
    strangers=st.lists(st.integers(0, 2**64 - 1) | st.integers(2**40, 2**40 + 300)),
)
def test_find_among_positions_that_are_not_uniform(
    tmp_path_factory: pytest.TempPathFactory, stored: list[int], strangers: list[int]
) -> None:
    """Also the ends of the ring, and hundreds of positions in one bucket of the index."""
    folder = tmp_path_factory.mktemp("find") / "t"
    positions = np.array(stored, np.uint64)
    with TableWriter(folder, TableSpec(name="t", dim=1)) as writer:
        writer.add(keys_of(positions), np.zeros((len(stored), 1), np.float32))
        writer.finish()
    expected = {position: number for number, position in enumerate(sorted(stored))}
    wanted = stored + strangers
    found = Base.open(folder).find(np.array(wanted, np.uint64)).tolist()
    assert found == [expected.get(position, -1) for position in wanted]


def test_a_slot_range_is_one_interval_of_rows(table: WrittenTable) -> None:
    base = Base.open(table.folder)
    slots = base.positions_slice(0, base.rows) >> np.uint64(SLOT_SHIFT)
    for begin, end in [(0, SLOTS), (0, 0), (SLOTS, SLOTS), (100, 101), (1000, 30000), (65535, 65536)]:
        first, last = base.row_range(begin, end)
        assert last - first == ((slots >= begin) & (slots < end)).sum()
        assert ((slots[first:last] >= begin) & (slots[first:last] < end)).all()
    for begin, end in [(-1, 3), (3, 2), (0, SLOTS + 1)]:
        with pytest.raises(InvalidInput, match="not a range"):
            base.row_range(begin, end)


def test_a_row_number_beyond_the_table(table: WrittenTable) -> None:
    base = Base.open(table.folder)
    for number in (-1, base.rows):
        with pytest.raises(IndexError, match="not"):
            base.row(number)


def test_views_are_read_only(table: WrittenTable) -> None:
    base = Base.open(table.folder)
    with pytest.raises(ValueError, match="read-only"):
        base.raw_rows(0, 1)[:] = 0


def test_closing_leaves_what_was_taken_readable(table: WrittenTable) -> None:
    base = Base.open(table.folder)
    base.prefault()
    rows = base.raw_rows(0, base.rows)
    base.close()
    assert rows.sum() > 0
    assert "closed" in repr(base)
    with pytest.raises(InvalidInput, match="closed"):
        base.row(0)


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [fmt.HEADER, fmt.INDEX, fmt.POSITIONS, fmt.BLOCKS])
@pytest.mark.parametrize("where", [lambda path: 0, middle, lambda path: path.stat().st_size - 1])
def test_a_flipped_bit_is_found_at_open(copy: Path, name: str, where: Callable[[Path], int]) -> None:
    flip(copy / name, where(copy / name))
    with pytest.raises(CorruptData, match=rf"{name}: .*(damaged|not a table header)"):
        Base.open(copy)


@pytest.mark.parametrize("name", [fmt.HEADER, *fmt.SECTIONS])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
def test_a_file_of_another_size_is_found_at_open(copy: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    with pytest.raises(CorruptData, match=f"{name}: "):
        Base.open(copy)


@pytest.mark.parametrize("name", [fmt.HEADER, *fmt.SECTIONS])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CorruptData, match=f"{name}: cannot be read"):
        Base.open(copy)


def test_a_flipped_bit_in_a_row_is_found_by_its_block(copy: Path, table: WrittenTable) -> None:
    row = 1500
    flip(copy / fmt.ROWS, row * 4096 + 77)
    base = Base.open(copy)
    bad = base.verify()
    assert len(bad) == 1
    assert bad[0].first_row <= row < bad[0].first_row + bad[0].rows
    slots = base.positions_slice(bad[0].first_row, bad[0].first_row + bad[0].rows) >> np.uint64(SLOT_SHIFT)
    assert bad[0].slots == (slots.min(), slots.max() + 1)
    assert base.verify(range(bad[0].block)) == []
    assert base.verify([bad[0].block]) == bad
    with pytest.raises(CorruptData, match="rows: 1 blocks are damaged, the first holds rows"):
        Base.open(copy, verify_rows=True)
    assert Base.open(table.folder).verify() == []


@settings(deadline=None)
@given(st.data())
def test_no_damaged_header_is_believed(table: WrittenTable, data: st.DataObject) -> None:
    header = (table.folder / fmt.HEADER).read_bytes()
    at = data.draw(st.integers(0, len(header) - 1))
    byte = data.draw(st.integers(1, 255))
    for damaged in (header[:at], header[:at] + bytes([header[at] ^ byte]) + header[at + 1 :]):
        with pytest.raises(CorruptData, match="header: "):
            Header.from_bytes(damaged, table.folder / fmt.HEADER)


def forged(folder: Path, change: Callable[[dict], None]) -> bytes:
    """A header that says something else, its checksum right."""
    data = (folder / fmt.HEADER).read_bytes()
    fields = msgpack.unpackb(data[fmt.PRELUDE.size :])
    change(fields)
    body = msgpack.packb(fields)
    return fmt.PRELUDE.pack(fmt.MAGIC, fmt.FORMAT_VERSIONS[0], len(body), xxhash.xxh3_64_intdigest(body)) + body


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: f.update(rows=2**60), "rows"),
        (lambda f: f.update(rows=-1), "rows"),
        (lambda f: f.update(rows="many"), "rows"),
        (lambda f: f.update(rows=f["rows"] + 1), "positions has"),
        (lambda f: f.update(index_bits=47), "index has"),
        (lambda f: f.update(index_bits=64), "index_bits"),
        (lambda f: f.pop("held"), "'held' is missing"),
        (lambda f: f.update(held=[[5, 3]]), "held"),
        (lambda f: f.update(held=[[0, 70000]]), "held"),
        (lambda f: f.update(held=7), "iterable"),
        (lambda f: f["sections"].pop("rows"), "'rows' is missing"),
        (lambda f: f["sections"].update(blocks=[15, 1]), "blocks has 15 bytes"),
        (lambda f: f["sections"].update(index=[f["sections"]["index"][0], None]), "checksum None"),
        (lambda f: f["spec"].update(dim=0), "dim"),
        (lambda f: f["spec"].pop("name"), "'name' is missing"),
    ],
)
def test_a_header_that_says_what_cannot_be(copy: Path, change: Callable[[dict], None], what: str) -> None:
    (copy / fmt.HEADER).write_bytes(forged(copy, change))
    with pytest.raises(CorruptData, match=what):
        Base.open(copy)


def test_another_format_version_is_named(copy: Path) -> None:
    data = bytearray((copy / fmt.HEADER).read_bytes())
    data[8] = 99
    (copy / fmt.HEADER).write_bytes(data)
    with pytest.raises(CorruptData, match="format version 99; this build reads 1 to 3"):
        Base.open(copy)


@pytest.mark.parametrize("entry", [(5, 2**31), (0, 1), (-1, 0)])
def test_an_index_that_leads_outside_is_refused_whatever_its_checksum(copy: Path, entry: tuple[int, int]) -> None:
    index = np.frombuffer((copy / fmt.INDEX).read_bytes(), np.uint32).copy()
    index[entry[0]] = entry[1]
    (copy / fmt.INDEX).write_bytes(index.tobytes())
    path = copy / fmt.HEADER
    header = Header.from_bytes(path.read_bytes(), path)
    section = Section(bytes=index.nbytes, checksum=xxhash.xxh3_64_intdigest(index.tobytes()))
    path.write_bytes(replace(header, sections={**header.sections, fmt.INDEX: section}).to_bytes())
    with pytest.raises(CorruptData, match="index: entries must ascend"):
        Base.open(copy)
