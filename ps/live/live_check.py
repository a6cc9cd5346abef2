"""Live check: holds the files that pushed rows lie in against their checksums: log and folds.

Rows of vectors that were there before a restart are answered from the mapped log, and folded rows from their fold, so
a file that is damaged since would be answered from. What is found is quarantined by slot, as damage of a base is, until
no look-up reads it any more: whoever pushes these rows again replaces them. Damage of the log where nobody reads it,
since memory has those rows, would keep the shard from reading it at the next start: a round of folding writes all of it
anew. Nothing damaged is folded: a fold has checksums of its own, which would call it whole. Nor is what cannot be
looked at now, as where no more files can be opened; what was found damaged before stays so then, also by a shard that
has gone.

Files are read beside their maps, as `ringpull.ps.store.block_check` does.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.log_check import MAX_HEADER_BYTES, Damaged, damaged_in, header_in
from ringpull.ps.live.log_file import log_file_path
from ringpull.ps.live.record import LiveName
from ringpull.ps.store.base import Base
from ringpull.ps.store.block_check import Reader, as_bad, bad_rows, block_bytes
from ringpull.ps.store.format import START_BYTES
from ringpull.ps.store.newer.directory import LAST_POSITION
from ringpull.ps.store.newer.logged import LoggedRows
from ringpull.ps.store.newer.words import offsets_of, segments_of

Pace = Callable[[int], None]
"""Function that is called before so many bytes are read; it may wait, or raise."""

_GONE: Final[Damaged] = (0, 0)
"""Damage of a log that is not there any more: its rows are mapped still, or in memory."""
_LOG: Final = logging.getLogger(__name__)


class NotLookedAt(Unavailable):
    """Raised where files cannot be opened or read now: nothing is known of the rows in them."""


@dataclass(slots=True)
class _Found:
    """Damage of one table."""

    intervals: dict[int, list[Damaged]] = field(default_factory=dict)
    """Offsets that are damaged, of each segment of its newer rows."""
    keeps: dict[int, object] = field(default_factory=dict)
    """What that segment was when it was looked at: its number may be another's by now."""
    files: set[str] = field(default_factory=set)
    unlooked: list[str] = field(default_factory=list)
    """Why some files could not be looked at."""


