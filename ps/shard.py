"""A shard: which tables are open, which slots it owns at which epoch, and the verbs. No sockets, no event loop.

Invariants: everything a verb reads hangs on one frozen state, taken once at its start and swapped whole by control
calls, so a pull sees one epoch and one set of tables from end to end; a key outside the owned slots is refused with the
epoch, never answered with a default vector; what a verb in progress reads stays mapped until it is done, whatever is
retired meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ps.errors import CorruptData, InvalidInput, NotFound, NotOwner, Unavailable
from ps.hashing import SLOTS
from ps.ring import Ring
from ps.spec import Replicas
from ps.store.base import Base
from ps.store.pull import SlotNotOwned
from ps.store.pull import pull as pull_tables
from ps.store.table import Table
from ps.wire.messages import (
    PullReply,
    PullRequest,
    RangePullReply,
    RangePullRequest,
    ShardStatistics,
    TableStatistics,
    range_checksum,
)

MAX_RANGE_BYTES: Final = 64 << 20
"""Rows of one reply to a range_pull, however many its caller would take."""

SlotMask = NDArray[np.uint8]
"""(SLOTS,): 1 for each owned slot."""


@dataclass(slots=True)
class _Counts:
    """What one table was asked since it was opened. Written under the shard's lock."""

    keys: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _ServedTable:
    """One open table, and which of its slots this shard answers for."""

    table: Table
    mask: SlotMask | None
    """None: every slot."""
    owned_rows: int
    counts: _Counts


_Tables = Mapping[str, _ServedTable]


@dataclass(frozen=True, slots=True)
class _State:
    """Everything verbs read."""

    epoch: int = 0
    ring: Ring | None = None
    """None before the first assignment: nothing is owned."""
    replicas: Mapping[tuple[str, str], Replicas] = field(default_factory=dict)
    """(model, table) -> wanted copies; a table not named has one."""
    versions: Mapping[tuple[str, int], _Tables] = field(default_factory=dict)


