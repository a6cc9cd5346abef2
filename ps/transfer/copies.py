"""Local copies: a shard's data folder, with copies of just the ranges it has to store, of every table of every version.

    DATA_DIR/shard-3/MODEL/VERSION/TABLE/...        see `ringpull.ps.transfer.table_copy`

A part of a table (`ringpull.ps.parts`) is copied like a table, once: below the version whose folder it comes from,
whichever versions are made of it, and it stays as long as one of them does.

Invariants: one process at a time uses the folder (a file lock, which ends with the process); one thread at a time works
on it; no range is dropped while it is served; nothing that is on disk already, complete or partial, is copied again,
however the last attempt ended.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Final

import numpy as np

from ringpull.ps.checked_rows import CheckedRows
from ringpull.ps.damage import Damage
from ringpull.ps.errors import CorruptData, LimitExceeded, OtherContent, StartupError, Unavailable
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import UNKNOWN, text_of
from ringpull.ps.open_parts import twin, twins
from ringpull.ps.open_versions import TableKey
from ringpull.ps.parts import table_of
from ringpull.ps.placement import TablePlacement, VersionPlacement
from ringpull.ps.private_files import make_private_folder, open_private
from ringpull.ps.refusals import Refusals
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, mask_of, minus, runs
from ringpull.ps.store import format as fmt
from ringpull.ps.store.base import Base
from ringpull.ps.store.file_errors import is_there
from ringpull.ps.transfer.fetch import BLOCK_BYTES, Fetcher, describe
from ringpull.ps.transfer.job import Cancelled, Job
from ringpull.ps.transfer.merge import DamagedBase, Part, base_bytes, merge
from ringpull.ps.transfer.pace import Pace, PacedSource
from ringpull.ps.transfer.peer import Peers, PeerSource
from ringpull.ps.transfer.plan import Plan, plan_table, split_ranges
from ringpull.ps.transfer.remote import is_url
from ringpull.ps.transfer.row_check import DamagedRows, RowCheck
from ringpull.ps.transfer.serving import Serving
from ringpull.ps.transfer.source import RowSource, TableContent
from ringpull.ps.transfer.stored_source import StoredSource
from ringpull.ps.transfer.table_copy import TableCopy
from ringpull.ps.transfer.throttle import Throttle

LOCK_FILE: Final = ".lock"

MIN_SHARE_TO_REWRITE: Final = 0.1
"""Share of a copy's rows that must be unneeded before it is rewritten without them to free disk space."""

_LOG: Final = logging.getLogger(__name__)


_Planned = tuple[VersionPlacement, Sequence[Plan]]


