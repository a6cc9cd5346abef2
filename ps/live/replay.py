"""Replay: rows of folds and records of the log, back into live tables, many records at a time.

Rows of vectors stay where they lie in the log's files, which are mapped; rows of bytes are copied.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, LimitExceeded
from ringpull.ps.live.fold import Fold
from ringpull.ps.live.live_table import FirstOpened, LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.numbers import NO_WRITER, Numbers, slots_of
from ringpull.ps.live.record import (
    NOT_OPENED,
    OF_STAMPS,
    OF_VERSION,
    SERVED,
    UNNAMED,
    UNSERVED,
    DeltaKey,
    LiveName,
    Read,
    RecordKind,
)
from ringpull.ps.live.stamp import NO_STAMP
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.newer.logged import LoggedRows
from ringpull.ps.store.newer.words import words_at
from ringpull.ps.store.raw_rows import rows_of

ROWS_AT_ONCE: Final = 1 << 15
"""Rows of several records that are applied together."""


class Replay:
    """Takes in what is on disk: folds first, then all records in their order, then `end`."""

    def __init__(self, tables: LiveTables, numbers: Numbers, now_s: float) -> None:
        """Start with nothing.

        Args:
            now_s: When all writers are said to have pushed last.
        """
        self._due: dict[LiveName, int] = {}
        self._tables, self._numbers, self._now_s = tables, numbers, now_s
        self._table: LiveTable | None = None
        self._reads: list[Read] = []
        self._waiting = 0
        self._file: memoryview | None = None
        self._logged: dict[LiveName, tuple[int, LoggedRows]] = {}
        """Segment of each table, and its rows, in the file that is read."""
        self.rows = 0
        """Rows that were read from the log."""

    def use(self, fold: Fold) -> None:
        """Have a table begin with a fold."""
        self._tables.logged.add(fold.about.name)
        with self._tables.lock:
            table = self._tables.made(fold.about.name, fold.about.row_bytes)
            table.fold, table.folded = table.add_fold(fold.base, fold.stamps), fold.about.through
            for begin in range(0, fold.base.rows, ROWS_AT_ONCE):
                end = min(fold.base.rows, begin + ROWS_AT_ONCE)
                words = table.segments.words_between(table.fold, begin, end)
                table.show(fold.base.positions_slice(begin, end), words, fold.about.through)
            if fold.gone_positions.size:
                table.show(fold.gone_positions, table.segments.gone(fold.gone_stamps), fold.about.through)

    def take(self, name: LiveName, row_bytes: int, read: Read) -> None:
        """Take in a record."""
        if read.kind is RecordKind.DELTA and read.number == OF_STAMPS:
            self._tables.given.restore(read.positions)
            return
        table = self._tables.made(name, row_bytes)
        if read.kind is RecordKind.DELTA:
            _take_opened(table, read)  # which does not say that the table has pushed rows
            return
        self._tables.logged.add(name)
        if read.kind is RecordKind.FORGOTTEN:
            self._forget(table, read.stamp)
        elif read.kind is RecordKind.NUMBERS:
            slots = slots_of(read.positions)
            if not slots.size:
                self._due[name] = read.number
            else:
                self._apply()  # Those of the records before it are older.
                self._numbers.put(name, read.writer, slots, read.rows.view(np.uint64), self._now_s)
        else:
            if read.kind is RecordKind.ROWS and read.row_bytes != row_bytes:
                raise CorruptData(f"{name}: pushed rows have {read.row_bytes} bytes, where its others have {row_bytes}")
            self._tables.given.took(read.stamp)
            if read.stamp > table.folded:
                self._add(table, read)
            else:
                self._count(name, read)

    def end(self) -> None:
        """Apply what is left.

        Raises:
            CorruptData: There is no fold that has what the log says is in one.
        """
        self._apply()
        for name, through in self._due.items():
            table = self._tables.get(name)
            if through > (NO_STAMP if table is None else table.folded):
                raise CorruptData(f"{name}: the fold that has the pushes up to stamp {through} is missing")

    def _forget(self, table: LiveTable, stamp: int) -> None:
        self._apply()
        self._due.pop(table.name, None)
        self._logged.pop(table.name, None)
        if table.folded <= stamp:
            self._tables.drop(table.name)
            self._numbers.drop(table.name)

    def _apply(self) -> None:
        reads, table = self._reads, self._table
        self._reads, self._waiting = [], 0
        if not reads or table is None:
            return
        positions = np.concatenate([read.positions for read in reads])
        stamps = np.repeat(np.array([read.stamp for read in reads], np.uint64), [len(read.positions) for read in reads])
        with self._tables.lock:
            words = self._words(table, reads, stamps)
            try:
                table.show(positions, words, reads[-1].stamp)
            except LimitExceeded:
                # What was refused when it came has no number either: its writer sends it again, and was not told that
                # it had been applied.
                for read in reads if len(reads) > 1 else []:
                    self._add(table, read)
                    self._apply()
                return
        for read in reads:
            self._count(table.name, read)
        self.rows += len(positions)

    def _count(self, name: LiveName, read: Read) -> None:
        """Take in the number of a push that is shown."""
        if read.writer != NO_WRITER:
            self._numbers.put(name, read.writer, slots_of(read.positions), read.number, self._now_s)

    def _add(self, table: LiveTable, read: Read) -> None:
        kind = self._reads[0].kind if self._reads else read.kind
        if table is not self._table or read.kind is not kind or self._waiting > ROWS_AT_ONCE:
            self._apply()
        if read.content is not self._file:
            self._apply()
            self._file, self._logged = read.content, {}
        self._table = table
        self._reads.append(read)
        self._waiting += len(read.positions)

    def _words(self, table: LiveTable, reads: list[Read], stamps: UInt64Array) -> UInt64Array:
        """Return the words of all rows of some records, which are of one file."""
        if reads[0].kind is RecordKind.GONE:
            return table.segments.gone(stamps)
        if not table.row_bytes:
            data: NDArray[np.uint8] = np.concatenate([read.rows for read in reads])
            lengths = np.concatenate([read.lengths for read in reads])
            return table.segments.append(rows_of(0, len(stamps), data, lengths), stamps)
        if table.name not in self._logged:
            assert isinstance(reads[0].content.obj, mmap.mmap)
            self._logged[table.name] = table.segments.add_log(reads[0].content.obj)
        segment, rows = self._logged[table.name]
        offsets = rows.add(
            np.array([read.rows_at for read in reads]),
            np.array([len(read.positions) for read in reads]),
            np.array([read.stamp for read in reads], np.uint64),
        )
        return words_at(segment, offsets)


def _take_opened(table: LiveTable, read: Read) -> None:
    """Take in when a delta was first opened."""
    if read.number not in (OF_VERSION, NOT_OPENED, UNSERVED):
        table.opened_before.setdefault(read.writer, read.stamp)
        return
    version, gone, made, *publish = read.positions.tolist()
    key = DeltaKey(read.writer, version, gone)
    if read.number == NOT_OPENED:
        table.opened.pop(key, None)
    else:
        unserved = publish[0] if publish else UNNAMED
        table.opened[key] = FirstOpened(read.stamp, made, unserved if read.number == UNSERVED else SERVED)
