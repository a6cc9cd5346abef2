"""A shard: its open tables, the slots it owns at which epoch, and the verbs. No sockets, no event loop.

During a move it serves the slots it owns by either of two specs. It may have stored more than that, and stored bases
may be replaced, by the same rows and others, while pulls go on.

Invariants: everything a verb reads hangs on one frozen state, taken once at its start and swapped whole by control
calls, so a pull sees one epoch and one set of tables from end to end; a key outside the owned slots is refused with the
epoch, never answered with a default vector; what a verb in progress reads stays mapped until it is done, whatever is
retired meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np

from ringpull.ps.errors import InvalidInput, OtherContent
from ringpull.ps.hashing import POSITION_BYTES, SLOTS
from ringpull.ps.identity import UNKNOWN, differ, identity_in, number_of, text_of
from ringpull.ps.local.telling import FilesTold
from ringpull.ps.open_versions import (
    Counts,
    KnownDamage,
    OpenVersion,
    ServedTable,
    ShardState,
    TableKey,
    check_identity,
    check_keys,
    is_content_of,
    mixes,
    not_open,
    not_owner,
    open_base,
    opened_version,
    statistics_of,
    table_of,
)
from ringpull.ps.placement import ServedRanges, VersionPlacement
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask, runs, shared
from ringpull.ps.spec import ALL
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.pull import SlotNotOwned
from ringpull.ps.store.pull import pull as pull_tables
from ringpull.ps.store.table import Table
from ringpull.ps.store.top_k import request_cost, scan_table
from ringpull.ps.transfer.source import read_block
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.messages import (
    DescribeReply,
    DescribeRequest,
    PullReply,
    PullRequest,
    RangePullReply,
    RangePullRequest,
    ShardStatistics,
)
from ringpull.ps.wire.top_k_messages import TopKReply, TopKRequest


class Shard:
    """The verbs of one shard. All methods may be called from any thread; verbs never wait for control calls."""

    def __init__(self, shard: int, known_damage: KnownDamage = lambda base: ()) -> None:
        self._shard = shard
        self._known_damage = known_damage
        self._state = ShardState()
        self._control = threading.Lock()  # orders open, retire and assign; taken before _counting, never inside it
        self._counting = threading.Lock()
        self._requests = 0
        self._files = FilesTold()

    def __repr__(self) -> str:
        state = self._state
        opened = ", ".join(f"{model}/{version}" for model, version in state.versions) or "nothing"
        return f"<Shard {self._shard} epoch={state.epoch} open: {opened}>"

    @property
    def shard(self) -> int:
        """Id of the shard."""
        return self._shard

    @property
    def epoch(self) -> int:
        """Epoch of the last assignment; 0 before the first."""
        return self._state.epoch

    # -- control ------------------------------------------------------------------------------------------------------

    def open(
        self,
        model: str,
        version: int,
        folders: Mapping[str, Path],
        *,
        identity: str = "",
        tables: Mapping[str, int] | None = None,
        within: Path | None = None,
        prefault: bool = False,
        verify: bool = False,
        check: Callable[[Mapping[str, Base]], None] = lambda bases: None,
    ) -> None:
        """Open the tables of one model version, all or none, and serve them from now on.

        Opening a version that is open already, with the same content, does nothing: a coordinator may repeat itself.
        One that is open with another content than is asked for is replaced by that, or stays where that is not found.

        Args:
            folders: Folder of each table, by its name.
            identity: Identity of the version; empty: not known.
            tables: Identity that each table must have; one that is not named may have any.
            within: Folder that no file may lead out of; None: that of each table.
            prefault: Bring every page into memory before returning.
            verify: Read all rows and hold them against their checksums.
            check: Called with the tables, opened and not served yet, or served already; may refuse them.

        Raises:
            CorruptData: A table is damaged, or is not the table it should be.
            OtherContent: A table has another identity than it should have.
            InvalidInput: The version is open from other folders, and it is not known what it should be.
        """
        wanted = tables or {}
        if self._holds(model, version, folders, identity, wanted):
            check(self.bases(model, version))
            return
        # Not under the lock: it may take long, and other versions are assigned, quarantined and retired meanwhile.
        bases = {
            name: open_base(name, folder, wanted.get(name, UNKNOWN), within, verify=verify, like=self._whole_bases())
            for name, folder in folders.items()
        }
        check(bases)
        if prefault:
            for base in bases.values():
                base.prefault()
        with self._control:
            if not self._holds(model, version, folders, identity, wanted):
                self._install(model, version, bases, {}, number_of(identity))

    def install(self, model: str, version: int, bases: Mapping[str, Base], *, identity: str = "") -> None:
        """Serve these bases from now on: a version's tables, or others in place of those of the same names.

        Verbs in progress end with what they began with. Counts stay, unless the version was open with another content:
        then nothing of that stays.

        Args:
            identity: Identity of the version; empty: that of the open one.
        """
        with self._control:
            before = self._state.versions.get((model, version))
            told = number_of(identity)
            if before is None or differ(before.identity, told) or mixes(before.tables, bases):
                self._install(model, version, bases, {}, told)
            else:
                self._install(model, version, bases, before.tables, told or before.identity)

    def refuse(self, model: str, version: int, reason: str) -> None:
        """Note that a version cannot be opened as it should be, for those who ask for it, until it is.

        If it is open, with another content then, it is closed.
        """
        with self._control:
            state, name = self._state, (model, version)
            versions = {each: opened for each, opened in state.versions.items() if each != name}
            self._state = replace(state, versions=versions, refusals={**state.refusals, name: reason})

    @property
    def refusals(self) -> Mapping[tuple[str, int], str]:
        """Versions that should be served and could not be opened, each with the reason."""
        state = self._state
        return {name: reason for name, reason in state.refusals.items() if name in state.assigned}

    def quarantine(self, key: TableKey, base: Base, bad: Collection[BadBlock]) -> bool:
        """Refuse pulls of the slots of these blocks of a table, and of no others, from now on.

        Returns:
            Whether the table is still served from this base; if not, nothing was done.
        """
        return self._replace_table(key, base, Table.without(base, bad))

    def exchange(self, key: TableKey, before: Base, base: Base) -> bool:
        """Serve a table from another base with the same rows; return whether it was served from `before` until now."""
        return self._replace_table(key, before, self._view(base))

    def tables(self) -> list[TableKey]:
        """Return the tables that are served, in the order in which they were opened."""
        return [(*version, name) for version, opened in self._state.versions.items() for name in opened.tables]

    def bases(self, model: str, version: int) -> dict[str, Base]:
        """Return the bases that a version's tables are served from; none if it is not open."""
        opened = self._state.versions.get((model, version))
        return {} if opened is None else {name: each.table.base for name, each in opened.tables.items()}

    def base(self, key: TableKey) -> Base | None:
        """Return the base that a table is served from; None if it is not served."""
        served = self._served_table(key)
        return None if served is None else served.table.base

    def served(self, key: TableKey) -> tuple[Base, list[SlotRange]] | None:
        """Return the base of a table and the slots of it that are served; None if it is not served any more."""
        served = self._served_table(key)
        if served is None:
            return None
        return served.table.base, [SlotRange(0, SLOTS)] if served.mask is None else runs(served.mask)

    def has_copies(self, key: TableKey) -> bool:
        """Return whether other shards have the ranges of a table that this one serves."""
        model, _, name = key
        for each in self._state.served_ranges or ():
            wanted = each.replicas.get((model, name), 1)
            # A ring of few shards has fewer copies than are wanted.
            if (len(each.ring.shards) if wanted == ALL else min(wanted, each.ring.ranks)) > 1:
                return True
        return False

    def is_open(self, model: str, version: int) -> bool:
        """Return whether a version is served here."""
        return (model, version) in self._state.versions

    def holds(self, placement: VersionPlacement) -> bool:
        """Return whether a version is served here with the content that a placement asks for."""
        served = self._state.versions.get((placement.model, placement.version))
        wanted = {name: table.identity for name, table in placement.tables.items()}
        return served is not None and is_content_of(served, placement.identity, wanted)

    def owned(self, model: str, table: str) -> SlotMask | None:
        """Return the slots of a table that are answered for, or None before the first assignment."""
        state = self._state
        return None if state.served_ranges is None else self._owned(state, model, table)

    def retire(self, model: str, version: int) -> None:
        """Serve a version no longer; its files are unmapped when the last verb that reads them is done.

        Raises:
            NotFound: The version is not open here.
        """
        with self._control:
            versions = dict(self._state.versions)
            if versions.pop((model, version), None) is None:
                raise not_open(self._state, self._shard, model, version)
            self._state = replace(self._state, versions=versions)

    def assign(self, epoch: int, served_ranges: Sequence[ServedRanges], versions: Collection[tuple[str, int]]) -> bool:
        """Serve the slots owned by any of `served_ranges`, of these versions; other open versions are retired.

        Args:
            epoch: Epoch of the newest shard map that was made of them. One below the current is outdated, and ignored.
            served_ranges: Ranges of two specs while a move is under way, else of one.
            versions: (model, version), perhaps with the identity of each: one that is open with another content is
                retired too. One that is not open yet is checked by `served_ranges` once it is.

        Returns:
            Whether it was news.
        """
        with self._control:
            if epoch < self._state.epoch:
                return False
            named = frozenset(versions)
            refusals = {name: reason for name, reason in self._state.refusals.items() if name in named}
            state = replace(
                self._state, epoch=epoch, served_ranges=tuple(served_ranges), assigned=named, refusals=refusals
            )
            served = {
                (model, version): OpenVersion(
                    opened.identity,
                    {
                        name: self._serve(state, model, name, each.table, each.counts)
                        for name, each in opened.tables.items()
                    },
                )
                for (model, version), opened in state.versions.items()
                if (model, version) in named and not differ(opened.identity, identity_in(versions, (model, version)))
            }
            self._state = replace(state, versions=served)
            return True

    def prefault(self) -> None:
        """Bring every page of every open table into memory."""
        for opened in self._state.versions.values():
            for served in opened.tables.values():
                served.table.base.prefault()

    # -- verbs --------------------------------------------------------------------------------------------------------

    def pull(self, request: PullRequest) -> PullReply:
        """Return rows and pooled bags; a key that its table does not have counts as the table's default vector.

        Raises:
            NotFound: The model version is not open here, or has no such table.
            OtherContent: The version has another content here than the asker has.
            NotOwner: A key lies outside the slots owned here.
            InvalidInput: The lengths of a look-up's bags do not add up to its keys.
            LimitExceeded: The reply would be larger than a frame, or what was asked for, may be.
            Unavailable: A key's slot is owned, but its rows are not stored here; another replica may answer.
        """
        state = self._state
        opened = opened_version(state, self._shard, request.model, request.version)
        check_identity(opened, self._shard, request)
        tables = opened.tables
        served = [table_of(tables, request.model, request.version, lookup.table) for lookup in request.lookups]
        try:
            reply = pull_tables([each.table for each in served], [each.mask for each in served], request)
        except SlotNotOwned as exc:
            raise not_owner(state, self._shard, exc.table, exc.slot) from exc
        with self._counting:
            self._requests += 1
            for each, lookup, missing in zip(served, request.lookups, reply.missing.tolist(), strict=True):
                each.counts.keys += lookup.keys
                each.counts.missing += missing
        return reply

    def top_k(self, request: TopKRequest, go_on: Callable[[], None] = lambda: None) -> TopKReply:
        """Return the rows of the requested slots of one table that score highest.

        Args:
            go_on: Called again and again; what it raises ends the scan.

        Raises:
            RingpullError: Any that `pull` raises, of a slot in place of a key; InvalidInput: queries do not fit.
        """
        state = self._state
        opened = opened_version(state, self._shard, request.model, request.version)
        check_identity(opened, self._shard, request)
        served = table_of(opened.tables, request.model, request.version, request.table)
        try:
            reply = scan_table(served.table, served.mask, request, go_on)
        except SlotNotOwned as exc:
            raise not_owner(state, self._shard, exc.table, exc.slot) from exc
        with self._counting:
            self._requests += 1
        return reply

    def top_k_cost(self, request: TopKRequest) -> float:
        """Return what a request costs (`request_cost`); 0 where it would fail."""
        served = self._served_table((request.model, request.version, request.table))
        return 0.0 if served is None else request_cost(served.table, request)

    def range_pull(self, request: RangePullRequest) -> RangePullReply:
        """Return the next block of a slot range: stored rows, bit for bit, in the order of their positions.

        Every checksummed block of the store that the reply touches is verified first, so damage is not passed on.

        Raises:
            NotFound: The model version is not open here, or has no such table.
            NotOwner: Part of the range is not owned here.
            InvalidInput: The slots are no range, or the cursor lies outside it.
            Unavailable: The range is owned, but not all of it is stored here.
            CorruptData: Rows of this block, or keys of the table, are damaged here; another replica has them.
        """
        served, slots = self._owned_range("range_pull", request)
        check_keys(served.table)
        reply = read_block(served.table.base, slots, request.cursor, request.max_bytes)
        with self._counting:
            self._requests += 1
        return reply

    def describe(self, request: DescribeRequest) -> DescribeReply:
        """Return what a table is, and how many rows a range of it has.

        Raises:
            NotFound: The model version is not open here, or has no such table.
            NotOwner: Part of the range is not owned here.
            InvalidInput: The slots are no range.
            CorruptData: Keys of the table are damaged here; another replica has them.
        """
        served, slots = self._owned_range("describe", request)
        check_keys(served.table)
        base = served.table.base
        first, last = base.row_range(slots.begin, slots.end)
        spec = np.frombuffer(msgpack.packb(base.spec.to_dict()), np.uint8)
        begin, end = base.byte_range(first, last) if base.spec.is_bytes else (0, 0)
        return DescribeReply(spec=spec, identity=base.identity, rows=last - first, rows_bytes=end - begin)

    def files(self, request: FilesRequest) -> FilesReply:
        """Return which files a version is served from; none where it is not open."""
        return self._files.answer(self._state, request)

    def statistics(self) -> ShardStatistics:
        """Return the shard's numbers as of now."""
        state = self._state
        with self._counting:
            tables = statistics_of(state)
            requests = self._requests
        slots = np.zeros(SLOTS, np.uint8)
        for served_ranges in state.served_ranges or ():
            slots |= served_ranges.ring.owned_mask(self._shard, 1)
        return ShardStatistics(
            shard=self._shard,
            epoch=state.epoch,
            pid=os.getpid(),
            slots=int(slots.sum()),
            requests=requests,
            tables=tables,
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _holds(
        self, model: str, version: int, folders: Mapping[str, Path], identity: str, tables: Mapping[str, int]
    ) -> bool:
        """Return whether a version is open with this content.

        Raises:
            InvalidInput: It is open from other folders, and it is not known what it should be.
        """
        served = self._state.versions.get((model, version))
        if served is None or not is_content_of(served, identity, tables):
            return False
        now = {name: each.table.base.folder for name, each in served.tables.items()}
        if not identity and not any(tables.values()) and now != dict(folders):
            raise InvalidInput(f"model {model}: version {version} is open already, from other folders")
        return True

    def _whole_bases(self) -> list[Base]:
        """Return the bases that are served and have no known damage: a table of the same files takes no memory more.

        Each table has a base of its own all the same, so that what is found and refused of one is not the other's.
        """
        bases = [each.table.base for opened in self._state.versions.values() for each in opened.tables.values()]
        return [base for base in bases if not self._known_damage(base)]

    def _replace_table(self, key: TableKey, before: Base, table: Table) -> bool:
        model, version, name = key
        with self._control:
            opened = self._state.versions.get((model, version))
            served = None if opened is None else opened.tables.get(name)
            if opened is None or served is None or served.table.base is not before:
                return False
            tables = {**opened.tables, name: replace(served, table=table)}
            versions = {**self._state.versions, (model, version): replace(opened, tables=tables)}
            self._state = replace(self._state, versions=versions)
            return True

    def _served_table(self, key: TableKey) -> ServedTable | None:
        opened = self._state.versions.get(key[:2])
        return None if opened is None else opened.tables.get(key[2])

    def _view(self, base: Base) -> Table:
        return Table.without(base, self._known_damage(base))

    def _install(
        self,
        model: str,
        version: int,
        bases: Mapping[str, Base],
        before: Mapping[str, ServedTable],
        identity: int,
    ) -> None:
        """Serve these bases, and those of `before` that have other names."""
        tables = dict(before)
        for name, base in bases.items():
            counts = before[name].counts if name in before else Counts()
            tables[name] = self._serve(self._state, model, name, self._view(base), counts)
        versions = {**self._state.versions, (model, version): OpenVersion(identity, tables)}
        refusals = {name: reason for name, reason in self._state.refusals.items() if name != (model, version)}
        self._state = replace(self._state, versions=versions, refusals=refusals)

    def _serve(self, state: ShardState, model: str, name: str, table: Table, counts: Counts) -> ServedTable:
        mask = self._owned(state, model, name)
        owned_rows = owned_bytes = 0
        for slots in runs(mask):
            first, last = table.base.row_range(slots.begin, slots.end)
            begin, end = table.base.byte_range(first, last)
            owned_rows += last - first
            owned_bytes += end - begin + (last - first) * POSITION_BYTES
        return ServedTable(table, None if mask.all() else shared(mask), owned_rows, owned_bytes, counts)

    def _owned(self, state: ShardState, model: str, table: str) -> SlotMask:
        mask = np.zeros(SLOTS, np.uint8)
        for served_ranges in state.served_ranges or ():
            mask |= served_ranges.ring.owned_mask(self._shard, served_ranges.replicas.get((model, table), 1))
        return mask

    def _owned_range(self, verb: str, request: RangePullRequest | DescribeRequest) -> tuple[ServedTable, SlotRange]:
        """Return the table and the slots that a request about a range names, all of them owned here."""
        state = self._state
        opened = opened_version(state, self._shard, request.model, request.version)
        served = table_of(opened.tables, request.model, request.version, request.table)
        found = served.table.base.identity
        if differ(found, request.identity):
            what = f"table {request.table} of {request.model}/{request.version} on shard {self._shard}"
            raise OtherContent.found(what, text_of(found), text_of(request.identity))
        begin, end = request.begin, request.end
        if not 0 <= begin < end <= SLOTS:
            raise InvalidInput(f"{verb}: slots {begin} to {end} are not a range within 0..{SLOTS}")
        if served.mask is not None and not served.mask[begin:end].all():
            slot = begin + int(np.argmin(served.mask[begin:end]))
            raise not_owner(state, self._shard, request.table, slot)
        return served, SlotRange(begin, end)
