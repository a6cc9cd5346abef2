"""Folding: when the log or memory of newer rows gets long, rows move to files, and the log begins anew.

One round: the log begins another file; of each table with pushes since its last fold, or rows that nothing shows,
all other rows are written to a new one; words that still name the old row are flipped to the file; memory and the old
fold go. Once that is so of all tables, what no fold has is written to the log (which tables have pushed rows, numbers,
the stamps of opened deltas), and the files before the round's are deleted. A table that cannot be folded now keeps
them, and the others are folded. Pushes and pulls go on meanwhile. A round that is killed anywhere leaves what it found:
a fold that is whole is used, with a log that has more than it must.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.ps.errors import CorruptData, ExportError, LimitExceeded, RingpullError, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.live.commit import mark_of
from ringpull.ps.live.fold import (
    FoldWriter,
    SpareFold,
    folder_of,
    next_folder,
    open_fold,
    remove_fold,
    remove_folds,
    spared,
)
from ringpull.ps.live.headroom import Headroom
from ringpull.ps.live.live_check import NotLookedAt
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.numbers import Numbers
from ringpull.ps.live.record import (
    LiveName,
    Record,
    RecordKind,
    delta_record,
    stamps_record,
)
from ringpull.ps.spec import UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.fold_rows import FoldRows
from ringpull.ps.wire.push_messages import MAX_PUSH_BYTES

ROWS_AT_ONCE: Final = 1 << 14
"""Rows that are copied, and words that are flipped, at a time: the most of them."""
BYTES_AT_ONCE: Final = 2 << 20
"""Bytes of rows of vectors that are copied at a time: one write of a file, and what the caches of a core keep."""
RETRY_AFTER_S: Final = 10.0
"""Time after which a round that failed is tried again."""
KEPT_SHARE: Final = 16
"""One part in so many of the log's limit is the most that a round keeps of what was logged before it began."""

_LOG: Final = logging.getLogger(__name__)

Run = Callable[[Callable[[], int]], int]
"""Function that calls another one in the thread that owns the log, and returns what it returned."""


