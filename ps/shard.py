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
from collections.abc import Callable

import msgpack
import numpy as np

from ringpull.ps.errors import InvalidInput, OtherContent
from ringpull.ps.hashing import SLOTS
from ringpull.ps.identity import differ, text_of
from ringpull.ps.local.telling import FilesTold
from ringpull.ps.newest_rows import VerifiedBlocks, check_slots, read_newest
from ringpull.ps.open_parts import OpenPart
from ringpull.ps.open_versions import (
    KnownDamage,
    OpenVersion,
    ShardState,
    check_identity,
    check_keys,
    not_owner,
    opened_version,
    part_of,
    statistics_of,
    table_of,
)
from ringpull.ps.parts import table_of as table_of_part
from ringpull.ps.pull_messages import PullReply, PullRequest
from ringpull.ps.ring import SlotRange
from ringpull.ps.shard_tables import ShardTables
from ringpull.ps.store.pull import MAX_REPLY_BYTES, SlotNotOwned
from ringpull.ps.store.pull import pull as pull_tables
from ringpull.ps.store.top_k import request_cost, scan_table
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.transfer.source import read_block
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.messages import DescribeReply, DescribeRequest, RangePullReply, RangePullRequest, ShardStatistics
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest


class Shard(ShardTables):
    """The verbs of one shard. All methods may be called from any thread; verbs never wait for control calls."""

    def __init__(self, shard: int, known_damage: KnownDamage = lambda base: ()) -> None:
        super().__init__(shard, known_damage)
        self._counting = threading.Lock()
        self._requests = 0
        self._files = FilesTold()
        self._streaming = threading.Lock()  # guards the next
        self._verified = VerifiedBlocks()

    def __repr__(self) -> str:
        state = self._state
        opened = ", ".join(f"{model}/{version}" for model, version in state.versions) or "nothing"
        return f"<Shard {self._shard} epoch={state.epoch} open: {opened}>"

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
        reply = None if request.as_exported else opened.flat.asked(request, MAX_REPLY_BYTES)
        if reply is None:
            reply = self._one_by_one(state, opened, request)
        with self._counting:
            self._requests += 1
            for lookup, missing in zip(request.lookups, reply.missing.tolist(), strict=True):
                counts = opened.tables[lookup.table].counts
                counts.keys += lookup.keys
                counts.missing += missing
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
        part, slots = self._owned_range("range_pull", request)
        check_keys(part)
        reply = read_block(part.base, slots, request.cursor, request.max_bytes)
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
        part, slots = self._owned_range("describe", request)
        check_keys(part)
        base = part.base
        first, last = base.row_range(slots.begin, slots.end)
        spec = np.frombuffer(msgpack.packb(base.spec.to_dict()), np.uint8)
        begin, end = base.byte_range(first, last) if base.spec.is_bytes else (0, 0)
        return DescribeReply(spec=spec, identity=base.identity, rows=last - first, rows_bytes=end - begin)

    def newest(self, request: NewestRequest) -> NewestReply:
        """Return the next rows of a slot range as they are now, pushed ones and all; or, of no rows, the stamp of the
        last push.

        Every stored block that they touch is verified, so damage is not passed on.

        Raises:
            RingpullError: Any that `range_pull` raises; NotAnswered: some slots are not answered for.
        """
        state, current = self._state, self._current
        opened = opened_version(state, self._shard, request.model, request.version)
        check_identity(opened, self._shard, request)
        served = table_of(opened.tables, request.model, request.version, request.table)
        if not request.max_bytes:
            return NewestReply(
                0 if current is None else current.stamp(request.model, opened.lineage, request.table), False, 0
            )
        slots = check_slots(state, self._shard, served, request)
        folds = () if current is None else current.fold_files(request.model, opened.lineage, request.table)
        with self._streaming:
            reply = read_newest(served, slots, request, folds, self._verified)
        with self._counting:
            self._requests += 1
        return reply

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

    # -- inside ------------------------------------------------------------------------------------------------------

    def _one_by_one(self, state: ShardState, opened: OpenVersion, request: PullRequest) -> PullReply:
        """Return the answer to a pull that has something unusual, or say what is wrong with it."""
        tables = opened.tables
        served = [table_of(tables, request.model, request.version, lookup.table) for lookup in request.lookups]
        try:
            asked = [each.exported if request.as_exported else each.table for each in served]
            return pull_tables(asked, [each.mask for each in served], request)
        except SlotNotOwned as exc:
            raise not_owner(state, self._shard, exc.table, exc.slot) from exc

    def _owned_range(self, verb: str, request: RangePullRequest | DescribeRequest) -> tuple[OpenPart, SlotRange]:
        """Return the part and the slots that a request about a range names, all of them owned here."""
        state = self._state
        opened = opened_version(state, self._shard, request.model, request.version)
        served = table_of(opened.tables, request.model, request.version, table_of_part(request.table))
        part = part_of(served, request.model, request.version, request.table)
        found = part.base.identity
        if differ(found, request.identity):
            what = f"table {request.table} of {request.model}/{request.version} on shard {self._shard}"
            raise OtherContent.found(what, text_of(found), text_of(request.identity))
        begin, end = request.begin, request.end
        if not 0 <= begin < end <= SLOTS:
            raise InvalidInput(f"{verb}: slots {begin} to {end} are not a range within 0..{SLOTS}")
        if served.mask is not None and not served.mask[begin:end].all():
            slot = begin + int(np.argmin(served.mask[begin:end]))
            raise not_owner(state, self._shard, request.table, slot)
        return part, SlotRange(begin, end)
