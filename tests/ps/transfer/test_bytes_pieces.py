"""Pieces of rows of bytes: what was appended comes back, whatever cut the file short or damaged it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import Unavailable
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.transfer.piece import Piece
from ringpull.ps.transfer.source import Block, block_of

EVERYTHING = SlotRange(0, SLOTS)
Rows = dict[int, bytes]


def block(rows: Rows) -> Block:
    positions = np.array(sorted(rows), np.uint64)
    lengths = np.array([len(rows[int(each)]) for each in positions], np.uint32)
    data = np.frombuffer(b"".join(rows[int(each)] for each in positions), np.uint8)
    return block_of(positions, data, lengths, len(rows), 1000)


def made(slots: list[int], sizes: list[int], seed: int = 0) -> Rows:
    """One row per slot, of these sizes."""
    rng = np.random.default_rng(seed)
    return {
        (slot << SLOT_SHIFT) + 8 * i + seed: rng.bytes(size)
        for i, (slot, size) in enumerate(zip(slots, sizes, strict=True))
    }


BLOCKS = [
    (made([100, 100, 101, 102], [3, 0, 5, 7]), 102),
    (made([102, 102], [0, 90], seed=1), 102),
    (made([103], [0]), 200),
    ({}, 300),
    (made([300] * 4, [1, 2, 3, 0]), 300),
]
HEADER_BYTES = 32
ENDS = (np.cumsum([32 + sum(12 + len(row) for row in rows.values()) for rows, _ in BLOCKS]) + HEADER_BYTES).tolist()
"""Where each block ends in the file."""


def written(path: Path) -> Piece:
    piece = Piece.create(path, 100, 0, identity=7)
    for rows, until in BLOCKS:
        piece.append(block(rows), until)
    return piece


def content(piece: Piece, slots: SlotRange = EVERYTHING) -> Rows:
    found: Rows = {}
    for positions, rows in piece.read(slots):
        assert isinstance(rows, BytesRows)
        found |= dict(zip(positions.tolist(), rows, strict=True))
    return found


def expected(slots: SlotRange = EVERYTHING, blocks: int = len(BLOCKS)) -> Rows:
    return {
        position: row
        for rows, _ in BLOCKS[:blocks]
        for position, row in rows.items()
        if position >> SLOT_SHIFT in range(slots.begin, slots.end)
    }


def test_it_knows_how_far_it_is(tmp_path: Path) -> None:
    piece = Piece.create(tmp_path / "piece-00100", 100, 0, identity=7)
    seen = [(piece.until, piece.tail_rows, piece.tail_bytes)]
    for rows, until in BLOCKS:
        piece.append(block(rows), until)
        seen.append((piece.until, piece.tail_rows, piece.tail_bytes))
    assert seen == [(100, 0, 0), (102, 1, 19), (102, 3, 19 + 24 + 90), (200, 0, 0), (300, 0, 0), (300, 4, 54)]
    again = Piece.open(piece.path)
    assert (again.until, again.tail_rows, again.tail_bytes, again.rows) == (300, 4, 54, 11)
    assert (again.identity, again.row_bytes, again.bytes) == (7, 0, piece.path.stat().st_size)
    assert piece.path.read_bytes()[8:16] == bytes([2, 0, 0, 0, 0, 0, 0, 0])
    assert content(again) == content(piece) == expected()


@pytest.mark.parametrize("slots", [SlotRange(0, 101), SlotRange(101, 103), SlotRange(102, 300), EVERYTHING])
def test_any_slots_can_be_read(tmp_path: Path, slots: SlotRange) -> None:
    piece = written(tmp_path / "piece-00100")
    assert content(piece, slots) == expected(slots)
    assert piece.count(slots) == len(expected(slots))
    assert piece.row_data_bytes(slots) == sum(map(len, expected(slots).values()))


def test_wherever_the_file_ends_whole_blocks_are_kept(tmp_path: Path) -> None:
    piece = written(tmp_path / "piece-00100")
    data, ends = piece.path.read_bytes(), [HEADER_BYTES, *ENDS]
    assert ends[-1] == len(data)
    for size in range(HEADER_BYTES, len(data) + 1):
        piece.path.write_bytes(data[:size])
        opened = Piece.open(piece.path)
        whole = max(end for end in ends if end <= size)
        assert opened.bytes == piece.path.stat().st_size == whole
        assert content(opened) == expected(blocks=ends.index(whole))


@settings(max_examples=60)
@given(st.data())
def test_a_changed_byte_is_found_and_what_is_before_it_kept(tmp_path_factory, data: st.DataObject) -> None:
    piece = written(tmp_path_factory.mktemp("piece") / "piece-00100")
    good = piece.path.read_bytes()
    at = data.draw(st.integers(HEADER_BYTES, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    piece.path.write_bytes(bytes(bad))
    opened = Piece.open(piece.path)
    assert opened.bytes <= at
    kept = sum(end <= opened.bytes for end in ENDS)
    assert content(opened) == expected(blocks=kept)
    for rows, until in BLOCKS[kept:]:
        opened.append(block(rows), until)
    assert piece.path.read_bytes() == good


def test_damage_after_opening_is_found_when_it_is_read(tmp_path: Path) -> None:
    piece = written(tmp_path / "piece-00100")
    for at in (-1, ENDS[-2] + 32 + 4 * 8):  # a byte of the last row, and of a length
        data = bytearray(piece.path.read_bytes())
        data[at] ^= 1
        piece.path.write_bytes(bytes(data))
        with pytest.raises(Unavailable, match="prepare again"):
            content(piece)
        assert (piece.until, piece.tail_rows, piece.rows) == (300, 0, 7)
        piece.append(block(BLOCKS[-1][0]), BLOCKS[-1][1])
        assert content(piece) == expected()