class Shard:
    """The verbs of one shard. All methods may be called from any thread; verbs never wait for control calls."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._state = _State()
        self._control = threading.Lock()  # orders open, retire and assign; taken before _counting, never inside it
        self._counting = threading.Lock()
        self._requests = 0

    def __repr__(self) -> str:
        state = self._state
        opened = ", ".join(f"{model}/{version}" for model, version in state.versions) or "nothing"
        return f"<Shard {self._shard} epoch={state.epoch} open: {opened}>"

    # -- control ------------------------------------------------------------------------------------------------------

    def open(
        self, model: str, version: int, folders: Mapping[str, Path], *, prefault: bool = False, verify: bool = False
    ) -> None:
        """Open the tables of one model version, all or none, and serve them from now on.

        Opening what is open already, from the same folders, does nothing: a coordinator may repeat itself.

        Args:
            folders: Table name -> its folder.
            prefault: Bring every page into memory before returning.
            verify: Read all rows and hold them against their checksums.

        Raises:
            CorruptData: A table is damaged, or is not the table it should be.
            InvalidInput: The version is open from other folders.
        """
        with self._control:
            served = self._state.versions.get((model, version))
            if served is not None:
                if {name: each.table.base.folder for name, each in served.items()} != dict(folders):
                    raise InvalidInput(f"model {model}: version {version} is open already, from other folders")
                return
            bases = {name: _open_base(name, folder, verify=verify) for name, folder in folders.items()}
            if prefault:
                for base in bases.values():
                    base.prefault()
            opened = {
                name: self._serve(self._state, model, name, Table(base), _Counts()) for name, base in bases.items()
            }
            self._state = replace(self._state, versions={**self._state.versions, (model, version): opened})

    def retire(self, model: str, version: int) -> None:
        """Serve a version no longer; its files are unmapped when the last verb that reads them is done.

        Raises:
            NotFound: The version is not open here.
        """
        with self._control:
            versions = dict(self._state.versions)
            if versions.pop((model, version), None) is None:
                raise self._not_open(model, version)
            self._state = replace(self._state, versions=versions)

    def assign(self, epoch: int, ring: Ring, replicas: Mapping[tuple[str, str], Replicas]) -> None:
        """Own what `ring` says, from now on. An epoch below the current one is late news, and ignored.

        Args:
            replicas: (model, table) -> wanted copies; a table not named has one.
        """
        with self._control:
            if epoch < self._state.epoch:
                return
            state = replace(self._state, epoch=epoch, ring=ring, replicas=dict(replicas))
            versions = {
                (model, version): {
                    name: self._serve(state, model, name, served.table, served.counts)
                    for name, served in tables.items()
                }
                for (model, version), tables in state.versions.items()
            }
            self._state = replace(state, versions=versions)

    def prefault(self) -> None:
        """Bring every page of every open table into memory."""
        for tables in self._state.versions.values():
            for served in tables.values():
                served.table.base.prefault()

    # -- verbs --------------------------------------------------------------------------------------------------------

    def pull(self, request: PullRequest) -> PullReply:
        """Return rows and pooled bags; a key that its table lacks counts as the table's default vector.

        Raises:
            NotFound: The model version is not open here, or has no such table.
            NotOwner: A key lies outside the slots owned here.
            InvalidInput: The lengths of a look-up's bags do not add up to its keys.
            LimitExceeded: The reply would be larger than a frame may be.
            Unavailable: A key's slot is owned, but its rows are not held here or damaged; another replica may answer.
        """
        state = self._state
        tables = self._tables(state, request.model, request.version)
        served = [self._table(tables, request.model, request.version, lookup.table) for lookup in request.lookups]
        try:
            reply = pull_tables([each.table for each in served], [each.mask for each in served], request)
        except SlotNotOwned as exc:
            raise self._not_owner(state, exc.table, exc.slot) from exc
        with self._counting:
            self._requests += 1
            for each, lookup, missing in zip(served, request.lookups, reply.missing.tolist(), strict=True):
                each.counts.keys += lookup.keys
                each.counts.missing += missing
        return reply

    def range_pull(self, request: RangePullRequest) -> RangePullReply:
        """Return the next block of a slot range: stored rows, bit for bit, in the order of their positions.

        Every checksummed block of the store that the reply touches is verified first, so damage is not passed on.

        Raises:
            NotFound: The model version is not open here, or has no such table.
            NotOwner: Not the whole range is owned here.
            InvalidInput: The slots are no range, or the cursor lies outside it.
            Unavailable: The range is owned, but not all of it is held here.
            CorruptData: Rows of this block are damaged here; another replica has them.
        """
        state = self._state
        tables = self._tables(state, request.model, request.version)
        served = self._table(tables, request.model, request.version, request.table)
        begin, end = request.begin, request.end
        if not 0 <= begin < end <= SLOTS:
            raise InvalidInput(f"range_pull: slots {begin} to {end} are not a range within 0..{SLOTS}")
        if served.mask is not None and not served.mask[begin:end].all():
            slot = begin + int(np.argmin(served.mask[begin:end]))
            raise self._not_owner(state, request.table, slot)
        base = served.table.base
        if not base.held_mask()[begin:end].all():
            raise Unavailable(f"range_pull: {base.folder} does not hold all of the slots {begin} to {end}")
        range_first, range_last = base.row_range(begin, end)
        first = range_first + request.cursor
        if not range_first <= first <= range_last:
            total = range_last - range_first
            raise InvalidInput(f"range_pull: the cursor is {request.cursor}; the range has {total} rows")
        count = max(1, min(request.max_bytes, MAX_RANGE_BYTES) // base.spec.row_bytes)
        last = min(range_last, first + count)
        _verify_rows(base, first, last)
        positions, rows = base.positions_slice(first, last), base.raw_rows(first, last).reshape(-1)
        reply = RangePullReply(
            positions=positions,
            rows=rows,
            checksum=range_checksum(positions, rows),
            next_cursor=last - range_first,
            total_rows=range_last - range_first,
        )
        with self._counting:
            self._requests += 1
        return reply

    def statistics(self) -> ShardStatistics:
        """Return the shard's numbers as of now."""
        state = self._state
        with self._counting:
            tables = tuple(
                TableStatistics(
                    model=model,
                    version=version,
                    table=name,
                    rows=served.owned_rows,
                    bytes=served.owned_rows * (served.table.spec.row_bytes + np.dtype(np.uint64).itemsize),
                    keys=served.counts.keys,
                    missing=served.counts.missing,
                )
                for (model, version), opened in state.versions.items()
                for name, served in opened.items()
            )
            requests = self._requests
        slots = 0 if state.ring is None else int(state.ring.owned_mask(self._shard, 1).sum())
        return ShardStatistics(
            shard=self._shard, epoch=state.epoch, pid=os.getpid(), slots=slots, requests=requests, tables=tables
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _serve(self, state: _State, model: str, name: str, table: Table, counts: _Counts) -> _ServedTable:
        mask = np.zeros(SLOTS, np.uint8)
        if state.ring is not None:
            mask = state.ring.owned_mask(self._shard, state.replicas.get((model, name), 1))
        owned_rows = 0
        for begin, end in _runs(mask):
            first, last = table.base.row_range(begin, end)
            owned_rows += last - first
        return _ServedTable(table, None if mask.all() else mask, owned_rows, counts)

    def _tables(self, state: _State, model: str, version: int) -> _Tables:
        tables = state.versions.get((model, version))
        if tables is None:
            raise self._not_open(model, version)
        return tables

    def _table(self, tables: _Tables, model: str, version: int, name: str) -> _ServedTable:
        served = tables.get(name)
        if served is None:
            raise NotFound(f"model {model}, version {version}: there is no table {name!r}; it has {sorted(tables)}")
        return served

    def _not_open(self, model: str, version: int) -> NotFound:
        return NotFound(f"model {model!r}, version {version} is not open on shard {self._shard}")

    def _not_owner(self, state: _State, table: str, slot: int) -> NotOwner:
        message = f"shard {self._shard} does not own slot {slot} of table {table} at epoch {state.epoch}"
        return NotOwner(message, epoch=state.epoch)


def _open_base(name: str, folder: Path, *, verify: bool) -> Base:
    base = Base.open(folder, verify_rows=verify)
    if base.spec.name != name:
        raise CorruptData(f"{folder}: holds the table {base.spec.name!r}, where {name!r} should be")
    return base


def _runs(mask: SlotMask) -> list[tuple[int, int]]:
    """Return the [begin, end) stretches of ones."""
    edges = np.flatnonzero(np.diff(mask, prepend=np.uint8(0), append=np.uint8(0)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _verify_rows(base: Base, first: int, last: int) -> None:
    """Hold the checksummed blocks with rows [first, last) against their checksums."""
    if first == last:
        return
    block_firsts = base.sections.blocks[:, 0]
    begin = int(np.searchsorted(block_firsts, np.uint64(first), side="right")) - 1
    end = int(np.searchsorted(block_firsts, np.uint64(last)))
    if bad := base.verify(range(begin, end)):
        raise CorruptData(
            f"range_pull: {base.folder}: rows {bad[0].first_row} to {bad[0].first_row + bad[0].rows} are damaged"
        )
