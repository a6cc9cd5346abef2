"""Records: bytes that are fixed, what comes back, and bytes that are no record."""

from __future__ import annotations

import numpy as np

from ringpull.ps.live.record import LiveName, Record, RecordKind, decode, encode, encode_table, named_in

NAME = LiveName("ranker", 0x1234, "user")


def content_of(record: Record, table: int = 0, synced: int = 24) -> bytes:
    return b"".join(encode(record, table, synced=synced))


def a_record(**changes: object) -> Record:
    fields: dict[str, object] = {
        "kind": RecordKind.ROWS,
        "name": NAME,
        "row_bytes": 4,
        "stamp": 7,
        "writer": 8,
        "number": 9,
        "positions": np.array([1, 2, 3], np.uint64),
        "rows": np.arange(12, dtype=np.uint8),
    }
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_bytes_are_fixed() -> None:
    content = content_of(a_record())
    assert len(content) == 64 + 24 + 16
    assert content[:8] == b"RPLR\x68\0\0\0"
    assert content[16:64].hex() == (
        "1800000000000000" "0700000000000000" "0800000000000000" "0900000000000000"
        "02000000" "00000000" "03000000" "04000000"
    )  # fmt: skip
    assert content[8:16].hex() == "d2f1600c34762e3e"


def test_what_was_written_is_read() -> None:
    record = a_record()
    read = decode(memoryview(bytes(8) + content_of(record, 5)), 8)
    assert read is not None
    assert (read.kind, read.table, read.stamp, read.writer, read.number) == (RecordKind.ROWS, 5, 7, 8, 9)
    assert (read.row_bytes, read.synced, read.size) == (4, 24, 104)
    assert read.positions.tolist() == [1, 2, 3]
    assert read.rows.tolist() == list(range(12))


def test_rows_of_bytes_have_lengths() -> None:
    lengths = np.array([0, 5, 2], np.uint32)
    read = decode(memoryview(content_of(a_record(row_bytes=0, lengths=lengths, rows=np.arange(7, dtype=np.uint8)))), 0)
    assert read is not None
    assert (read.lengths.tolist(), read.rows.tolist()) == ([0, 5, 2], list(range(7)))


def test_a_table_is_named() -> None:
    read = decode(memoryview(b"".join(encode_table(NAME, 256, 3, synced=0))), 0)
    assert read is not None
    assert named_in(read) == (NAME, 256)


def test_of_a_record_with_any_byte_changed_or_cut_nothing_is_read() -> None:
    content = content_of(a_record())
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x10
        assert decode(memoryview(bytes(changed)), 0) is None, at
        assert decode(memoryview(content[:at]), 0) is None, at
