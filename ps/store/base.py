"""A base: one table's immutable file set, mapped and never written.

Opening verifies the header, the index, the positions and all sizes (a truncated map would be a SIGBUS, not an
exception), so a base that opened finds keys correctly. The rows are not read: each block of them has a checksum, and
`verify` goes through those. Because positions are uniform and sorted, a small index over their top bits finds a key
in about two cache misses, and a slot range is one interval of positions and of rows. A folder with only some slot
ranges is a base too.

A base and what was made from it keep the maps alive: `close` never takes memory from under a reader.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput, OtherContent
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.identity import UNKNOWN, differ, text_of
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.spec import Float32Array, TableSpec, UInt64Array
from ringpull.ps.store import format as fmt
from ringpull.ps.store import kernels
from ringpull.ps.store.file_errors import opened, unreadable
from ringpull.ps.store.file_stamp import FileStamp
from ringpull.ps.store.format import Header, SlotRanges
from ringpull.ps.store.links import check_links
from ringpull.ps.store.mapping import MADV_POPULATE_READ, advise
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.store.row_codec import decode
from ringpull.ps.store.sections import Sections, map_sections

_POPULATE_BYTES: Final = 64 << 20
_PAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class BadBlock:
    """A block of rows that has bytes which are not those that were written."""

    block: int
    first_row: int
    rows: int
    slots: tuple[int, int]
    """Slots [begin, end) that have a row in the block."""
    file: str = fmt.ROWS
    """File in which these bytes are."""


class Base:
    """Opened table folder; all methods may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        header: Header,
        stamps: Mapping[str, FileStamp],
        sections: Sections,
        within: Path | None = None,
    ) -> None:
        """Use `Base.open`."""
        self.folder = folder
        self.within = within
        """Folder that no file may lead out of; None: its own."""
        self.spec: TableSpec = header.spec
        self.rows: int = header.rows
        self.bytes: int = header.section_bytes + stamps[fmt.HEADER].size
        self.held: SlotRanges = header.held
        self.index_bits: int = header.index_bits
        self.identity: int = header.identity
        self.checksums: Mapping[str, int | None] = {name: each.checksum for name, each in header.sections.items()}
        """Checksum of each file, by its name; None for the rows."""
        self.stamps = stamps
        """Stamp of each file as it was when it was opened, by its name."""
        self.block_positions: UInt64Array = _block_positions(header.rows, sections)
        """(blocks, 2): first and last position of each block, in memory."""
        self.rows_bytes: int = header.sections[fmt.ROWS].bytes
        """Bytes of all rows."""
        self.block_bounds: NDArray[np.int64] = _block_bounds(header, sections)
        """(blocks + 1,): where each block of rows begins in their file, and the last one ends; in memory."""
        self._sections: Sections | None = sections

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        verify_rows: bool = False,
        within: Path | None = None,
        identity: int = UNKNOWN,
        like: Iterable[Base] = (),
    ) -> Base:
        """Map a table's folder after checking everything but the rows; those too with `verify_rows`.

        Args:
            within: Folder that no file may lead out of through a link; None: the table's own.
            identity: Identity that the table must have, which is looked at before anything is read; 0: any.
            like: Open bases. If one was made of these very files, as they are now, they are not mapped and read again.

        Raises:
            CorruptData: A file is missing, damaged, truncated, of another format, or a link that leads out; the message
            names it and what is wrong.
            OtherContent: It has another identity.
            Unavailable: A file cannot be read now, which says nothing of what is in it.
        """
        check_links(folder, within)
        header_path = folder / fmt.HEADER
        header_data, stamp = _read_header(header_path)
        header = Header.from_bytes(header_data, header_path)
        if differ(header.identity, identity):
            what = f"table {header.spec.name} in {folder}"
            raise OtherContent.found(what, text_of(header.identity), text_of(identity))
        same = next((base for base in like if base.is_of(folder, header, stamp)), None)
        if same is not None:
            stamps, sections = same.stamps, same.sections
        else:
            stamps, sections = map_sections(folder, header)
            stamps[fmt.HEADER] = stamp
        base = cls(folder, header, stamps, sections, within)
        if verify_rows:
            base.check_rows(0, base.rows)
        return base

    def is_of(self, folder: Path, header: Header, stamp: FileStamp) -> bool:
        """Return whether this base was made of the files in a folder, and none has been written to since.

        Args:
            header: Header of the folder.
            stamp: Stamp of its file.
        """
        if self._sections is None or (self.identity, self.held) != (header.identity, header.held):
            return False
        if self.stamps[fmt.HEADER] != stamp:
            return False
        try:
            return all(
                FileStamp.of((folder / name).stat()) == known
                for name, known in self.stamps.items()
                if name != fmt.HEADER
            )
        except OSError:
            return False

    @property
    def sections(self) -> Sections:
        """The mapped arrays; as long as they are referred to, the files stay mapped."""
        if self._sections is None:
            raise InvalidInput(f"table {self.spec.name}: {self.folder} was closed")
        return self._sections

    @property
    def block_count(self) -> int:
        """Number of checksummed blocks that the rows are cut into."""
        return len(self.sections.blocks)

    def find(self, positions: UInt64Array) -> NDArray[np.int64]:
        """Return the row number of each position (N,), -1 where the table has none."""
        sections = self.sections
        out = np.empty(len(positions), np.int64)
        kernels.find(sections.index, self.index_bits, sections.positions, np.ascontiguousarray(positions), out)
        return out

    def row_range(self, begin_slot: int, end_slot: int) -> tuple[int, int]:
        """Return the rows [first, last) of the slots [begin, end)."""
        if not 0 <= begin_slot <= end_slot <= SLOTS:
            raise InvalidInput(f"slots {begin_slot}..{end_slot} are not a range within 0..{SLOTS}")
        positions = self.sections.positions
        first, last = (
            self.rows if slot == SLOTS else int(np.searchsorted(positions, np.uint64(slot << SLOT_SHIFT)))
            for slot in (begin_slot, end_slot)
        )
        return first, last

    def positions_slice(self, first: int, last: int) -> UInt64Array:
        """Return the positions of rows [first, last): a read-only view of the map."""
        return self.sections.positions[first:last]

    def byte_range(self, first: int, last: int) -> tuple[int, int]:
        """Return where in their file rows [first, last) begin and end; within it even if starts are damaged."""
        if not self.spec.is_bytes:
            return first * self.spec.row_bytes, last * self.spec.row_bytes
        starts = self.sections.starts
        begin = min(int(starts[first]), self.rows_bytes)
        return begin, max(begin, min(int(starts[last]), self.rows_bytes))

    def rows_within(self, first: int, last: int, max_bytes: int) -> int:
        """Return the end of rows [first, ...) that have at most `max_bytes` together, `last` at most; at least one."""
        if not self.spec.is_bytes:
            return min(last, first + max(1, max_bytes // self.spec.row_bytes))
        end = _starts_within(self.sections.starts, first, last, max_bytes)
        return min(last, max(first + 1, end))

    def raw_rows(self, first: int, last: int) -> RawRows:
        """Return rows [first, last) as stored: a read-only view of the map, of rows of bytes with offsets of its own.

        Raises:
            CorruptData: Where rows of bytes begin is damaged.
        """
        sections = self.sections
        if not self.spec.is_bytes:
            return sections.rows[first:last]
        offsets = sections.starts[first : last + 1].astype(np.int64)
        if offsets[0] < 0 or int(offsets[-1]) > self.rows_bytes or bool((offsets[1:] < offsets[:-1]).any()):
            raise CorruptData(f"{self.folder / fmt.STARTS}: the starts of rows {first} to {last} are damaged")
        return BytesRows(sections.rows[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])

    def row(self, number: int) -> Float32Array:
        """Return one row, float32 (dim,), as a copy.

        Raises:
            IndexError: There is no such row.
            InvalidInput: Rows are bytes.
        """
        if not 0 <= number < self.rows:
            raise IndexError(f"table {self.spec.name} has rows 0 to {self.rows - 1}, not {number}")
        if self.spec.is_bytes:
            raise InvalidInput(f"table {self.spec.name}: its rows are bytes, which are no vectors")
        row: Float32Array = decode(self.sections.rows[number : number + 1], self.spec)[0]
        return row

    def held_mask(self) -> SlotMask:
        """Return the slots of which this folder has all rows, new."""
        mask = np.zeros(SLOTS, np.uint8)
        for begin, end in self.held:
            mask[begin:end] = 1
        return mask

    def verify(self, blocks: Iterable[int] | None = None) -> list[BadBlock]:
        """Read the rows of some blocks (default: all) and return those whose checksum does not match."""
        sections = self.sections
        firsts = np.append(sections.blocks[:, 0], np.uint64(self.rows)).astype(np.int64)
        data = sections.rows.reshape(-1)
        bad = []
        for block in range(self.block_count) if blocks is None else blocks:
            first, last = int(firsts[block]), int(firsts[block + 1])
            begin, end = int(self.block_bounds[block]), int(self.block_bounds[block + 1])
            file = ""
            if xxhash.xxh3_64_intdigest(data[begin:end].data) != int(sections.blocks[block, 1]):
                file = fmt.ROWS
            elif self.spec.is_bytes:
                starts = sections.starts[first : last + 1]
                if xxhash.xxh3_64_intdigest(starts.data) != int(sections.start_blocks[block, 1]):
                    file = fmt.STARTS
            if file:
                slots = sections.positions[[first, last - 1]] >> np.uint64(SLOT_SHIFT)
                bad.append(BadBlock(block, first, last - first, (int(slots[0]), int(slots[1]) + 1), file))
        return bad

    def check_rows(self, first: int, last: int) -> None:
        """Verify the blocks whose first row is one of [first, last): of all rows, range after range, each block once.

        Raises:
            CorruptData: Some are damaged; names the file.
        """
        begin, end = np.searchsorted(self.sections.blocks[:, 0], np.array([first, last], np.uint64)).tolist()
        if bad := self.verify(range(begin, end)):
            begin, end = bad[0].first_row, bad[0].first_row + bad[0].rows
            raise CorruptData(
                f"{self.folder / bad[0].file}: {len(bad)} blocks are damaged, the first holds rows {begin} to {end}"
            )

    def prefault(self) -> None:
        """Bring every page into this process, so that no look-up waits for the disk."""
        sections = self.sections
        for array in (sections.index, sections.positions, sections.starts, sections.rows):
            if array.size == 0:
                continue
            for start in range(0, array.nbytes, _POPULATE_BYTES):
                size = min(_POPULATE_BYTES, array.nbytes - start)
                try:
                    advise(array, MADV_POPULATE_READ, start, size)
                except OSError:  # an older kernel: touch the pages ourselves
                    array.reshape(-1).view(np.uint8)[start : start + size : _PAGE_BYTES].max()

    def close(self) -> None:
        """Let go of the maps; they go with the last reference to them. Further use raises `InvalidInput`."""
        self._sections = None

    def __repr__(self) -> str:
        state = "closed" if self._sections is None else "open"
        return f"<Base {self.spec.name} rows={self.rows} dim={self.spec.dim} bytes={self.bytes} {state}>"


def _read_header(path: Path) -> tuple[bytes, FileStamp]:
    try:
        with opened(path) as file:
            stamp = FileStamp.of(os.fstat(file.fileno()))
            data = file.read(fmt.MAX_HEADER_BYTES + 1)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    if len(data) > fmt.MAX_HEADER_BYTES:
        raise CorruptData(f"{path}: larger than a header may be, {fmt.MAX_HEADER_BYTES} bytes")
    return data, stamp


def _block_positions(rows: int, sections: Sections) -> UInt64Array:
    firsts = sections.blocks[:, 0].astype(np.int64)
    lasts = np.append(firsts[1:], rows)[: len(firsts)] - 1
    return np.stack([sections.positions[firsts], sections.positions[lasts]], axis=1)


def _block_bounds(header: Header, sections: Sections) -> NDArray[np.int64]:
    if header.spec.is_bytes:
        begins = sections.start_blocks[:, 0].astype(np.int64)
    else:
        begins = sections.blocks[:, 0].astype(np.int64) * header.spec.row_bytes
    return np.append(begins, header.sections[fmt.ROWS].bytes)


def _starts_within(starts: UInt64Array, first: int, last: int, max_bytes: int) -> int:
    """Return the number of the last start, of those from `first` to `last`, that is within `max_bytes` of the first.

    Where a row starts counts as bytes of it, so that empty rows are not taken without end.
    """
    last = min(last, first + max_bytes // fmt.START_BYTES)
    sizes = (starts[first : last + 1] - starts[first]).astype(np.int64)
    sizes += np.arange(len(sizes), dtype=np.int64) * fmt.START_BYTES
    return first + int(np.searchsorted(sizes, max_bytes, side="right")) - 1
