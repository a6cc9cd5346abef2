"""Record: what one push did to one table, as bytes of a log. Sans-IO.

Little-endian; every record begins at a multiple of 8:

    offset size  field
    0      4     magic, b"RPLR"
    4      4     u32 bytes of the record, this header and its padding included; a multiple of 8
    8      8     u64 xxh3_64 of all that follows, to its end
    16     8     u64 bytes of this file that were known to be on disk when the record was written
    24     8     u64 stamp
    32     8     u64 writer; of DELTA the identity of the delta's rows
    40     8     u64 number; of DELTA what it says, see below
    48     4     u32 kind
    52     4     u32 table: which of the tables that TABLE records of this file named, from 0
    56     4     u32 rows, n
    60     4     u32 bytes of a row; 0: rows of bytes
    64           n x u64 positions
                 n x u32 lengths, only of rows of bytes, zero-padded to a multiple of 8
                 rows end to end, zero-padded to a multiple of 8

| kind | says | n | rows |
|---|---|---|---|
| TABLE = 1 | model, lineage, table and bytes of a row of the next table of this file | 0 | msgpack array of these |
| ROWS = 2 | a push of rows | keys | as stored |
| GONE = 3 | a push that removed keys | keys | none |
| NUMBERS = 4 | last number of a writer, by slot | slots, as positions | u64 each |
| DELTA = 5 | a delta was opened first after the push with this stamp | 0 or more, no positions | none |
| FORGOTTEN = 6 | the table was forgotten, with all up to this stamp: its lineage was closed | 0 | none |

NUMBERS of no slots are a mark: the table has pushed rows, or is to have some. Its number is then the stamp up to which
they are in a fold, which has to be there.

DELTA has one of five numbers. 1: where there would be positions stand the number of the version that brought it, the
identity of the keys that went with it, and that of the version, each 0 where there is none, or it is not known. 4: the
same, and as the fourth the number of the publish that opened it, as no version that has it was served yet: 1 follows
once one is, and for another publish it counts as never opened. 2: as 1, and it counts as never opened; written by
builds that knew a publish which was given up by its version being closed, and wrote 4 without its number. 3: it is of
no delta, but has first and last stamp of each run that the shard gave (`ringpull.ps.live.stamp`). 0: as an earlier
build wrote it, without these, and reads all of them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData
from ringpull.ps.no_arrays import no_bytes, no_lengths, no_positions
from ringpull.ps.spec import UInt64Array

MAGIC: Final = b"RPLR"
HEADER: Final = struct.Struct("<4sIQQQQQIIII")
_UNCHECKED: Final = struct.Struct("<4sIQ")
_CHECKED: Final = struct.Struct("<QQQQIIII")
"""The two parts of a header: the checksum covers the second one, and all that follows."""
ALIGNMENT: Final = 8
CHECKED_FROM: Final = _UNCHECKED.size
"""Offset of the first byte that the checksum covers."""
JOIN_BYTES: Final = 4096
"""Size up to which a record is one piece: a copy costs less there than more entries of a writev."""
MAX_RECORD_BYTES: Final = 1 << 30
"""Size that no record exceeds: more than a frame of a push may have."""


class RecordKind(IntEnum):
    """Kind of a record."""

    TABLE = 1
    ROWS = 2
    GONE = 3
    NUMBERS = 4
    DELTA = 5
    FORGOTTEN = 6


_KINDS: Final = {int(kind): kind for kind in RecordKind}

OF_VERSION, NOT_OPENED, OF_STAMPS, UNSERVED = 1, 2, 3, 4
"""Numbers of DELTA records; 0: by an earlier build."""

SERVED, UNNAMED = 0, 1
"""Values in place of the number of a publish: there is none any more; it is not known."""


class LiveName(NamedTuple):
    """Name of what pushed rows belong to: a table in all versions of a lineage of a model."""

    model: str
    lineage: int
    table: str

    def __str__(self) -> str:
        return f"{self.model}/{self.table} of lineage {self.lineage:016x}"


class Record(NamedTuple):
    """Record as a value."""

    kind: RecordKind
    name: LiveName
    row_bytes: int
    """Bytes of a row of the table; 0: rows of bytes."""
    stamp: int
    writer: int = 0
    number: int = 0
    positions: UInt64Array = no_positions()
    rows: NDArray[np.uint8] = no_bytes()
    """Rows end to end."""
    lengths: NDArray[np.uint32] = no_lengths()
    """(n,) of rows of bytes; else (0,)."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.positions.nbytes + self.rows.nbytes + self.lengths.nbytes


NO_TABLE: Final = LiveName("", 0, "")
"""Name in records that are of the whole shard."""


class DeltaKey(NamedTuple):
    """Key by which it is known when a delta was first opened: the rows of two versions may be the same."""

    changed: int
    """Identity of its rows."""
    version: int
    """Version that brought it."""
    gone: int
    """Identity of the keys that went; 0: there are none."""