class LiveCheck:
    """Check of one shard's pushed rows. All methods may be called from any thread."""

    def __init__(
        self, tables: LiveTables, log: Log | None, memory: CheckedRows, renew: Callable[[LiveName], None]
    ) -> None:
        """Look at nothing yet, but for what is remembered as damaged.

        Args:
            log: The shard's; None: there is none, and no fold.
            memory: Where blocks of folds are remembered that are damaged, beyond the process.
            renew: Has the tables of a name made anew, since others of its slots are quarantined.
        """
        self._tables, self._log, self._memory, self._renew = tables, log, memory, renew
        self._paths: WeakKeyDictionary[LoggedRows, Path] = WeakKeyDictionary()
        self._of_tables: dict[LiveName, str] = {}
        self._told_files: dict[LiveName, set[str]] = {}
        self._of_log: dict[Path, str] = {}
        self._unlooked: dict[LiveName, str] = {}
        """Why a table could not be checked, when that was tried last."""
        self._taken_in: dict[LiveName, int] = defaultdict(int)
        """How often what was found of a table was taken in."""
        for table in tables.all():
            for rows in table.segments.logs().values():
                self._path_of(rows)  # The header, which says so, is whole now.
            known = {base: memory.damaged(base) for base in table.named_folds().values()}
            if any(known.values()):
                self._take_in(table, self._in_folds(table, known, lambda _: None), 0)

    def warnings(self) -> list[str]:
        """Return a sentence for each table or log with damage, or that could not be checked."""
        of_all = self._of_tables, self._of_log, self._unlooked
        return [sentence for each in of_all for sentence in each.copy().values()]

    def look(self, pace: Pace) -> None:
        """Look at all files of all tables once."""
        log = self._log
        if log is None:
            return
        turns, unlooked = dict(self._taken_in), dict[Path, str]()
        damaged = self._damaged_log(log, pace, unlooked)
        for table in self._tables.all():
            self._look_at(table, damaged, pace, turns.get(table.name, 0), unlooked.values())
        there = {log_file_path(log.folder, each) for each in log.files}
        with self._tables.lock:  # which whoever takes in what was found has
            for of_names in (self._of_tables, self._unlooked):
                for name in [each for each in of_names if self._tables.get(each) is None]:
                    del of_names[name]
            told = set().union(*(self._told_files[name] for name in self._of_tables))
        known = damaged.keys() | (self._of_log.keys() & unlooked.keys())
        self._of_log = {path: _log_warning(path) for path in sorted(known & there) if str(path) not in told}
        if self._of_log and not self._of_tables:
            self._tables.wants_new_log = True

    def check(self, table: LiveTable, pace: Pace) -> None:
        """Check that all pushed rows of a table that look-ups find are whole where they lie.

        Raises:
            CorruptData: Some are not; their slots are quarantined.
            NotLookedAt: It cannot be told of some now.
        """
        name = table.name
        with self._tables.lock:
            mapped = {self._path_of(rows) for rows in table.segments.logs().values()}
        turn, of_log = self._taken_in[name], dict[Path, str]()
        damaged = {} if self._log is None else self._damaged_log(self._log, pace, of_log, only=mapped)
        unlooked = self._look_at(table, damaged, pace, turn, of_log.values())
        if told := self._of_tables.get(name):
            raise CorruptData(told)
        if unlooked:
            told = (
                f"{name}: pushed rows could not be looked at, so they are not folded or compacted; it is tried again:"
                f" {unlooked[0]}"
            )
            with self._tables.lock:
                self._unlooked[name] = told
            raise NotLookedAt(told)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _look_at(
        self, table: LiveTable, damaged: Mapping[Path, list[Damaged]], pace: Pace, turn: int, unlooked: Iterable[str]
    ) -> list[str]:
        """Look at the folds of a table, and take in what is damaged there and in the log.

        Args:
            unlooked: Why some of the log could not be looked at; returned with that of the folds.
        """
        with self._tables.lock:
            every = {base: range(base.block_count) for base in table.named_folds().values()}
        found = self._in_folds(table, every, pace)
        found.unlooked += unlooked
        with self._tables.lock:
            logs = table.segments.logs()
        for number, rows in logs.items():
            path = self._path_of(rows)
            if intervals := damaged.get(path):
                found.intervals[number], found.keeps[number] = intervals, rows
                found.files.add(str(path))
        self._take_in(table, found, turn)
        if not found.unlooked:
            with self._tables.lock:
                self._unlooked.pop(table.name, None)
        return found.unlooked

    def _in_folds(self, table: LiveTable, blocks: Mapping[Base, Collection[int]], pace: Pace) -> _Found:
        """Look at blocks of the folds of a table."""
        found = _Found()
        for number, base in dict(table.fold_bases).items():
            if base not in blocks:
                continue
            step = START_BYTES if base.spec.is_bytes else base.spec.row_bytes
            remembered = self._memory.damaged(base)
            good, bad = [], []
            with Reader(base) as reader:
                for block in blocks[base]:
                    pace(block_bytes(base, block))
                    try:
                        damage = bad_rows(base, block, reader)
                    except Unavailable as exc:
                        found.unlooked.append(str(exc))
                        if block not in remembered:
                            continue
                        damage = as_bad(base, block)  # as it was: a shard that begins has closed nothing yet
                    if damage is None:
                        good.append(block)
                        continue
                    bad.append(block)
                    rows = damage.first_row * step, (damage.first_row + damage.rows) * step
                    found.intervals.setdefault(number, []).append(rows)
                    found.keeps[number] = base
                    found.files.add(str(base.folder / damage.file))
            if bad or remembered:
                self._memory.note(base, good=good, bad=bad)
        return found

    def _take_in(self, table: LiveTable, found: _Found, turn: int) -> None:
        """Quarantine the slots in which a look-up would read what is damaged, and no others.

        Args:
            turn: How often that was done before the look began: what was found meanwhile stays until the next one.
        """
        name = table.name
        with self._tables.lock:
            there: Mapping[int, object] = {**table.segments.logs(), **table.named_folds()}
            same = {at: each for at, each in found.intervals.items() if there.get(at) is found.keeps[at]}
            slots = _reading(table, same) if same else frozenset()
            before = self._tables.quarantined.get(name, frozenset())
            if found.unlooked or self._taken_in[name] != turn:
                slots |= before
                if before:
                    found.files |= self._told_files.get(name, set())
            self._taken_in[name] += 1
            self._tables.quarantined[name] = slots
            if slots == before:
                return
            self._told_files[name] = found.files
            if slots:
                self._of_tables[name] = (
                    f"{name}: pushed rows are damaged in {', '.join(sorted(found.files))}: {len(slots)} slots are not"
                    " answered for here, until these rows are pushed again, or a new lineage is published"
                )
            else:
                self._of_tables.pop(name, None)
            told = self._of_tables.get(name, f"{name}: all damaged pushed rows have been replaced")
        _LOG.warning("%s", told)
        self._renew(name)

    def _damaged_log(
        self, log: Log, pace: Pace, unlooked: dict[Path, str], only: Collection[Path] | None = None
    ) -> dict[Path, list[Damaged]]:
        """Look at the files of the log that are written to their end; of others at what is mapped.

        Args:
            unlooked: Where it is noted which cannot be looked at now, and why.
        """
        numbers = log.files
        mapped: dict[Path, int] = {}
        with self._tables.lock:
            for table in self._tables.all():
                for rows in table.segments.logs().values():
                    path = self._path_of(rows)
                    mapped[path] = max(mapped.get(path, 0), rows.last_offset)
        complete = {log_file_path(log.folder, each) for each in numbers[:-1]}
        damaged = {}
        for path in sorted(complete | mapped.keys() if only is None else only):
            try:
                found = damaged_in(path, pace, None if path in complete else mapped.get(path, 0))
            except FileNotFoundError:
                found = [_GONE]
            except OSError as exc:
                _LOG.warning("%s: it cannot be looked at now: %s", path, exc)
                unlooked[path] = f"{path}: {exc.strerror or exc}"
                continue
            if found:
                damaged[path] = found
        return damaged

    def _path_of(self, rows: LoggedRows) -> Path:
        """Return the file that rows are mapped from."""
        path = self._paths.get(rows)
        if path is None:
            assert self._log is not None
            path = self._paths[rows] = log_file_path(
                self._log.folder, header_in(rows.content[:MAX_HEADER_BYTES].tobytes())[0]
            )
        return path


def _log_warning(path: Path) -> str:
    return (
        f"{path}: the log of pushes is damaged, or gone, and could not be read after a restart; it is written anew from"
        " what the shard has, once no row is damaged that it answers with"
    )


def _reading(table: LiveTable, intervals: Mapping[int, list[Damaged]]) -> frozenset[int]:
    """Return the slots with a key whose row is in one of some intervals of segments."""
    slots: set[int] = set()
    for directory in table.directories():
        positions, words, _ = directory.walk_between(0, LAST_POSITION)
        numbers, offsets = segments_of(words), offsets_of(words)
        for number, damaged in intervals.items():
            hit = np.zeros(len(words), bool)
            for begin, end in damaged:
                hit |= (offsets >= np.uint64(begin)) & (offsets < np.uint64(end))
            slots.update((positions[hit & (numbers == np.uint64(number))] >> np.uint64(SLOT_SHIFT)).tolist())
    return frozenset(slots)