class Folding:
    """Folds the tables of one shard, a round at a time. `due` and `round` are called by one thread."""

    def __init__(
        self,
        folder: Path,
        tables: LiveTables,
        log: Log,
        numbers: Numbers,
        *,
        run: Run,
        renew: Callable[[LiveTable, Sequence[int]], None],
        log_limit_bytes: int,
        wanted: Callable[[], bool] = lambda: True,
        all_open: Callable[[str], bool] = lambda model: True,
        check: Callable[[LiveTable], None] = lambda table: None,
    ) -> None:
        """Fold into a folder.

        Args:
            check: Raises where rows of a table are damaged in the files that they are folded from, or these cannot be
                looked at now.
            all_open: Whether all versions of a model are open that should be: only then it is known what none shows.
            wanted: Whether a round goes on; if not, it ends as soon as it can.
        """
        self._folder, self._tables, self._log, self._numbers = folder, tables, log, numbers
        self._run, self._renew, self._wanted = run, renew, wanted
        self._all_open, self._check = all_open, check
        self._log_limit_bytes = log_limit_bytes
        self._not_before_s = 0.0
        self._left: dict[LiveName, str] = {}
        """Tables that the last round could not fold, and why: damage, want of memory, files that cannot be opened."""
        self._began: int | None = None
        """File of the log that a round began which did not shorten it."""
        self._spares: dict[LiveName, SpareFold] = {}
        """The fold before the last of each table, where it was kept."""
        self._headroom = Headroom()
        self.rounds = 0

    @property
    def due(self) -> bool:
        """Whether a round should begin."""
        self._headroom.looked(self._log.bytes)
        if time.monotonic() < self._not_before_s:
            return False
        tables = self._tables.all()
        if self._tables.wants_new_log or any(table.may_drop and self._all_open(table.name.model) for table in tables):
            return True
        if self._is_over_limit:  # Pushes are refused, even if all is folded that the log has.
            return True
        return (self._needs_log or self._needs_memory) and self._has_unfolded

    def round(self) -> None:
        """Fold all tables that have pushes since their last fold, and shorten the log.

        A table that cannot be folded now, as rows of it are damaged or memory is short, is left as it is, and the
        others are folded; the log is shortened once all are.
        """
        try:
            for_log_alone, began_s = not self._has_unfolded, time.monotonic()
            number = self._run(self._rolled)
            self._left = self._folded_but()
            if self._left:
                # Memory is there again: if it was not enough, whoever needs it says so once more.
                self._tables.wants_fold = False
                self._failed("; ".join(self._left.values()))
                return
            logged_bytes = self._run(lambda: self._shorten(number))
            if not for_log_alone:  # Else it says nothing of how long a fold takes.
                self._headroom.ended(time.monotonic() - began_s, logged_bytes)
            self._tables.wants_fold = self._tables.wants_new_log = False
            self._began = None
            self.rounds += 1
            if for_log_alone and self._is_over_limit:  # At once another one would find as much.
                self._failed(f"the log has {self._log.bytes} bytes without them, and may have {self._log_limit_bytes}")
        except _NotWanted:
            return
        except (RingpullError, OSError, MemoryError) as exc:
            self._remove_spares()  # The disk may be what it lacked.
            if self._wanted():
                self._failed(str(exc) or type(exc).__name__)

    def close(self) -> None:
        """Delete what is kept for the next round, of which there is none. Idempotent."""
        self._remove_spares()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _rolled(self) -> int:
        """Return the number of the file below which a round shortens the log; in the thread of the log.

        A round that failed began one already: while little was logged since, most that is to go is in the files
        before it, and rounds that fail again and again leave no row of short ones.
        """
        if self._began is None or self._log.bytes_from(self._began) > self._log_limit_bytes // KEPT_SHARE:
            self._began = self._log.roll()
        return self._began

    def _folded_but(self) -> dict[LiveName, str]:
        """Fold tables; return those that cannot be folded now for what they are, and why.

        While those of the last round still cannot, others are folded for their memory alone: to write them anew, round
        after round, would shorten no log.
        """
        left: dict[LiveName, str] = {}
        for table in sorted(self._tables.all(), key=lambda each: each.name not in self._left):
            in_vain = bool(left and self._left) and table.name not in self._left and not self._needs_memory
            # What no open version shows goes first: a version that is opened meanwhile must not find it.
            with self._tables.lock:
                dropped = table.drop_unnamed() if self._all_open(table.name.model) else 0
                table.has_waste |= bool(dropped)  # until it is folded, whatever fails
            if dropped or (table.has_unfolded and not in_vain):
                try:
                    self._fold(table)
                except (CorruptData, LimitExceeded, MemoryError, NotLookedAt) as exc:
                    self._check_wanted()
                    left[table.name] = str(exc) or type(exc).__name__
                    if table.name in self._spares:  # It may be long until it is folded.
                        self._spares.pop(table.name).remove()
        return left

    def _remove_spares(self) -> None:
        while self._spares:
            self._spares.popitem()[1].remove()

    @property
    def _has_unfolded(self) -> bool:
        return any(table.has_unfolded for table in self._tables.all())

    @property
    def _is_over_limit(self) -> bool:
        return self._log.bytes > self._log_limit_bytes

    @property
    def _needs_log(self) -> bool:
        return self._log.bytes > self._log_limit_bytes - self._headroom.of(self._log_limit_bytes)

    @property
    def _needs_memory(self) -> bool:
        budget = self._tables.budget
        # Room for a push, and for larger directories, while those before them are still read.
        least = MAX_PUSH_BYTES + 2 * budget.held_bytes
        free = budget.for_rows_bytes - budget.used_bytes
        return self._tables.wants_fold or free < self._headroom.of(budget.for_rows_bytes, least)

    def _failed(self, why: str) -> None:
        self._not_before_s = time.monotonic() + RETRY_AFTER_S
        _LOG.warning("newer rows were not folded, which is tried again: %s", why)

    def _fold(self, table: LiveTable) -> None:
        with self._tables.lock:
            table.let_go_of_old_fold()
            # Of a round that failed while it flipped words, and then back, there is one fold more.
            through, old = table.last_stamp, [*table.segments.seal(), *table.fold_bases]
            rows, gone = FoldRows.of(table.pushed, table.segments)
        self._check(table)
        folder = next_folder(self._folder, table.name)
        spare = self._unread_spare(table.name)
        writer = FoldWriter(folder, table.name, table.row_bytes, len(rows.words), spare)
        try:
            self._copy(table, rows, writer)
            writer.finish(self._tables.shard, through, rows.stamps, gone.positions, gone.stamps)
        except BaseException as exc:
            writer.abort()
            remove_fold(folder)  # which is there where it failed at its very end
            if isinstance(exc, ExportError):
                raise Unavailable(f"{folder}: {exc}") from exc
            raise
        self._use(table, folder, through, old, rows, gone)

    def _copy(self, table: LiveTable, rows: FoldRows, writer: FoldWriter) -> None:
        """Write rows, some at a time, by way of memory that all of them pass through."""
        at_once = min(ROWS_AT_ONCE, max(1, BYTES_AT_ONCE // table.row_bytes)) if table.row_bytes else ROWS_AT_ONCE
        memory = np.empty(min(at_once, len(rows.words)) * table.row_bytes, np.uint8)
        # Whoever has it reads what these words name without the lock, for which pushes would wait.
        generation = table.segments.generation
        for begin in range(0, len(rows.words), at_once):
            self._check_wanted()
            some = slice(begin, begin + at_once)
            writer.append(rows.positions[some], table.segments.rows(rows.words[some], memory))
        del generation

    def _unread_spare(self, name: LiveName) -> SpareFold | None:
        """Return the fold before the last of a table, if it was kept and nobody reads it any more; else it goes."""
        spare = self._spares.pop(name, None)
        if spare is not None and spare.is_read:
            spare.remove()
            return None
        return spare

    def _use(
        self,
        table: LiveTable,
        folder: Path,
        through: int,
        old: Sequence[int],
        rows: FoldRows,
        gone: FoldRows,
    ) -> None:
        """Have look-ups read a fold, and let go of what they read before.

        Of a fold that fails nothing is left, no memory either, and nothing names it: log and memory have all of it.
        """
        made: list[int] = []
        try:
            fold = open_fold(folder, rows.stamps)
            # Before anything is flipped, as there may be no memory.
            new_gone = self._new_gone(table, fold.gone_stamps, made)
            with self._tables.lock:
                before, number = table.folded_rows, table.add_fold(fold.base, fold.stamps)
        except BaseException:
            remove_fold(folder)
            self._let_go(table, made)
            raise
        try:
            for positions, words_then, words_now in _flips(table, fold.base, number, rows, gone, new_gone):
                with self._tables.lock:
                    table.flip(positions, words_then, words_now)
        except BaseException:
            for positions, words_then, words_now in _flips(table, fold.base, number, rows, gone, new_gone):
                with self._tables.lock:
                    table.flip(positions, words_now, words_then)
            with self._tables.lock:
                table.forget_fold(number, before)
            self._let_go(table, made)
            remove_fold(folder)
            raise
        with self._tables.lock:
            replaced = None if table.fold is None else table.fold_bases.get(table.fold)
            table.fold, table.folded, table.has_waste = number, through, False
        self._let_go(table, old)
        spare = None if replaced is None else spared(replaced)
        if spare is not None:
            self._spares[table.name] = spare
        remove_folds(folder_of(self._folder, table.name), but=folder, spare=spare)

    def _let_go(self, table: LiveTable, segments: Sequence[int]) -> None:
        """Drop segments that no word names any more, and have their memory freed."""
        with self._tables.lock:
            for each in segments:
                table.segments.drop(each)
            self._tables.count_held()
            versions = sorted(table.versions)
        self._renew(table, versions)

    def _new_gone(self, table: LiveTable, stamps: UInt64Array, made: list[int]) -> UInt64Array:
        """Return words for removals.

        Args:
            made: Where segments that have them, and nothing else, are noted: also those made before it fails.

        Raises:
            LimitExceeded: There is no memory left for them.
        """
        words = np.empty(len(stamps), np.uint64)
        for some in _pieces(len(stamps)):
            with self._tables.lock:
                number, words[some] = table.segments.gone_apart(stamps[some])
                made.append(number)
        return words

    def _shorten(self, number: int) -> int:
        """Write to the log what is in no fold, and delete the files before one; in the thread of the log.

        Returns:
            The bytes that the log had from that file on before.
        """
        logged_bytes = self._log.bytes_from(number)
        self._numbers.forget(time.monotonic())
        names = {table.name: table for table in self._tables.all()}
        records = [
            mark_of(names[name], self._log.last_stamp, names[name].folded)
            for name in sorted(self._tables.logged & names.keys())
        ]
        for name, writer, slots, numbers in self._numbers.all():
            if name in names and slots.size:
                positions = slots.astype(np.uint64) << np.uint64(SLOT_SHIFT)
                row_bytes = names[name].row_bytes
                rows = np.ascontiguousarray(numbers).view(np.uint8)
                records.append(
                    Record(RecordKind.NUMBERS, name, row_bytes, self._log.last_stamp, writer, 0, positions, rows)
                )
        with self._tables.lock:
            records.append(stamps_record(self._tables.given.runs, self._log.last_stamp))
            # These first, as what follows is newer.
            records.extend(self._tables.unlogged)
            for table in names.values():
                for identity, stamp in table.opened_before.items():
                    records.append(Record(RecordKind.DELTA, table.name, table.row_bytes, stamp, identity))
                for key, opened in table.opened.items():
                    records.append(delta_record(table.name, table.row_bytes, key, *opened))
            self._log.append(records)
            self._tables.were_logged()
        self._log.sync()
        self._log.drop_below(number)
        return logged_bytes

    def _check_wanted(self) -> None:
        if not self._wanted():
            raise _NotWanted


def _pieces(count: int) -> Iterator[slice]:
    return (slice(begin, min(count, begin + ROWS_AT_ONCE)) for begin in range(0, count, ROWS_AT_ONCE))


def _flips(
    table: LiveTable,
    base: Base,
    number: int,
    rows: FoldRows,
    gone: FoldRows,
    new_gone: UInt64Array,
) -> Iterator[tuple[UInt64Array, UInt64Array, UInt64Array]]:
    """Yield positions, some at a time, their words before a fold, and those that name it."""
    for some in _pieces(base.rows):
        new = table.segments.words_between(number, some.start, some.stop)
        yield rows.positions[some], rows.words[some], new
    for some in _pieces(len(gone.words)):
        yield gone.positions[some], gone.words[some], new_gone[some]


def tidy_memory(
    tables: LiveTables, renew: Callable[[LiveTable, Sequence[int]], None], all_open: Callable[[str], bool]
) -> None:
    """Free the memory of rows that were overwritten, or that no version shows, where there is no disk to fold to.

    Raises:
        LimitExceeded: There is no memory for the copies of those that were not.
    """
    for table in tables.all():
        with tables.lock:
            if all_open(table.name.model):
                table.drop_unnamed()
            old = table.segments.tidied(table.directories())
            for number in old:
                table.segments.drop(number)
            versions = sorted(table.versions)
        renew(table, versions)


class _NotWanted(Exception):
    """Raised when a round is to end because the shard does."""
