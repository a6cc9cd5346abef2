"""Live shard: all that makes tables of one shard take pushes, put together, and its beginning from what is on disk.

    DATA_DIR/shard-3.live/
        log-000017                                     the log, see `ringpull.ps.live.log`
        folds/MODEL/LINEAGE/TABLE/fold-000003/         see `ringpull.ps.live.fold`

It begins with the folds, then reads the log, before the shard serves anything. If any of it is damaged, nothing is
guessed: live tables of the shard answer nothing, so that their policy does, and the shard says so.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.errors import CorruptData, LimitExceeded, Unavailable, UnmetCondition
from ringpull.ps.hashing import SLOT_SHIFT, SLOTS
from ringpull.ps.live.commit import Commits
from ringpull.ps.live.fold import Fold, fold_folders, folder_of, open_fold, remove_folds, remove_unfinished
from ringpull.ps.live.folder_lock import FolderLock
from ringpull.ps.live.folding import RETRY_AFTER_S, Folding, tidy_memory
from ringpull.ps.live.headroom import MOST_SHARE
from ringpull.ps.live.live_check import LiveCheck
from ringpull.ps.live.live_table import LiveTable, OpenDelta
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.log import Log
from ringpull.ps.live.log_file import log_file_numbers
from ringpull.ps.live.numbers import Numbers
from ringpull.ps.live.push_thread import PushThread
from ringpull.ps.live.record import LiveName, Record, RecordKind
from ringpull.ps.live.replay import Replay
from ringpull.ps.live.settings import Durability, LiveSettings
from ringpull.ps.live.target import Targets
from ringpull.ps.open_versions import OpenVersion, ServedTable
from ringpull.ps.parts import PartName, tables_of
from ringpull.ps.shard_tables import ShardTables
from ringpull.ps.store.base import Base
from ringpull.ps.store.newer.directory import LAST_POSITION
from ringpull.ps.store.newer.segments import NO_LIMIT
from ringpull.ps.store.table import Table
from ringpull.ps.wire.push_messages import PushRequest

FOLDS: Final = "folds"
LARGE_SHARE: Final = 0.3
"""Rows newer than a live table's base, as a share of its, above which it should be compacted."""
MANY_ROWS: Final = 10_000
"""Newer rows up to which that is no matter."""
FORGET_AFTER_S: Final = 30.0
"""Time after an assignment when the rows of lineages are forgotten that are not open any more."""

_LOG: Final = logging.getLogger(__name__)


