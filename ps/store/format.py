"""The byte format of a table's folder: file names, the header, and the two small numbers derived from the row count.

A folder holds one table, sorted by ring position, and is never written again. ps/README.md draws every file; here is
the header file, little-endian:

    0   8  magic, b"RPLTABLE"
    8   4  u32 format version, 1 to 3
    12  4  u32 bytes of the body
    16  8  u64 xxh3_64 of the body
    24  -  the body: a msgpack map, see `Header.to_bytes`

`Header.from_bytes` trusts nothing: every length is checked against the file before it is used, every field against
its type.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgpack
import xxhash

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.hashing import SLOTS
from ringpull.ps.spec import MAX_BYTES_ROW, RowType, TableSpec

HEADER, INDEX, POSITIONS, ROWS, BLOCKS = "header", "index", "positions", "rows", "blocks"
POSITION_BLOCKS = "position_blocks"
STARTS, START_BLOCKS = "starts", "start_blocks"
SECTIONS: Final = (INDEX, POSITIONS, ROWS, BLOCKS, POSITION_BLOCKS)
"""The files described by the header; all but ROWS carry one checksum for the whole file."""
BYTES_SECTIONS: Final = (*SECTIONS, STARTS, START_BLOCKS)
"""The files of a table whose rows are bytes."""
OPTIONAL_SECTIONS: Final = (POSITION_BLOCKS,)
"""Files that tables of earlier builds do not have; opening a table needs none of them."""
ROW_FILES: Final = (ROWS, STARTS)
"""Files whose damage is that of rows: keys are found all the same, and other rows are whole."""

MAGIC: Final = b"RPLTABLE"
FORMAT_VERSIONS: Final = (1, 2, 3)
"""Versions that this build reads. A table carries the lowest that can hold it: 1 has float32 rows, 2 all vectors, 3
bytes."""
PRELUDE: Final = struct.Struct("<8sIIQ")

MAX_HEADER_BYTES: Final = 4 << 20
"""Upper bound on a header; one with a default vector of the largest dim takes 0.6 MB."""

BLOCK_BYTES: Final = 1 << 20
"""Size from which on a block of rows ends, at the next slot boundary, or at twice this."""
BLOCK_ENTRY_BYTES: Final = 16
"""Bytes of an entry of BLOCKS, of POSITION_BLOCKS and of START_BLOCKS."""
START_BYTES: Final = 8
"""Bytes of an entry of STARTS."""

KEYS_PER_BUCKET: Final = 8
"""Mean of positions in a bucket: half a byte of index per key, and one or two cache lines of positions."""

FULL: Final = ((0, SLOTS),)
"""Slot ranges of a base that holds all of its table."""

SlotRanges = tuple[tuple[int, int], ...]


def format_version(spec: TableSpec) -> int:
    """Return the format version of a table: older builds go on reading what they can."""
    if spec.is_bytes:
        return 3
    return 1 if spec.row_type is RowType.FLOAT32 else 2


def section_names(spec: TableSpec) -> tuple[str, ...]:
    """Return the files of a table, without its header, in the order in which the header names them."""
    return BYTES_SECTIONS if spec.is_bytes else SECTIONS


def index_bits(rows: int) -> int:
    """Return over how many top bits of a position the index of a table of `rows` rows is built; at least 1."""
    buckets = rows / KEYS_PER_BUCKET
    bits = 1
    while (1 << bits) * 2**0.5 < buckets:  # the nearest power of two: 5.7 to 11.3 keys a bucket
        bits += 1
    return bits


def index_entry_bytes(rows: int) -> int:
    """Return the width of one index entry: 4 while every row number fits, else 8."""
    return 4 if rows < 1 << 32 else 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """File as the header describes it."""

    bytes: int
    checksum: int | None
    """xxh3_64 of the whole file; None for ROWS, whose blocks have their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a table's folder."""

    spec: TableSpec
    rows: int
    index_bits: int
    held: SlotRanges
    """Slot ranges that this folder has all rows of, ascending and disjoint. Keys elsewhere are unknown to it."""
    sections: Mapping[str, Section]
    copied_from: int | None = None
    """`identity` of the table that this is a copy of, in full or in part; None for an original."""
    identity: int = field(default=0, compare=False)
    """Identity of the content: `copied_from`, else the checksum of the header itself, which by way of `sections` covers
    every row. Known only of headers that were read."""

    @property
    def section_bytes(self) -> int:
        """Bytes of all files but the header."""
        return sum(section.bytes for section in self.sections.values())

    def to_bytes(self) -> bytes:
        """Return the whole header file."""
        fields: dict[str, Any] = {
            "spec": self.spec.to_dict(),
            "rows": self.rows,
            "index_bits": self.index_bits,
            "held": [list(held) for held in self.held],
            "sections": {name: [section.bytes, section.checksum] for name, section in self.sections.items()},
        }
        if self.copied_from is not None:
            fields["copied_from"] = self.copied_from
        body = msgpack.packb(fields)
        prelude = PRELUDE.pack(MAGIC, format_version(self.spec), len(body), xxhash.xxh3_64_intdigest(body))
        return prelude + bytes(body)

    @classmethod
    def from_bytes(cls, data: bytes, path: Path | str) -> Header:
        """Read a header file's bytes; `path`, or a URL, is for messages.

        Raises:
            CorruptData: It is no header, damaged, of another format version, or says what cannot be.
        """
        if len(data) < PRELUDE.size:
            raise CorruptData(f"{path}: {len(data)} bytes are too few for a header; the file is truncated")
        magic, version, body_bytes, checksum = PRELUDE.unpack_from(data)
        if magic != MAGIC:
            raise CorruptData(f"{path}: not a table header (it begins with {magic!r}, not {MAGIC!r})")
        if version not in FORMAT_VERSIONS:
            known = f"{FORMAT_VERSIONS[0]} to {FORMAT_VERSIONS[-1]}"
            raise CorruptData(f"{path}: format version {version}; this build reads {known}")
        body = data[PRELUDE.size :]
        if len(body) != body_bytes:
            raise CorruptData(f"{path}: the body has {len(body)} bytes, the prelude says {body_bytes}")
        if xxhash.xxh3_64_intdigest(body) != checksum:
            raise CorruptData(f"{path}: the checksum does not match; the header is damaged")
        try:
            header = cls._from_fields(msgpack.unpackb(body))
        except KeyError as exc:
            raise CorruptData(f"{path}: field {exc} is missing") from exc
        except (InvalidInput, TypeError, ValueError, AttributeError) as exc:
            raise CorruptData(f"{path}: {exc}") from exc
        due = format_version(header.spec)
        if version < due:
            raise CorruptData(f"{path}: format version {version} has no rows of type {header.spec.row_type.value}")
        if version > due:  # no build writes that, so the number is damaged: no checksum covers it
            raise CorruptData(f"{path}: format version {version}, where rows of this type have {due}")
        return replace(header, identity=checksum if header.copied_from is None else header.copied_from)

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Header:
        rows, bits, copied_from = fields["rows"], fields["index_bits"], fields.get("copied_from")
        if type(rows) is not int or not 0 <= rows < 1 << 48:
            raise ValueError(f"rows is {rows!r}; it must be a count")
        if type(bits) is not int or not 1 <= bits <= 48:
            raise ValueError(f"index_bits is {bits!r}; it must be from 1 to 48")
        if copied_from is not None and (type(copied_from) is not int or not 0 <= copied_from < 1 << 64):
            raise ValueError(f"copied_from is {copied_from!r}; it must be a checksum of 64 bits")
        spec = TableSpec.from_dict(fields["spec"])
        header = cls(
            spec=spec,
            rows=rows,
            index_bits=bits,
            held=check_held(fields["held"]),
            sections={
                name: Section(bytes=fields["sections"][name][0], checksum=fields["sections"][name][1])
                for name in section_names(spec)
                if name in fields["sections"] or name not in OPTIONAL_SECTIONS
            },
            copied_from=copied_from,
        )
        header._check_sizes()
        return header

    def _check_sizes(self) -> None:
        due = {
            INDEX: ((1 << self.index_bits) + 1) * index_entry_bytes(self.rows),
            POSITIONS: 8 * self.rows,
        }
        if self.spec.is_bytes:
            due[STARTS] = START_BYTES * (self.rows + 1)
            size = self.sections[ROWS].bytes
            if type(size) is not int or not 0 <= size <= MAX_BYTES_ROW * self.rows:
                raise ValueError(f"section {ROWS} has {size!r} bytes; {self.rows} rows have 0 to {MAX_BYTES_ROW} each")
        else:
            due[ROWS] = self.spec.row_bytes * self.rows
        for name, size in due.items():
            if self.sections[name].bytes != size:
                raise ValueError(
                    f"section {name} has {self.sections[name].bytes!r} bytes; {self.rows} rows make {size}"
                )
        blocks = self.sections[BLOCKS].bytes
        if type(blocks) is not int or not 0 <= blocks <= BLOCK_ENTRY_BYTES * self.rows or blocks % BLOCK_ENTRY_BYTES:
            raise ValueError(f"section {BLOCKS} has {blocks!r} bytes; it must be {BLOCK_ENTRY_BYTES} per block of rows")
        for name in (POSITION_BLOCKS, START_BLOCKS):
            if (known := self.sections.get(name)) is not None and known.bytes != blocks:
                raise ValueError(f"section {name} has {known.bytes!r} bytes, section {BLOCKS} {blocks}")
        for name, section in self.sections.items():
            if (type(section.checksum) is not int) if name != ROWS else (section.checksum is not None):
                raise ValueError(f"section {name} has the checksum {section.checksum!r}")


def check_held(ranges: Any) -> SlotRanges:
    """Return slot ranges as tuples, checked to be half open, ascending, disjoint and within the ring.

    Raises:
        ValueError: They are not.
    """
    held = tuple((begin, end) for begin, end in ranges)
    last = 0
    for begin, end in held:
        if type(begin) is not int or type(end) is not int or not last <= begin < end <= SLOTS:
            raise ValueError(f"held slot ranges {held} must be ascending, disjoint and within 0..{SLOTS}")
        last = end
    return held
