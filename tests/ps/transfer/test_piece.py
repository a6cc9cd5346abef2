"""Pieces: what was appended comes back, whatever cut the file short or damaged it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.errors import CorruptData, ExportError, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import Block
from ringpull.ps.wire.messages import range_checksum

ROW_BYTES = 12
BEGIN = 100
EVERYTHING = SlotRange(0, SLOTS)


def block(first_slot: int, slots: list[int], seed: int = 0) -> Block:
    """One row per entry, in the slots given, counted from `first_slot`."""
    rng = np.random.default_rng([seed, first_slot])
    positions = np.sort(
        (np.array(slots, np.uint64) + np.uint64(first_slot) << np.uint64(SLOT_SHIFT))
        + rng.choice(1 << 40, len(slots), replace=False).astype(np.uint64)
    )
    rows = rng.integers(0, 256, len(slots) * ROW_BYTES).astype(np.uint8)
    return Block(positions, rows, range_checksum(positions, rows), len(slots), 1000)


BLOCKS = [
    (block(100, [0, 0, 1, 2]), 102),  # slot 102 is not whole yet
    (block(102, [0, 0], seed=1), 102),
    (block(103, [0, 5]), 200),  # the last of a range
    (block(200, []), 300),  # a range without rows
    (block(300, [0] * 7), 300),
]


HEADER_BYTES = 32
ENDS = np.cumsum([32 + each.positions.nbytes + each.rows.nbytes for each, _ in BLOCKS]) + HEADER_BYTES
"""Where each block ends in the file."""


def written(path: Path) -> Piece:
    piece = Piece.create(path, BEGIN, ROW_BYTES, identity=7)
    for each, until in BLOCKS:
        piece.append(each, until)
    return piece


def content(piece: Piece, slots: SlotRange = EVERYTHING) -> tuple[bytes, bytes]:
    parts = list(piece.read(slots))
    return b"".join(positions.tobytes() for positions, _ in parts), b"".join(rows.tobytes() for _, rows in parts)


def test_it_knows_how_far_it_is(tmp_path: Path) -> None:
    piece = Piece.create(tmp_path / "piece-00100", BEGIN, ROW_BYTES, identity=7)
    seen = [(piece.until, piece.tail_rows)]
    for each, until in BLOCKS:
        piece.append(each, until)
        seen.append((piece.until, piece.tail_rows))
    assert seen == [(100, 0), (102, 1), (102, 3), (200, 0), (300, 0), (300, 7)]
    again = Piece.open(piece.path)
    assert (again.begin, again.until, again.tail_rows, again.rows) == (100, 300, 7, 15)
    assert (again.identity, again.row_bytes, again.bytes) == (7, ROW_BYTES, piece.path.stat().st_size)
    assert content(again) == content(piece)


@pytest.mark.parametrize("slots", [SlotRange(0, 101), SlotRange(101, 103), SlotRange(102, 300), SlotRange(108, 109)])
def test_any_slots_can_be_read(tmp_path: Path, slots: SlotRange) -> None:
    piece = written(tmp_path / "piece-00100")
    positions = np.concatenate([each.positions for each, _ in BLOCKS])
    rows = np.concatenate([each.rows.reshape(-1, ROW_BYTES) for each, _ in BLOCKS])
    of_slot = (positions >> np.uint64(SLOT_SHIFT)).astype(np.int64)
    mine = (of_slot >= slots.begin) & (of_slot < slots.end)
    assert content(piece, slots) == (positions[mine].tobytes(), rows[mine].tobytes())
    assert piece.count(slots) == mine.sum()


def test_wherever_the_file_ends_whole_blocks_are_kept(tmp_path: Path) -> None:
    piece = written(tmp_path / "piece-00100")
    data = piece.path.read_bytes()
    ends = [HEADER_BYTES, *ENDS.tolist()]
    assert ends[-1] == len(data)
    for size in range(ends[0], len(data) + 1):
        piece.path.write_bytes(data[:size])
        opened = Piece.open(piece.path)
        whole = max(end for end in ends if end <= size)
        assert opened.bytes == piece.path.stat().st_size == whole
        assert opened.rows == sum(len(each.positions) for each, _ in BLOCKS[: ends.index(whole)])
    piece.path.write_bytes(data[: ends[2] + 5])
    cut = Piece.open(piece.path)
    for each, until in BLOCKS[2:]:
        cut.append(each, until)
    assert piece.path.read_bytes() == data


@settings(max_examples=60)
@given(st.data())
def test_a_changed_byte_is_found_and_what_is_before_it_kept(tmp_path_factory, data: st.DataObject) -> None:
    piece = written(tmp_path_factory.mktemp("piece") / "piece-00100")
    good = piece.path.read_bytes()
    at = data.draw(st.integers(32, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    piece.path.write_bytes(bytes(bad))
    opened = Piece.open(piece.path)
    assert opened.bytes <= at
    assert piece.path.read_bytes() == good[: opened.bytes]
    kept = int(np.searchsorted(ENDS, opened.bytes, side="right"))
    for each, until in BLOCKS[kept:]:
        opened.append(each, until)
    assert piece.path.read_bytes() == good


def test_damage_after_opening_is_found_when_it_is_read(tmp_path: Path) -> None:
    piece = written(tmp_path / "piece-00100")
    data = bytearray(piece.path.read_bytes())
    data[-1] ^= 1
    piece.path.write_bytes(bytes(data))
    with pytest.raises(Unavailable, match="prepare again"):
        content(piece)
    assert (piece.until, piece.tail_rows, piece.rows) == (300, 0, 8)
    assert Piece.open(piece.path).bytes == piece.bytes


@pytest.mark.parametrize(
    "data", [b"", b"RPLPIECE", b"x" * 40, b"RPLPIECE\x03" + bytes(40), b"RPLPIECE\x01" + bytes(40)]
)
def test_what_is_no_piece_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "piece-00001").write_bytes(data)
    with pytest.raises(CorruptData, match="not a piece"):
        Piece.open(tmp_path / "piece-00001")


def test_a_disk_that_refuses_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write"):
        Piece.create(tmp_path / "missing" / "piece-00001", 1, ROW_BYTES, 7)
