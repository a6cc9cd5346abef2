"""Live tables: all of one shard, by name, and the lock under which they change.

Versions open and close in the threads of control calls, pushes apply in the shard's push thread, and folds flip words
in another one: each takes the lock for a few hundred rows at a time, and look-ups never do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringpull.ps.errors import CorruptData
from ringpull.ps.live.live_table import LiveTable, OpenDelta
from ringpull.ps.live.record import DeltaKey, LiveName, Record, delta_record, stamps_record
from ringpull.ps.live.settings import NEWER_MEMORY_BYTES
from ringpull.ps.live.stamp import NO_STAMP, GivenStamps
from ringpull.ps.store.newer.budget import Budget
from ringpull.ps.store.newer.newer import Newer

_LOG: Final = logging.getLogger(__name__)


class LiveTables:
    """Live tables of one shard. All methods may be called from any thread."""

    def __init__(self, shard: int, memory_bytes: int = NEWER_MEMORY_BYTES) -> None:
        self.shard = shard
        self.lock = threading.RLock()
        self.budget = Budget(memory_bytes)
        self.damage: str = ""
        """Why pushed rows cannot be read; empty: they can. Then no live table of this shard answers."""
        self.missing: frozenset[LiveName] = frozenset()
        """Tables that had pushed rows, of which there is no log here."""
        self.unread: Path | None = None
        """Folder of a log that is not read, as pushes are in memory now; None: there is none."""
        self.logged: set[LiveName] = set()
        """Tables that the log names, whether they have rows or are to have some."""
        self.quarantined: dict[LiveName, frozenset[int]] = {}
        """Slots of tables in which pushed rows are damaged where they lie."""
        self.wants_new_log = False
        """Whether the log is damaged where nobody reads it, and is to be written anew."""
        self.wants_fold = False
        """Whether what finds rows needs memory that rows have."""
        self.given = GivenStamps()
        """Stamps that the shard gave; guarded by the lock."""
        self._tables: dict[LiveName, LiveTable] = {}
        self._unlogged: list[Record] = []
        """Records of what no push caused: which deltas were opened when."""

    def __repr__(self) -> str:
        return f"<LiveTables of shard {self.shard}: {list(self._tables.values())}>"

    def get(self, name: LiveName) -> LiveTable | None:
        """Return a table; None: nothing was pushed to it, and no version of it is open."""
        return self._tables.get(name)

    def all(self) -> list[LiveTable]:
        """Return all tables, at once: who asks how the shard is must not wait for a disk."""
        return list(self._tables.values())

    @property
    def rows(self) -> int:
        """Keys that were pushed or removed, of all tables."""
        return sum(table.rows for table in self.all())

    @property
    def memory_bytes(self) -> int:
        """Memory of all tables: rows and directories."""
        return self.budget.used_bytes + self.count_held()

    def count_held(self) -> int:
        """Take what directories hold from the memory that rows may have; return it."""
        held = self.budget.held_bytes = sum(table.held_bytes for table in self.all())
        return held

    def with_rows(self) -> frozenset[LiveName]:
        """Return the names of the tables that have pushed rows."""
        return frozenset(table.name for table in self.all() if table.rows)

    def made(self, name: LiveName, row_bytes: int) -> LiveTable:
        """Return a table, which is made if it is not there.

        Raises:
            CorruptData: It is there, with rows of another kind.
        """
        with self.lock:
            table = self._tables.get(name)
            if table is None:
                table = self._tables[name] = LiveTable(name, row_bytes, self.budget)
            if table.row_bytes != row_bytes:
                raise CorruptData(
                    f"{name}: pushed rows have {table.row_bytes} bytes, where the version's have {row_bytes}"
                )
            return table

    def drop(self, name: LiveName) -> None:
        """Forget a table, whose rows nobody reads any more."""
        with self.lock:
            self._tables.pop(name, None)
            self.logged.discard(name)
            self.quarantined.pop(name, None)
            self._unlogged = [each for each in self._unlogged if each.name != name]
            self.count_held()

    def open_version(
        self,
        name: LiveName,
        version: int,
        row_bytes: int,
        deltas: Sequence[OpenDelta] = (),
        base_includes: int = NO_STAMP,
        *,
        publish: int = 0,
        was_open: bool = False,
    ) -> None:
        """Open a version of a table that takes pushes.

        Opening one that is open replaces it: its base or its deltas are others. Stamps that are not of this shard say
        nothing of its pushes: those win.

        Args:
            row_bytes: Bytes of a row; 0: rows of bytes.
            deltas: Oldest first.
            base_includes: Stamp of the last push of this shard that its base has.
            publish, was_open: See `LiveTable.open_version`.

        Raises:
            CorruptData: Pushed rows are of another kind.
        """
        with self.lock:
            table = self.made(name, row_bytes)
            known = [
                each
                if each.includes is None
                else replace(each, includes=self._bound(name, each.version, each.includes))
                for each in deltas
            ]
            base_includes = self._bound(name, version, base_includes)
            self._note(table, table.open_version(version, known, base_includes, publish=publish, was_open=was_open))
            self.count_held()

    def newer(self, name: LiveName, version: int) -> Newer | None:
        """Return what is newer than the base of a version; None: nothing was pushed, and it is as it was exported."""
        with self.lock:
            table = self._tables.get(name)
            return table.newer(version) if table is not None and version in table.versions and table.rows else None

    def _bound(self, name: LiveName, version: int, stamp: int) -> int:
        """Return up to which stamp pushes are meant by one that a version names."""
        bound = self.given.bound(stamp)
        if stamp and not bound:
            _LOG.warning(
                "%s: version %d includes pushes up to stamp %d, which shard %d did not give: it is of another"
                " deployment, or mistyped, so all that was pushed here lies over its rows",
                *(name, version, stamp, self.shard),
            )
        return bound

    def is_served(self, name: LiveName, version: int) -> None:
        """Take in that look-ups have the directory of a version, as it is from now on."""
        with self.lock:
            if (table := self._tables.get(name)) is not None:
                table.is_served(version)

    @property
    def has_unlogged(self) -> bool:
        """Whether something that no push caused is not in the log yet."""
        return bool(self._unlogged)

    @property
    def unlogged(self) -> Sequence[Record]:
        """Records of what no push caused that are not in the log yet."""
        return tuple(self._unlogged)

    def to_log(self, records: Sequence[Record], last_stamp: int) -> list[Record]:
        """Return what is to be written with these records, which goes before them; nothing where there is nothing."""
        due = [*self._unlogged, *records]
        if due and not self.given.is_logged:
            due.insert(0, stamps_record(self.given.runs, last_stamp))
        return due

    def were_logged(self) -> None:
        """Take in that what `to_log` returned was written, with nothing between the two."""
        self._unlogged, self.given.is_logged = [], True

    def close_version(self, name: LiveName, version: int, *, was_served: bool = True) -> None:
        """Forget a version.

        Args:
            was_served: Whether it was to be served. Else its publish was given up: what is pushed until another one
                opens it has come before it.
        """
        with self.lock:
            table = self._tables.get(name)
            if table is None:
                return
            if was_served:
                self._note(table, table.were_served([version]))
            table.close_version(version)
            self.count_held()

    def were_served(self, name: LiveName, versions: Collection[int]) -> None:
        """Take in that versions are to be served, so that it stays when their deltas were opened."""
        with self.lock:
            if (table := self._tables.get(name)) is not None:
                self._note(table, table.were_served(versions))

    def _note(self, table: LiveTable, keys: Collection[DeltaKey]) -> None:
        """Have it in the log when deltas were first opened."""
        for key in keys:
            self._unlogged.append(delta_record(table.name, table.row_bytes, key, *table.opened[key]))

    def answers(self, name: LiveName) -> bool:
        """Return whether a table can be answered for: all that was pushed to it is here."""
        return not self.damage and name not in self.missing

    def not_shown(self, lineages: Collection[tuple[str, int]]) -> list[str]:
        """Return a sentence for each table with pushed rows of which no version is served as one that takes pushes, or
        for the log that is not read, unless those are named that miss rows of it.

        Args:
            lineages: Models and lineages of which versions are open: rows of others are forgotten soon.
        """
        if self.unread is not None and not self.missing:
            return [
                f"the log in {self.unread} is not read with --push-durability memory: what was pushed to this shard"
                " before, if anything was, is kept there and not shown"
            ]
        return [
            f"{name}: {table.rows} rows that were pushed to this shard are kept and not shown, as the table is served"
            f" without taking pushes now: serve with --live {name.model}/{name.table}"
            for table in self.all()
            if table.rows and not table.versions and ((name := table.name).model, name.lineage) in lineages
        ]