class LiveShard:
    """Pushed rows of one shard. All methods may be called from any thread."""

    def __init__(
        self,
        tables: ShardTables,
        folder: Path | None,
        deployment: str = "",
        settings: LiveSettings | None = None,
        memory: CheckedRows | None = None,
    ) -> None:
        """Read what is on disk, and take pushes from now on.

        Args:
            tables: The shard's, which serve pushed rows from the next that is opened on.
            folder: Folder of log and folds; None: there is no data folder.
            memory: Where damaged rows of folds are remembered; None: in memory only.
        """
        self._shard = tables
        self._settings = settings or LiveSettings()
        logs = folder is not None and self._settings.durability is not Durability.MEMORY
        self._folder = folder if logs else None
        self._lock = None if self._folder is None else FolderLock(self._folder)
        self.tables, self._numbers = self._empty(), Numbers(self._settings.log_limit_bytes)
        self.tables.unread = None if logs or folder is None or not log_file_numbers(folder) else folder
        self._log: Log | None = None
        self.replayed_rows = 0
        self._replay(deployment)
        self.files = LiveCheck(self.tables, self._log, memory or CheckedRows(), self._renew_all)
        """Check of the files that pushed rows lie in."""
        self._told: frozenset[LiveName] = frozenset()
        self._were_assigned: set[tuple[str, int]] = set()
        """Versions that were to be served before the last assignment, and are open still."""
        self._tidied_s = 0.0
        self._strays: list[str] = []
        self._strays_epoch = 0
        self._stale_s = math.inf
        """Time at which what is of no open lineage is forgotten; infinite: there was no news."""
        self._closing = threading.Event()
        self._folding: Folding | None = None
        self._rounds: threading.Thread | None = None
        self._targets = Targets(lambda: tables.state, tables.shard, self.tables)
        self._commits = Commits(
            self.tables,
            self._numbers,
            self._log,
            target=self._target,
            epoch=lambda: tables.epoch,
            renew=self._renew,
            durability=self._settings.durability,
            log_limit_bytes=self._settings.log_limit_bytes,
        )
        self.pushes: Final = PushThread(tables.shard, self._commits, self._target, aside=self._aside)
        self._folding = self._new_folding()  # which has the thread of the log do what is for that
        self.tally = self.pushes.tally
        self.tally.replayed_rows = self.replayed_rows
        tables.take_current(self)

    # -- pushes -------------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> frozenset[LiveName]:
        """Tables of which the coordinator has to save first that this shard has pushed rows."""
        return self.pushes.wanted

    @property
    def pushed(self) -> frozenset[LiveName]:
        """Tables that have pushed rows here."""
        return self.tables.with_rows()

    def confirm(self, names: Collection[LiveName]) -> None:
        """Take in which tables have pushed rows here by what the coordinator has saved.

        Those of which nothing is found were lost with the log: they do not answer.
        """
        self._take_served()
        self._were_assigned |= {*self._shard.state.assigned}
        told = frozenset(names)
        missing = told - self.tables.logged
        if missing != self.tables.missing:
            self.tables.missing = missing
            for name in missing | self._told:
                self._renew_all(name)
            for name in sorted(missing):
                _LOG.warning("%s", self._lost(name))
        self._told = told
        self._stale_s = time.monotonic() + FORGET_AFTER_S
        self.pushes.confirm(told - missing)

    def warnings(self) -> list[str]:
        """Return what an operator should know."""
        if self.tables.damage:
            return [f"pushed rows cannot be read, so live tables do not answer: {self.tables.damage}"]
        lost = [self._lost(name) for name in sorted(self.tables.missing)]
        hidden = self.tables.not_shown({(of[0], opened.lineage) for of, opened in self._shard.state.versions.items()})
        return [*lost, *hidden, *self.files.warnings(), *self._strays, *self._due()]

    @property
    def log_bytes(self) -> int:
        """Bytes of the log."""
        return 0 if self._log is None else self._log.bytes

    @property
    def folds(self) -> int:
        """Rounds of folding since it began."""
        return 0 if self._folding is None else self._folding.rounds

    def close(self) -> None:
        """End what is under way. Idempotent."""
        self._closing.set()
        self.pushes.close()
        if self._rounds is not None:
            self._rounds.join()
        if self._folding is not None:
            self._folding.close()
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            self._lock.release()

    # -- current tables -----------------------------------------------------------------------------------------------

    def opened(self, model: str, version: int, opened: OpenVersion, table: str, served: ServedTable) -> Table:
        """Return a table as it is now, of a version that is opened, or of which a part was replaced."""
        if table not in opened.live or not opened.lineage:
            return served.exported
        self._take_served()
        spec = served.exported.spec
        name = LiveName(model, opened.lineage, table)
        self.tables.open_version(
            name,
            version,
            0 if spec.is_bytes else spec.row_bytes,
            self._deltas(version, opened, served),
            opened.includes.get(table, {}).get(self._shard.shard, 0),
            publish=opened.publish,
            was_open=self._is_assigned(model, version),
        )
        return self.again(model, version, opened, table, served)

    def again(self, model: str, version: int, opened: OpenVersion, table: str, served: ServedTable) -> Table:
        """Return a table as it is now, of a version that was opened before."""
        name = LiveName(model, opened.lineage, table)
        if table in opened.live and not self.tables.answers(name):
            return served.exported.with_quarantine(range(SLOTS))
        newer = self.tables.newer(name, version)
        now = served.exported if newer is None else served.exported.with_newer(newer)
        quarantined = self.tables.quarantined.get(name)
        return now.with_quarantine(quarantined) if quarantined else now

    def keep(self, versions: Mapping[tuple[str, int], OpenVersion]) -> None:
        """Forget all versions but these."""
        self._take_served()
        for name, version in self._closed(versions):
            key = (name.model, version)
            self.tables.close_version(name, version, was_served=key in self._were_assigned or self._is_assigned(*key))
        self._were_assigned &= {(each.name.model, version) for each in self.tables.all() for version in each.versions}

    def serves(self, model: str, version: int, opened: OpenVersion, table: str) -> None:
        """Take in that look-ups have the table that was returned last."""
        if opened.lineage:
            self.tables.is_served(LiveName(model, opened.lineage, table), version)

    def settle(self) -> None:
        """Have it in the log which deltas were opened when: what is pushed from now on is newer, also after a restart.

        Where the log cannot be written it goes there with the next push, before which nothing is newer.
        """
        if not self.tables.has_unlogged:
            return
        try:
            self.pushes.run(self._commits.note)
        except (LimitExceeded, Unavailable) as exc:
            _LOG.warning("it is noted with the next push which versions were opened: %s", exc)

    def stamp(self, model: str, lineage: int, table: str) -> int:
        """Return the stamp of the last push: it and all before it are seen, and as durable as pushes are.

        Whoever asks reads all rows of a table next, so its files are looked at, and what is damaged is quarantined.

        Raises:
            LimitExceeded, Unavailable: The log cannot be written now.
        """
        if (found := self.tables.get(LiveName(model, lineage, table))) is not None:
            with suppress(CorruptData):
                self.files.check(found, self._check_not_closing)
        # Between two groups, and synced, also where that failed before: what is shown and not on disk yet may vanish,
        # and its stamp be another push's then.
        return self.pushes.run(self._commits.note)

    def fold_files(self, model: str, lineage: int, table: str) -> Sequence[Base]:
        """Return the files that pushed rows of a table may lie in."""
        found = self.tables.get(LiveName(model, lineage, table))
        return () if found is None else tuple(found.fold_bases.values())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _empty(self) -> LiveTables:
        return LiveTables(self._shard.shard, self._settings.newer_memory_bytes)

    def _replay(self, deployment: str) -> None:
        if self._folder is None:
            return
        began_s = time.monotonic()
        replay = Replay(self.tables, self._numbers, began_s)
        budget = self.tables.budget
        budget.limit_bytes = NO_LIMIT  # What is there is there, whatever the limit was before: it is folded soon.
        try:
            remove_unfinished(self._folder / FOLDS)
            folds = {path.parent: path for path in fold_folders(self._folder / FOLDS)}  # the last one of each table
            for path in folds.values():
                replay.use(self._checked_fold(path))
            self._log = Log.open(
                self._folder,
                shard=self._shard.shard,
                deployment=deployment,
                replay=replay.take,
                durable=self._settings.durability is Durability.SYNC,
            )
            replay.end()
            if not self.tables.given.is_logged:
                self.tables.given.of_earlier_build(self._log.last_stamp)
            if folds and not self._log.had_pushes:
                raise CorruptData(f"{self._folder}: there are folds and no log")
            kept = {folder_of(self._folder / FOLDS, table.name) for table in self.tables.all()}
            for parent, path in folds.items():
                remove_folds(parent, but=path if parent in kept else None)
        except (CorruptData, LimitExceeded) as exc:
            if self._log is not None:
                self._log.close()
            self._log, self.tables, self._numbers = None, self._empty(), Numbers()
            budget = self.tables.budget
            self.tables.damage = str(exc)
            _LOG.error("pushed rows cannot be read: %s", exc)
            return
        finally:
            budget.limit_bytes = self._settings.newer_memory_bytes
        self.tables.count_held()
        self.replayed_rows = replay.rows
        if replay.rows:
            took_s = time.monotonic() - began_s
            _LOG.info("pushed rows were replayed", extra={"rows": replay.rows, "seconds": round(took_s, 3)})

    def _checked_fold(self, path: Path) -> Fold:
        """Open a fold, and check that it is what its folder says."""
        fold = open_fold(path)
        assert self._folder is not None
        if fold.about.shard != self._shard.shard or folder_of(self._folder / FOLDS, fold.about.name) != path.parent:
            raise CorruptData(f"{path}: is the fold of {fold.about.name} of shard {fold.about.shard}")
        return fold

    def _new_folding(self) -> Folding | None:
        if self._log is None or self._folder is None:
            return None
        return Folding(
            self._folder / FOLDS,
            self.tables,
            self._log,
            self._numbers,
            run=self.pushes.run,
            renew=self._renew,
            log_limit_bytes=self._settings.log_limit_bytes,
            wanted=lambda: not self._closing.is_set(),
            all_open=self._all_open,
            check=lambda table: self.files.check(table, self._check_not_closing),
        )

    def _check_not_closing(self, _: int) -> None:
        if self._closing.is_set():
            raise Unavailable("the shard ends")

    def _target(self, request: PushRequest) -> LiveTable:
        if self.tables.damage:
            raise CorruptData(f"pushes are refused: {self.tables.damage}")
        if self._log is None and self._settings.durability is not Durability.MEMORY:
            raise UnmetCondition(
                f"pushes are refused: with --push-durability {self._settings.durability} a shard needs a folder for its"
                " log: serve with --data-dir, or with --push-durability memory"
            )
        return self._targets(request)

    def _renew(self, table: LiveTable, versions: Sequence[int]) -> None:
        for version in versions:
            self._shard.renew(table.name.model, version, table.name.table)

    def _renew_all(self, name: LiveName) -> None:
        for model, version in self._shard.state.versions:
            if model == name.model:
                self._shard.renew(model, version, name.table)

    def _aside(self) -> None:
        """Begin a round of folding when one is due; in the push thread."""
        self.tables.budget.shrink()
        self._take_served()
        if self.tables.has_unlogged:
            with suppress(LimitExceeded, Unavailable):
                self._commits.note()
        self.look_for_strays()
        busy = self._rounds is not None and self._rounds.is_alive()
        if time.monotonic() > self._stale_s and not busy:
            self._stale_s = time.monotonic() + FORGET_AFTER_S  # again, where it fails
            self._forget()
            self._stale_s = math.inf
        if self._folding is not None and not self._closing.is_set():
            if not busy and (self._folding.due or self._closed(self._shard.state.versions)):
                self._rounds = threading.Thread(target=self._round, name="fold", daemon=True)
                self._rounds.start()
        elif self._log is None:
            self._tidy()

    def _round(self) -> None:
        self._shard.forget_closed()
        if self._folding is not None and self._folding.due:
            self._folding.round()

    def _take_served(self) -> None:
        """Have it noted which versions are to be served: as of their assignment, a little before they go live, so also
        where the change is given up in between. Then pushes since lie over it when it is published once more."""
        state = self._shard.state
        for table in self.tables.all() if state.served_ranges is not None else ():
            if table.unserved:
                model = table.name.model
                versions = [version for each, version in state.assigned if each == model]
                self.tables.were_served(table.name, versions)

    def look_for_strays(self) -> int:
        """Return how many tables have pushed rows of slots that another shard serves: there were fewer shards, or more.

        They are looked for once an epoch, in the push thread."""
        epoch = self._shard.epoch
        if epoch == self._strays_epoch:
            return len(self._strays)
        strays = []
        for table in self.tables.all():
            mask = self._shard.owned(table.name.model, table.name.table)
            positions, _, _ = table.pushed.walk_between(0, LAST_POSITION)
            count = 0 if mask is None else int((mask[(positions >> np.uint64(SLOT_SHIFT)).astype(np.intp)] == 0).sum())
            if count:
                strays.append(
                    f"{table.name}: {count} rows that were pushed to this shard are of slots that another one serves,"
                    " which does not have them; serve with as many shards as then, and keep --state-dir with --data-dir"
                )
        self._strays, self._strays_epoch = strays, epoch
        return len(strays)

    def _forget(self) -> None:
        """Forget the tables of lineages that are not open any more: nobody has been told of their rows since."""
        self._shard.forget_closed()
        for table in self.tables.all():
            if table.name not in self._told and not table.versions:
                noted = table.name in self.tables.logged or table.opened or table.opened_before
                if self._log is not None and noted:
                    stamp = max(table.last_stamp, self._log.last_stamp)
                    self._log.append([Record(RecordKind.FORGOTTEN, table.name, table.row_bytes, stamp)])
                    self._log.sync()
                self.tables.drop(table.name)
                self._numbers.drop(table.name)
                if self._folder is not None:
                    remove_folds(folder_of(self._folder / FOLDS, table.name))

    def _tidy(self) -> None:
        budget, now = self.tables.budget, time.monotonic()
        if now < self._tidied_s + RETRY_AFTER_S:
            return
        if self._closed(self._shard.state.versions):
            self._shard.forget_closed()
        unshown = any(table.may_drop and self._all_open(table.name.model) for table in self.tables.all())
        if unshown or budget.used_bytes > budget.for_rows_bytes // MOST_SHARE:
            self._tidied_s = now
            tidy_memory(self.tables, self._renew, self._all_open)

    def _due(self) -> list[str]:
        """Return a sentence for each live table whose newest version has so many newer rows over it that they cost."""
        newest = {model: opened for (model, _), opened in sorted(self._shard.state.versions.items())}
        found = []
        for model, opened in newest.items():
            for table in sorted(opened.live & opened.tables.keys()):
                served = opened.tables[table]
                newer = served.table.newer_rows
                if newer > MANY_ROWS and served.newer_share > LARGE_SHARE:
                    found.append(
                        f"{model}: {newer:,} newer rows lie over table {table} here, whose base has"
                        f" {served.table.base.rows:,}: `ringpull compact {model}` is due"
                    )
        return found

    def _closed(self, there: Mapping[tuple[str, int], OpenVersion]) -> list[tuple[LiveName, int]]:
        """Return the versions of tables that are kept, and are not among those that are there."""
        closed = []
        for table in self.tables.all():
            for version in list(table.versions):
                opened = there.get((table.name.model, version))
                if opened is None or opened.lineage != table.name.lineage:
                    closed.append((table.name, version))
        return closed

    def _all_open(self, model: str) -> bool:
        """Return whether all versions of a model are open that should be: else one may come that shows older pushes."""
        state = self._shard.state
        return state.served_ranges is not None and all(
            name in state.versions for name in state.assigned if name[0] == model
        )

    def _is_assigned(self, model: str, version: int) -> bool:
        """Return whether a version should be served, as far as is known: before the first assignment any may."""
        state = self._shard.state
        return state.served_ranges is None or (model, version) in state.assigned

    def _deltas(self, version: int, opened: OpenVersion, served: ServedTable) -> list[OpenDelta]:
        """Return the deltas of a table, oldest first.

        Of a shard that a delta's `includes` does not name nothing was read: it is as if it named none.
        """
        deltas = []
        for names in tables_of(served.parts).values():
            for part in [each for each in names if each.version and not each.gone]:
                gone = served.parts.get(str(PartName(part.table, part.version, True)))
                made = opened.identity if part.version == version else 0
                deltas.append(
                    OpenDelta(
                        served.parts[str(part)].base,
                        None if gone is None else gone.base,
                        opened.includes.get(str(part), {}).get(self._shard.shard),
                        part.version,
                        made,
                    )
                )
        return deltas

    def _lost(self, name: LiveName) -> str:
        kept = self._settings.durability is not Durability.MEMORY
        why = "are not in its log, which is gone" if kept else "went with its process (--push-durability memory)"
        if self.tables.unread is not None:
            why = f"may be in the log in {self.tables.unread}, which --push-durability memory does not read"
        return (
            f"{name}: rows that were pushed to this shard {why}; the table does not answer for its slots here until a"
            " new lineage is published: a full version that follows nothing, which is pushed to anew"
        )