def delta_record(name: LiveName, row_bytes: int, key: DeltaKey, stamp: int, made: int, publish: int) -> Record:
    """Return the record that says after which push a delta was first opened.

    Args:
        made: Identity of the version that brought it; 0: not known.
        publish: Publish that opened it, while no version that has it was served; `SERVED`: one was.
    """
    number, more = (OF_VERSION, []) if publish == SERVED else (UNSERVED, [publish])
    said = np.array([key.version, key.gone, made, *more], np.uint64)
    return Record(RecordKind.DELTA, name, row_bytes, stamp, key.changed, number, said)


def stamps_record(runs: UInt64Array, stamp: int) -> Record:
    """Return the record that says which stamps a shard gave, up to this one."""
    return Record(RecordKind.DELTA, NO_TABLE, 0, stamp, 0, OF_STAMPS, runs)


class Read(NamedTuple):
    """Record as it was read from a file."""

    kind: RecordKind
    table: int
    stamp: int
    writer: int
    number: int
    row_bytes: int
    positions: UInt64Array
    rows: NDArray[np.uint8]
    lengths: NDArray[np.uint32]
    synced: int
    size: int
    content: memoryview
    """The file that it was read from, which its arrays view."""
    rows_at: int
    """Offset of its rows there."""


def encode_table(name: LiveName, row_bytes: int, table: int, *, synced: int) -> list[bytes | memoryview]:
    """Return the bytes of the record that names a table of a file."""
    body = np.frombuffer(msgpack.packb([*name, row_bytes]), np.uint8)
    record = Record(RecordKind.TABLE, name, body.size, 0, rows=body)
    return encode(record, table, synced=synced)


def encode(record: Record, table: int, *, synced: int) -> list[bytes | memoryview]:
    """Return the bytes of a record, in pieces that view its arrays.

    Args:
        table: Number of its table in the file.
        synced: Bytes of the file that are known to be on disk.
    """
    kind, _, row_bytes, stamp, writer, number, positions, rows, lengths = record
    pieces: list[bytes | memoryview] = [b""]
    size = HEADER.size
    for array in (positions, lengths, rows):
        if nbytes := array.nbytes:
            pieces.append(np.ascontiguousarray(array).data.cast("B"))
            if padding := -nbytes % ALIGNMENT:
                pieces.append(bytes(padding))
                nbytes += padding
            size += nbytes
    if kind is RecordKind.NUMBERS:
        row_bytes = 8
    elif kind is RecordKind.TABLE:
        row_bytes = rows.size
    head = _CHECKED.pack(synced, stamp, writer, number, kind, table, positions.size, row_bytes)
    if size <= JOIN_BYTES:
        pieces[0] = head
        content = b"".join(pieces)
        return [_UNCHECKED.pack(MAGIC, size, xxhash.xxh3_64_intdigest(content)) + content]
    state = xxhash.xxh3_64(head)
    for piece in pieces[1:]:
        state.update(piece)
    pieces[0] = _UNCHECKED.pack(MAGIC, size, state.intdigest()) + head
    return pieces


def decode(content: memoryview, begin: int) -> Read | None:
    """Return the record that begins at an offset of a file; None: there is no whole one. Its arrays view `content`."""
    if len(content) - begin < HEADER.size:
        return None
    magic, size, checksum, synced, stamp, writer, number, kind_code, table, count, row_bytes = HEADER.unpack_from(
        content, begin
    )
    if magic != MAGIC or not HEADER.size <= size <= min(len(content) - begin, MAX_RECORD_BYTES) or size % ALIGNMENT:
        return None
    if xxhash.xxh3_64_intdigest(content[begin + CHECKED_FROM : begin + size]) != checksum:
        return None
    kind = _KINDS.get(kind_code)
    if kind is None:
        raise CorruptData(f"a record at byte {begin} has the kind {kind_code}, which this build does not know")
    body = np.frombuffer(content[begin + HEADER.size : begin + size], np.uint8)
    at = count * 8
    positions = body[:at].view(np.uint64)
    lengths = no_lengths()
    if kind is RecordKind.TABLE:
        due = row_bytes
    elif kind is RecordKind.ROWS and not row_bytes:
        lengths = body[at : at + count * 4].view(np.uint32)
        at += (count * 4 + 7) // 8 * 8
        due = int(lengths.sum(dtype=np.int64))
    else:
        due = count * row_bytes if kind in (RecordKind.ROWS, RecordKind.NUMBERS) else 0
    if at + (due + 7) // 8 * 8 != body.size:
        raise CorruptData(f"a record at byte {begin} has {body.size} bytes of arrays, which its counts do not make")
    rows, rows_at = body[at : at + due], begin + HEADER.size + at
    return Read(kind, table, stamp, writer, number, row_bytes, positions, rows, lengths, synced, size, content, rows_at)


def named_in(read: Read) -> tuple[LiveName, int]:
    """Return the table that a TABLE record names, and the bytes of a row of it.

    Raises:
        CorruptData: It is no such record.
    """
    try:
        model, lineage, table, row_bytes = msgpack.unpackb(read.rows.tobytes())
        return LiveName(str(model), int(lineage), str(table)), int(row_bytes)
    except (ValueError, TypeError) as exc:
        raise CorruptData(f"a record that should name a table does not: {exc}") from exc
