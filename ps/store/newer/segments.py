"""Segments: what words point to. Blocks of the arena, to which rows are appended, and files that are mapped: bases, and
the log that was read again.

One table's, shared by the directories of all its open versions. Readers hold a `Generation`: with it the memory of
every segment stays that a word of their directory can name, also of those that were added since, until the last reader
is done. One writer adds, appends and drops.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, InvalidInput, LimitExceeded
from ringpull.ps.spec import MAX_BYTES_ROW, UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.format import START_BYTES
from ringpull.ps.store.gather import gather
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer import kernels
from ringpull.ps.store.newer.arena import Block, BytesBlock, GoneBlock, RowBlock, VectorBlock
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.directory import LAST_POSITION, Directory
from ringpull.ps.store.newer.fold_kernels import copy_rows
from ringpull.ps.store.newer.logged import LoggedRows
from ringpull.ps.store.newer.spares import Spares
from ringpull.ps.store.newer.stamp_kernels import NO_SEGMENT, STAMP_FIELDS, gone_of, stamps_of
from ringpull.ps.store.newer.words import MAX_SEGMENTS, SEGMENT_SHIFT, offsets_of, segments_of
from ringpull.ps.store.raw_rows import RawRows

FIRST_BLOCK_BYTES: Final = 1 << 20
MAX_BLOCK_BYTES: Final = 64 << 20
"""Sizes of blocks: each is twice the last one, up to the larger."""

NO_LIMIT: Final = 1 << 62
_GONE_BLOCK_BYTES: Final = 64 << 10
_PAGE_BYTES: Final = 4096
_NO_WORDS: Final = np.empty(0, np.uint64)
_NO_ROWS: Final = "words of rows that are gone have no rows"

Stamps = UInt64Array | Sequence[int] | int


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Segment:
    """One segment: a block of the arena, or what is mapped of a base or of a log."""

    number: int
    keeps: Any
    """What keeps its memory."""
    fields: tuple[int, int, int, int]
    stamps: UInt64Array | LoggedRows | int
    """Stamp of each row, or one of all of them, or what knows them by their offset."""
    step: int
    """Bytes from the offset of one row to that of the next."""
    block: Block | None = None


class Generation:
    """Segments that somebody may read from."""

    def __init__(self, segments: Iterable[_Segment], table: UInt64Array) -> None:
        self._segments = list(segments)
        self._table = table
        self.table_at: int = address(table)
        """The numbers of all segments as kernels read them, `kernels.SEGMENT_FIELDS` of each."""

    def add(self, segment: _Segment) -> None:
        """Keep another segment, too."""
        self._segments.append(segment)


class Reserved(NamedTuple):
    """Place in the arena that rows of vectors may be written to."""

    block: VectorBlock
    first: int
    """Number of the first row in its block."""
    word: int
    """Word of the first row."""


class Segments:
    """The segments of one table."""

    def __init__(self, row_bytes: int, budget: Budget | None = None) -> None:
        """Start without any.

        Args:
            row_bytes: Bytes of a row as stored (`TableSpec.row_bytes`); 0: rows are bytes of any length.
            budget: What the arena's memory is taken from; None: as much as there is.
        """
        self.row_bytes = row_bytes
        self._budget = Budget(NO_LIMIT) if budget is None else budget
        # Where segments are, 2 MiB of which the pages are taken that are used. Kernels read it, so it stays in place.
        self._table = np.zeros((MAX_SEGMENTS, kernels.SEGMENT_FIELDS), np.uint64)
        self._segments: dict[int, _Segment] = {}
        self._free: list[int] = []
        self._highest = 0
        self._open: tuple[_Segment, RowBlock] | None = None
        self._next_block_bytes = FIRST_BLOCK_BYTES
        self._open_gone: tuple[_Segment, GoneBlock] | None = None
        self._generation = Generation((), self._table)
        self._generations = weakref.WeakSet([self._generation])

    @property
    def is_bytes(self) -> bool:
        """Whether rows are bytes of any length."""
        return self.row_bytes == 0

    @property
    def spares(self) -> Spares:
        """Memory that blocks had, and others may have."""
        return self._budget.spares

    @property
    def generation(self) -> Generation:
        """What to hold for as long as words may be read."""
        return self._generation

    @property
    def memory_bytes(self) -> int:
        """Memory of the arena, used or not."""
        return sum(each.block.nbytes for each in self._segments.values() if each.block)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all rows in the arena, and their stamps, also of those that no word points to any more."""
        return sum(each.block.used_bytes for each in self._segments.values() if each.block)

    # -- writing -------------------------------------------------------------------------------------------------------

    def add_base(self, base: Base, stamps: Stamps = 0) -> int:
        """Add the rows of a base, without copying them; return the segment's number.

        Args:
            stamps: Of each row (rows,), or of all of them.

        Raises:
            InvalidInput: Its rows are of another kind.
        """
        sections, spec = base.sections, base.spec
        if (0 if spec.is_bytes else spec.row_bytes) != self.row_bytes:
            raise InvalidInput(
                f"table {spec.name}: {base.folder} has rows of {spec.row_type} and dim {spec.dim}; others do not"
            )
        if spec.is_bytes:
            fields = (address(sections.starts), address(sections.rows), base.rows_bytes, 0)
        else:
            fields = (address(sections.rows), 0, 0, 0)
        of_rows = stamps if isinstance(stamps, int) else np.ascontiguousarray(stamps, np.uint64)
        if not isinstance(of_rows, int) and of_rows.shape != (base.rows,):
            raise InvalidInput(f"table {spec.name}: {of_rows.shape} stamps for {base.rows} rows")
        return self._add(sections, fields, of_rows, START_BYTES if spec.is_bytes else spec.row_bytes).number

    def add_log(self, content: mmap.mmap) -> tuple[int, LoggedRows]:
        """Add a mapped file of a log, in which there are rows of vectors; return the segment's number, and its rows."""
        if self.is_bytes:
            raise InvalidInput("rows of bytes need their starts beside them, which a log does not have")
        rows = LoggedRows(content, self.row_bytes)
        return self._add(rows, rows.fields(), rows, 1).number, rows

    def words_between(self, number: int, begin: int, end: int) -> UInt64Array:
        """Return the words of rows [begin, end) of a base, by the number of its segment and their own."""
        segment = self._segments[number]
        return _words_from(segment, begin * segment.step, end - begin)

    def append(self, rows: RawRows, stamps: Stamps) -> UInt64Array:
        """Copy rows into the arena; return their words (n,).

        Args:
            rows: uint8 (n, row_bytes), or `BytesRows` where rows are bytes.
            stamps: Of each row (n,), or of all of them.

        Raises:
            LimitExceeded: There is no memory left for them. Nothing was written.
        """
        self._check(rows)
        count = len(rows)
        each = stamps if isinstance(stamps, int) else np.asarray(stamps, np.uint64)
        if not isinstance(each, int) and each.shape != (count,):
            raise InvalidInput(f"newer rows: {each.shape} stamps for {count} rows")
        parts, begin = [_NO_WORDS], 0
        for segment, block, end in self._places(rows):
            offset = block.write(rows, begin, end, each if isinstance(each, int) else each[begin:end])
            parts.append(_words_from(segment, offset, end - begin))
            begin = end
        return parts[-1] if len(parts) <= 2 else np.concatenate(parts)

    def reserved(self, count: int) -> Reserved | None:
        """Return where the next rows may be written; None: a new block is due. `VectorBlock.keep` comes after."""
        if self._open is None:
            return None
        segment, block = self._open
        if not isinstance(block, VectorBlock):
            return None
        first = block.reserved(count)
        return None if first is None else Reserved(block, first, (segment.number << SEGMENT_SHIFT) + first * block.step)

    def gone(self, stamps: Stamps, count: int = 1) -> UInt64Array:
        """Return words (n,) that say that rows are gone since these stamps; of one stamp `count` words.

        Raises:
            LimitExceeded: There is no memory left for the stamps. Nothing was written.
        """
        each = np.atleast_1d(np.asarray(stamps, np.uint64))
        if len(each) == 1:
            each = np.broadcast_to(each, (count,))
        if self._open_gone is None or self._open_gone[1].room < len(each):
            block = GoneBlock(max(_GONE_BLOCK_BYTES, each.nbytes), self._budget)
            self._open_gone = self._add(block, block.fields(), block.stamps, block.step, block), block
        segment, block = self._open_gone
        return _words_from(segment, block.write(each), len(each))

    def gone_apart(self, stamps: UInt64Array) -> tuple[int, UInt64Array]:
        """Return words (n,) as `gone` does, n > 0, and the number of a segment that has nothing else.

        Raises:
            LimitExceeded: There is no memory left for the stamps.
        """
        block = GoneBlock(stamps.nbytes, self._budget)
        segment = self._add(block, block.fields(), block.stamps, block.step, block)
        return segment.number, _words_from(segment, block.write(stamps), len(stamps))

    def is_gone(self, words: UInt64Array) -> NDArray[np.bool_]:
        """Return which words (n,) say that their row is gone."""
        words = np.ascontiguousarray(words)
        gone = np.empty(len(words), np.bool_)
        gone_of(address(words), address(self._table), gone)
        return gone

    def seal(self) -> list[int]:
        """Have rows and removals go to new blocks from now on; return the numbers of all so far, and of all logs."""
        self._open = self._open_gone = None
        self._next_block_bytes = FIRST_BLOCK_BYTES
        return [number for number, each in self._segments.items() if each.block or isinstance(each.stamps, LoggedRows)]

    def logs(self) -> dict[int, LoggedRows]:
        """Return the rows that lie in mapped files of a log, by the numbers of their segments."""
        return {number: each.stamps for number, each in self._segments.items() if isinstance(each.stamps, LoggedRows)}

    def drop(self, number: int) -> None:
        """Let go of a segment that no directory has a word of any more.

        Its memory goes with the last table that was made before, so make the tables that are to stay anew.
        """
        segment = self._segments.pop(number)
        if self._open is not None and self._open[0] is segment:
            self._open = None
        if self._open_gone is not None and self._open_gone[0] is segment:
            self._open_gone = None
        self._generation = Generation(self._segments.values(), self._table)
        self._generations.add(self._generation)

    def tidied(self, directories: Sequence[Directory]) -> list[int]:
        """Copy what a directory points to in the arena together, rows and removals, and flip the words to the copies.

        Returns:
            The numbers of the blocks they were in, which may be dropped.

        Raises:
            LimitExceeded: There is no memory for the copies. No word was changed.
        """
        old = np.array(self.seal(), np.uint64)
        walked = [_words_in(each, old) for each in directories]
        live = np.unique(np.concatenate([_NO_WORDS, *(words for _, words in walked)]))
        gone, stamps = self.is_gone(live), self.stamps(live)
        copies = np.empty(len(live), np.uint64)
        copies[~gone] = self.append(self.rows(live[~gone]), stamps[~gone])
        if gone.any():
            copies[gone] = self.gone(stamps[gone])
        for directory, (positions, words) in zip(directories, walked, strict=True):
            directory.put(positions, copies[np.searchsorted(live, words)])
        return [int(number) for number in old]

    def _places(self, rows: RawRows) -> list[tuple[_Segment, RowBlock, int]]:
        """Return where rows go: blocks, and up to which row each takes them; new ones where they are needed."""
        places: list[tuple[_Segment, RowBlock, int]] = []
        new: list[tuple[RowBlock, int]] = []
        begin, count, size = 0, len(rows), self._next_block_bytes
        if self._open is not None and count:
            begin = self._open[1].fitting(rows, 0)
            places = [(*self._open, begin)] if begin else []
            if begin == count:  # mostly
                return places
        while begin < count:
            block = self._new_block(rows, begin, size)
            begin += block.fitting(rows, begin)
            size = min(2 * size, MAX_BLOCK_BYTES)
            new.append((block, begin))
        for block, end in new:
            segment = self._add(block, block.fields(), block.stamps, block.step, block)
            self._open = segment, block
            places.append((segment, block, end))
        self._next_block_bytes = size
        return places

    def _new_block(self, rows: RawRows, begin: int, size: int) -> RowBlock:
        """Make a block that has room for one row at least: of the usual size, or as large as there is memory left."""
        size = min(size, self._budget.left_bytes // _PAGE_BYTES * _PAGE_BYTES - _PAGE_BYTES)
        if not isinstance(rows, BytesRows):
            return VectorBlock(self.row_bytes, max(size, self.row_bytes), self._budget)
        length = int(rows.offsets[begin + 1] - rows.offsets[begin])
        return BytesBlock(max(size, 2 * length + _PAGE_BYTES), self._budget)

    def _add(
        self,
        keeps: Any,
        fields: tuple[int, int, int, int],
        stamps: UInt64Array | LoggedRows | int,
        step: int,
        block: Block | None = None,
    ) -> _Segment:
        if self._free:
            number = self._free.pop()
        elif self._highest + 1 < MAX_SEGMENTS:
            number = self._highest = self._highest + 1
        else:
            raise LimitExceeded(f"a table has {MAX_SEGMENTS - 1} segments of newer rows at most; compact it")
        segment = _Segment(number, keeps, fields, stamps, step, block)
        # No table that is left knows the number any more once this has gone.
        weakref.finalize(segment, self._free.append, number).atexit = False
        self._table[number] = fields
        self._segments[number] = segment
        for generation in list(self._generations):
            generation.add(segment)
        return segment

    def _check(self, rows: RawRows) -> None:
        if isinstance(rows, BytesRows) != self.is_bytes or (
            not isinstance(rows, BytesRows)
            and (rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != self.row_bytes)
        ):
            what = "bytes" if isinstance(rows, BytesRows) else f"{rows.dtype} {rows.shape}"
            due = "bytes" if self.is_bytes else f"uint8 (n, {self.row_bytes})"
            raise InvalidInput(f"newer rows are {what}; they must be {due}")
        if isinstance(rows, BytesRows) and len(rows) and int(np.diff(rows.offsets).max()) > MAX_BYTES_ROW:
            raise InvalidInput(f"newer rows: one has more than {MAX_BYTES_ROW} bytes")

    # -- reading -------------------------------------------------------------------------------------------------------

    def stamps(self, words: UInt64Array, out: UInt64Array | None = None) -> UInt64Array:
        """Return the stamps of words (n,); of those that are `GONE` without one 0. Under the lock of their tables.

        Args:
            out: uint64 (n,): where they go.

        Raises:
            KeyError: A word is of a segment that there is no more.
        """
        words, out = np.ascontiguousarray(words), np.empty(len(words), np.uint64) if out is None else out
        fields = np.zeros((self._highest + 1, STAMP_FIELDS), np.uint64)
        fields[1:, 1] = NO_SEGMENT
        for number, each in self._segments.items():
            if isinstance(each.stamps, int):
                fields[number] = 0, 0, each.stamps
            elif isinstance(each.stamps, LoggedRows):
                fields[number] = 0, 0, 0
            else:
                fields[number] = address(each.stamps), each.step, 0
        if not stamps_of(address(words), address(fields), len(fields), out):
            raise KeyError("a word of a segment that there is no more")
        if logs := self.logs():
            numbers = segments_of(words)
            for number, rows in logs.items():
                chosen = np.flatnonzero(numbers == number)
                out[chosen] = rows.stamps(offsets_of(words[chosen]))
        return out

    def rows(self, words: UInt64Array, out: NDArray[np.uint8] | None = None) -> RawRows:
        """Return the rows of words (n,), which must not be gone: copies. Without the lock: whoever has a generation.

        Args:
            out: uint8, C-contiguous: memory that vectors are copied to, if there is room for all.

        Raises:
            CorruptData: Where rows of bytes start is damaged.
        """
        words = np.ascontiguousarray(words)
        if not self.is_bytes:
            size = len(words) * self.row_bytes
            copies = np.empty(size, np.uint8) if out is None or len(out) < size else out[:size]
            if not copy_rows(address(words), address(self._table), self.row_bytes, address(copies), len(words)):
                raise InvalidInput(_NO_ROWS)
            return copies.reshape(len(words), self.row_bytes)
        from_ats, lengths = self._spans(words)
        total = int(lengths.sum(dtype=np.int64))
        data = gather(from_ats, lengths, total)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return BytesRows(data, offsets)

    def _spans(self, words: UInt64Array) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return where rows of bytes are and how long."""
        if self.is_gone(words).any():
            raise InvalidInput(_NO_ROWS)
        from_ats, lengths = np.empty(len(words), np.int64), np.empty(len(words), np.uint32)
        total = kernels.spans(address(words), address(self._table), from_ats, lengths)
        if total == kernels.DAMAGED:
            raise CorruptData("where newer rows of bytes start is damaged")
        return from_ats, lengths

    def __repr__(self) -> str:
        return f"<Segments {len(self._segments)} arena_bytes={self.arena_bytes} memory_bytes={self.memory_bytes}>"


def _words_from(segment: _Segment, offset: int, count: int) -> UInt64Array:
    """Return the words of rows of a segment that follow each other."""
    first = (segment.number << SEGMENT_SHIFT) + offset
    return np.arange(first, first + count * segment.step, segment.step, dtype=np.uint64)


def _words_in(directory: Directory, segments: UInt64Array) -> tuple[UInt64Array, UInt64Array]:
    """Return the positions and words of a directory that point into some segments."""
    positions, words, _ = directory.walk_between(0, LAST_POSITION)
    chosen = np.isin(segments_of(words), segments)
    return positions[chosen], words[chosen]