class LocalCopies:
    """Data folder of one shard, with all of its copies."""

    def __init__(
        self,
        folder: Path,
        throttle: Throttle,
        *,
        limit_bytes: int | None = None,
        prefault: bool = False,
        verify: bool = False,
        block_bytes: int = BLOCK_BYTES,
        row_check: RowCheck | None = None,
        damage: Damage | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Lock the folder, and create it when absent.

        Args:
            limit_bytes: Upper bound on its size at any time, including copies in progress.
            prefault: Bring every page of a copy into memory before it is served.
            verify: Check all rows of copies that are found against their checksums.
            block_bytes: Size of rows to request at a time.
            row_check: Checks the rows of copies that are found, where a placement asks for that.
            damage: Knows the bad blocks of copies, and is told of those that are found; None: one of its own.
            pace: Gives way to pulls; None: there are none.

        Raises:
            StartupError: The folder cannot be written, or another process uses it.
        """
        self._folder = folder
        self._throttle = throttle
        self._limit_bytes = limit_bytes
        self._prefault = prefault
        self._verify = verify
        self._block_bytes = block_bytes
        self._row_check = row_check
        self._damage = Damage(CheckedRows(), copied=True) if damage is None else damage
        self._pace = pace or Pace()
        self._copies: dict[TableKey, TableCopy] = {}
        self._parts: dict[tuple[str, int], dict[str, TableKey]] = {}
        """Copy of each part of each version, by the part's name."""
        self._work = threading.Lock()
        self._lock_file = _lock(folder)

    def __repr__(self) -> str:
        return f"<LocalCopies {self._folder} {len(self._copies)} tables>"

    def close(self) -> None:
        """Release the folder to other processes. Copies that are served stay mapped."""
        self._lock_file.close()

    def prepare(self, placements: Sequence[VersionPlacement], serving: Serving, peers: Peers, job: Job) -> None:
        """Store these ranges in addition to those that are stored and served, and install them in the shard.

        Tables of an open version are replaced one by one; any other version is opened with all of its tables at once.
        A version that cannot be opened holds up no other one.

        Raises:
            LimitExceeded: It would take more than `limit_bytes`; nothing was copied.
            Unavailable: Some rows could not be copied, or the job was cancelled (`Cancelled`). The others are kept for
                the next attempt.
            OtherContent: All sources of some rows have another content than the placement says.
            CorruptData: All sources of some rows are damaged or have another content.
            ExportError: The disk is full.
            NotOpened: Any of these, but `LimitExceeded` and `Cancelled`, for some of several versions.
        """
        refusals = Refusals()
        with self._work, job.interrupting(peers.interrupt):
            plans: list[_Planned] = []
            planned: dict[TableKey, Plan] = {}
            for placement in placements:
                with refusals.of(placement.model, placement.version):
                    plans.append((placement, self._plans(placement, planned, serving, peers, job)))
            plans = self._within_limit(plans)
            every = _once(plans)
            job.bytes_to_copy = sum(plan.bytes_fetched + plan.bytes_to_fetch for plan in every)
            job.copied_bytes = sum(plan.bytes_fetched for plan in every)
            done: set[TableKey] = set()
            with Fetcher(job, self._throttle, block_bytes=self._block_bytes) as fetcher:
                for placement, of_version in plans:
                    with refusals.of(placement.model, placement.version):
                        self._execute(placement, of_version, done, serving, fetcher, job)
        refusals.check(len(placements))

    def let_go(self, versions: Collection[tuple[str, int]], serving: Serving) -> None:
        """Close the copies of versions that are not in `versions`, and not served; they stay on disk until `tidy`.

        While a `prepare` is under way nothing is done: whoever ends it calls this again.
        """
        if not self._work.acquire(blocking=False):
            return
        try:
            kept = [each for each in self._parts if each in versions or serving.is_open(*each)]
            self._parts = {each: self._parts[each] for each in kept}
            used = {key for parts in self._parts.values() for key in parts.values()}
            for key in [key for key in self._copies if key not in used]:
                del self._copies[key]
        finally:
            self._work.release()

    def tidy(
        self, versions: Collection[tuple[str, int]] | None, serving: Serving, job: Job, *, drop_pieces: bool = False
    ) -> None:
        """Free the disk space of versions that are not in `versions`, and of ranges that are not served.

        A copy is shrunk by writing a smaller one beside it; where both do not fit under the limit, it stays.

        Args:
            versions: Versions to keep; None: not known yet, so none is dropped.
            drop_pieces: Delete the pieces of unfinished prepares too.

        Raises:
            Cancelled: The job was given up. The rest is left for the next time.
            ExportError: The disk is full.
        """
        with self._work:
            job.check()
            if versions is not None:
                used = {key[:2] for each in versions for key in self._parts.get(each, {}).values()}
                named = {(model, str(version)) for model, version in {*versions, *used}}
                for folder in list(self._folder.glob("*/*")):
                    if (folder.parent.name, folder.name) not in named:
                        self._drop_version(folder)
            for key, copy in self._copies.items():
                job.check()
                if drop_pieces:
                    copy.drop_pieces()
                owned = serving.owned(key[0], key[2])
                if owned is not None and self._served_from(key, serving):
                    self._narrow(key, copy, owned, serving, job)

    # -- inside, under _work ------------------------------------------------------------------------------------------

    def _plans(
        self, placement: VersionPlacement, planned: dict[TableKey, Plan], serving: Serving, peers: Peers, job: Job
    ) -> list[Plan]:
        """Return the plans of a version's tables. A copy that another version has planned already has that plan."""
        tables = placement.tables.items()
        parts = {name: (placement.model, table.origin or placement.version, name) for name, table in tables}
        self._parts[placement.model, placement.version] = parts
        for name, table in tables:
            if parts[name] not in planned:
                planned[parts[name]] = self._plan(placement, name, table, serving, peers, job)
        return [planned[key] for key in parts.values()]

    def _plan(
        self, placement: VersionPlacement, name: str, table: TablePlacement, serving: Serving, peers: Peers, job: Job
    ) -> Plan:
        key = placement.model, table.origin or placement.version, name
        copy = self._copy(key)
        others = [user for user in self._served_from(key, serving) if user[1] != placement.version]
        is_open = bool(others) or serving.holds(placement)
        # Looked for when rows are missing, not before: what is here already needs no file.
        stored = cache(lambda: _stored_here(table.folder, table.within or placement.folder))
        identity = table.identity
        # If other shards stream the table, they tell its identity: an unreachable URL would take long to time out.
        if not identity and not (table.sources and is_url(table.folder)) and (files := stored()) is not None:
            identity = files.identity() or UNKNOWN

        def sources_of(slots: SlotRange) -> list[RowSource]:
            sources: list[RowSource] = [
                PeerSource(peers, source, placement.model, placement.version, name, identity=identity)
                for source in table.sources
                if source.slots.begin <= slots.begin and slots.end <= source.slots.end
            ]
            files = stored()
            return [PacedSource(each, self._pace, job) for each in (*sources, *(() if files is None else (files,)))]

        if identity:
            _drop_foreign(copy, identity, is_open)
        edges = {edge for source in table.sources for edge in (source.slots.begin, source.slots.end)}
        owned = serving.owned(placement.model, name)
        content: TableContent | None = None
        while True:
            held, usable = self._held(key)
            # Before the first assignment any stored range may still be wanted.
            wanted = mask_of(table.slots) | (held if owned is None else held & owned)
            missing = split_ranges(runs(minus(wanted, usable)), edges)
            try:
                if not missing or content is not None:
                    return plan_table(name, copy, wanted, usable, sources_of, edges, content)
                content = describe(name, missing[0], sources_of(missing[0]), identity)
            except (Unavailable, CorruptData) as exc:
                if isinstance(exc, Cancelled) or minus(wanted, held).any():
                    raise
                return _unrepaired(Plan(name, copy, wanted, usable), exc)
            if content.spec.name != table_of(name):
                raise CorruptData(
                    f"{placement.model}/{placement.version}: table {name} is {content.spec.name} at its source"
                )
            _drop_foreign(copy, content.identity, is_open)

    def _execute(
        self,
        placement: VersionPlacement,
        plans: Sequence[Plan],
        done: set[TableKey],
        serving: Serving,
        fetcher: Fetcher,
        job: Job,
    ) -> None:
        """Make and check the copies that an earlier version of these has not, and install the version's tables."""
        is_open = serving.holds(placement)
        parts = self._parts[placement.model, placement.version]
        to_check = self._to_check(placement, [plan for plan in plans if parts[plan.table] not in done], job)
        ready: dict[str, Base] = {}
        for plan in plans:
            key = parts[plan.table]
            base = plan.copy.base
            if plan.content is not None and key not in done:
                base = self._copy_table(key, plan, plan.content, serving, fetcher, job)
            elif plan.table in to_check and base is not None:
                self._check_rows(key, base, to_check[plan.table], serving, job)
            done.add(key)
            if base is None:
                continue  # no slot of it belongs here
            served = serving.base((placement.model, placement.version, plan.table)) if is_open else None
            if served is None or not twins(served, base):
                self._prepare_base(base)
                ready[plan.table] = base if key[1] == placement.version else twin(base)
            if is_open and ready:
                self._install(placement, ready, serving)
                ready = {}
        if not is_open:
            self._install(placement, ready, serving)

    def _install(self, placement: VersionPlacement, bases: Mapping[str, Base], serving: Serving) -> None:
        serving.install(placement.model, placement.version, bases, identity=placement.identity, placed=placement)

    def _served_from(self, key: TableKey, serving: Serving) -> list[TableKey]:
        """Return the tables, or parts of them, that are served from a copy, by model, version and name."""
        base = self._copies[key].base if key in self._copies else None
        found = []
        for (model, version), parts in self._parts.items():
            if base is not None and key in parts.values():
                served = serving.base((model, version, key[2]))
                if served is not None and twins(served, base):
                    found.append((model, version, key[2]))
        return found

    def _to_check(self, placement: VersionPlacement, plans: Sequence[Plan], job: Job) -> dict[str, list[int]]:
        """Return the blocks to read of the copies that were found: those that are made now are verified on the way."""
        if self._row_check is None or not placement.check_rows:
            return {}
        return {
            plan.table: self._row_check.unchecked(plan.copy.base, runs(plan.wanted & plan.usable), job)
            for plan in plans
            if plan.content is None and plan.copy.base is not None
        }

    def _check_rows(self, key: TableKey, base: Base, blocks: Sequence[int], serving: Serving, job: Job) -> None:
        assert self._row_check is not None
        try:
            self._row_check.check(base, blocks, job)
        except DamagedRows as exc:
            self._damage.add(serving, key, base, [exc.bad])
            raise Unavailable(f"{exc}: prepare again, and they are copied anew") from exc

    def _copy_table(
        self, key: TableKey, plan: Plan, content: TableContent, serving: Serving, fetcher: Fetcher, job: Job
    ) -> Base:
        try:
            return self._copied(key, plan, content, serving, fetcher, job)
        except (Unavailable, CorruptData) as exc:
            if isinstance(exc, Cancelled) or not plan.repairs or plan.copy.base is None:
                raise
            _unrepaired(plan, exc)
            return plan.copy.base

    def _copied(
        self, key: TableKey, plan: Plan, content: TableContent, serving: Serving, fetcher: Fetcher, job: Job
    ) -> Base:
        copy = plan.copy
        for fetch in plan.fetches:
            begin = fetch.slots.begin
            piece = copy.piece_at(begin) or copy.new_piece(begin, content.spec.row_bytes, content.identity)
            fetcher.fetch(fetch, piece)
        base = self._merge(key, copy, content, plan.parts(), serving, job)
        copy.drop_pieces()
        return base

    def _merge(
        self,
        key: TableKey,
        copy: TableCopy,
        content: TableContent,
        parts: Sequence[Part],
        serving: Serving,
        job: Job,
    ) -> Base:
        try:
            base = merge(copy.new_base_folder(), content.spec, content.identity, parts, job, self._pace)
        except DamagedBase as exc:
            self._damage.add(serving, key, exc.base, exc.bad)
            raise Unavailable(f"{exc}: prepare again, and they are copied anew") from exc
        copy.replace(base)
        return base

    def _narrow(self, key: TableKey, copy: TableCopy, owned: SlotMask, serving: Serving, job: Job) -> None:
        base = copy.base
        if base is None:
            return
        held, usable = self._held(key)
        parts = [Part(slots, base) for slots in runs(held & owned)]
        kept_rows, kept_bytes = sum(part.rows for part in parts), sum(part.bytes for part in parts)
        if base.rows - kept_rows < max(1, MIN_SHARE_TO_REWRITE * base.rows) or minus(held & owned, usable).any():
            return
        due_bytes = base_bytes(kept_rows, kept_bytes, base.spec)
        if self._limit_bytes is not None and self._bytes() + due_bytes > self._limit_bytes:
            return
        content = TableContent(base.spec, base.identity, kept_rows, kept_bytes if base.spec.is_bytes else 0)
        users = self._served_from(key, serving)
        narrow = self._merge(key, copy, content, parts, serving, job)
        self._prepare_base(narrow)
        for model, version, name in users:
            serving.install(model, version, {name: narrow if version == key[1] else twin(narrow)})

    def _held(self, key: TableKey) -> tuple[SlotMask, SlotMask]:
        """Return the slots that a copy's base has, and those of them that are not known to be damaged."""
        base = self._copies[key].base
        if base is None:
            held = np.zeros(SLOTS, np.uint8)
            return held, held
        held = base.held_mask()
        return held, minus(held, self._damage.unusable(base))

    def _copy(self, key: TableKey) -> TableCopy:
        copy = self._copies.get(key)
        if copy is None:
            model, version, table = key
            copy = self._copies[key] = TableCopy(self._folder / model / str(version) / table, verify=self._verify)
        return copy

    def _drop_version(self, folder: Path) -> None:
        for key in [key for key in self._copies if (key[0], str(key[1])) == (folder.parent.name, folder.name)]:
            del self._copies[key]
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other versions are in it
            folder.parent.rmdir()

    def _prepare_base(self, base: Base) -> None:
        if self._prefault:
            base.prefault()

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def _within_limit(self, plans: list[_Planned]) -> list[_Planned]:
        """Return the plans; where they do not fit under the limit, without those that can be done without.

        Raises:
            LimitExceeded: The others do not fit.
        """
        try:
            self._check_limit(_once(plans))
        except LimitExceeded as exc:
            left: list[_Planned] = [
                (placement, [_unrepaired(plan, exc) if plan.repairs else plan for plan in of_version])
                for placement, of_version in plans
            ]
            self._check_limit(_once(left))
            return left
        return plans

    def _check_limit(self, plans: Sequence[Plan]) -> None:
        """Check the peak size over the plans, in order: a table's old base, pieces and new base exist at once."""
        if self._limit_bytes is None:
            return
        used = peak = self._bytes()
        for plan in plans:
            if plan.content is None:
                continue
            used += plan.bytes_to_fetch
            peak = max(peak, used + plan.bytes_of_base)
            used += plan.bytes_of_base - plan.copy.bytes - plan.bytes_to_fetch
        if any(plan.content is not None for plan in plans) and peak > self._limit_bytes:
            raise LimitExceeded(
                f"data folder {self._folder}: this would take up to {peak} bytes; the limit is {self._limit_bytes}"
            )


def _once(plans: Sequence[_Planned]) -> list[Plan]:
    """Return the plan of each copy, also where several versions are made of it."""
    return list({id(plan.copy): plan for _, of_version in plans for plan in of_version}.values())


def _unrepaired(plan: Plan, why: Exception) -> Plan:
    """Return the plan that leaves a damaged copy as it is: what is whole of it is served, and it is tried again."""
    _LOG.warning("a damaged copy stays in quarantine: %s", why, extra={"table": plan.table})
    return plan.given_up()


def _drop_foreign(copy: TableCopy, identity: int, is_open: bool) -> None:
    if is_open and copy.base is not None and copy.base.identity != identity:
        raise OtherContent.found(f"the table of {copy.folder}", text_of(identity), text_of(copy.base.identity))
    copy.drop_foreign(identity)


def _stored_here(folder: str, within: str) -> StoredSource | None:
    """Return the table's files as a source; None if they are in a folder that this machine does not have."""
    try:
        if not is_url(folder) and not is_there(Path(folder) / fmt.HEADER):
            return None
    except Unavailable:
        pass  # Where nobody else has them, it says why.
    return StoredSource(folder, within=within)


def _lock(folder: Path) -> IO[bytes]:
    try:
        make_private_folder(folder)
        file = open_private(folder / LOCK_FILE, "ab")
    except OSError as exc:
        raise StartupError(f"data folder {folder} cannot be written: {exc}") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise StartupError(f"data folder {folder} is in use by another process") from exc
    return file
