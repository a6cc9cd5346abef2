"""Target: the live table that a push is for, or why it is refused."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np

from ringpull.ps.errors import NotFound, StaleLineage, Unavailable, UnmetCondition
from ringpull.ps.hashing import SLOT_SHIFT
from ringpull.ps.live.live_table import LiveTable
from ringpull.ps.live.live_tables import LiveTables
from ringpull.ps.live.push_kernels import ALL_SERVED, AT_ONCE, first_foreign
from ringpull.ps.live.record import LiveName
from ringpull.ps.open_versions import ServedTable, ShardState, not_owner
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.spec import ALL
from ringpull.ps.store.kernels import address
from ringpull.ps.wire.push_messages import PushRequest


class Targets:
    """Looks for the tables that pushes are for. Used by one thread.

    What is served is remembered for as long as the shard's state is the same: pushes come many to a state. Neither the
    state nor a table is held for it: files and memory that nothing serves any more go, although no push comes.
    """

    def __init__(self, state: Callable[[], ShardState], shard: int, tables: LiveTables) -> None:
        self._state, self._shard, self._tables = state, shard, tables
        self._of: weakref.ref[ShardState] | None = None
        self._masks: dict[LiveName, SlotMask | None] = {}
        """Slots that are served, of the tables that take pushes by that state."""

    def __call__(self, request: PushRequest) -> LiveTable:
        """Return the table that a push is for.

        Raises:
            NotFound: No version of the model is open here, or it has no such table.
            StaleLineage: No open version is of the lineage that is meant; or it has to be live, and is not, or may not
                be any more.
            UnmetCondition: The table takes no pushes, or has several copies, or pushed rows of it are missing.
            NotOwner: A slot is not served here.
            Unavailable: Its owners change just now.
        """
        state, name = self._state(), LiveName(request.model, request.lineage, request.table)
        if self._of is None or self._of() is not state:
            self._of, self._masks = weakref.ref(state), {}
        if request.only_live and state.live.get(request.model) != request.lineage:
            raise _not_live(state, self._shard, request)
        table = self._tables.get(name)
        known = table is not None and table.row_type is not None and name in self._masks
        if table is None or not known or not self._tables.answers(name):
            table = self._looked_up(state, name, request)
        mask = self._masks[name]
        if mask is not None:
            positions = np.ascontiguousarray(request.positions)
            for begin in range(0, len(positions), AT_ONCE):
                count = min(AT_ONCE, len(positions) - begin)
                at = first_foreign(address(positions) + 8 * begin, count, address(mask))
                if at != ALL_SERVED:
                    raise not_owner(state, self._shard, request.table, int(positions[begin + at]) >> SLOT_SHIFT)
        return table

    def _looked_up(self, state: ShardState, name: LiveName, request: PushRequest) -> LiveTable:
        served = _served(state, self._shard, request)
        _check_alone(state, request)
        if not self._tables.answers(name):
            raise UnmetCondition(
                f"{name}: pushed rows of shard {self._shard} are missing, so none are taken until a new lineage is"
                " published: a full version that follows nothing"
            )
        spec = served.exported.spec
        table = self._tables.made(name, 0 if spec.is_bytes else spec.row_bytes)
        table.row_type, self._masks[name] = spec.row_type, served.mask
        return table


def _served(state: ShardState, shard: int, request: PushRequest) -> ServedTable:
    versions = {version: each for (model, version), each in state.versions.items() if model == request.model}
    if not versions:
        raise NotFound(f"no version of model {request.model!r} is open on shard {shard}")
    of_lineage = {version: each for version, each in versions.items() if each.lineage == request.lineage}
    if not of_lineage:
        known = ", ".join(sorted({f"{each.lineage:016x}" for each in versions.values()}))
        raise StaleLineage(
            f"push to {request.model}/{request.table}: lineage {request.lineage:016x} is meant, and open are versions"
            f" of {known}; a full version that follows nothing began another one"
        )
    newest = of_lineage[max(of_lineage)]
    served = newest.tables.get(request.table)
    if served is None:
        raise NotFound(f"push to {request.model}: there is no table {request.table!r}; it has {sorted(newest.tables)}")
    if request.table not in newest.live:
        raise UnmetCondition(
            f"push to {request.model}/{request.table}: the table takes no pushes; export it with"
            f" TableOptions(live=True), or serve with --live {request.model}/{request.table}"
        )
    return served


def _not_live(state: ShardState, shard: int, request: PushRequest) -> StaleLineage:
    live = state.live.get(request.model)
    known = "none is known to be" if live is None else f"{live:016x} is"
    return StaleLineage(
        f"push to {request.model}/{request.table}: lineage {request.lineage:016x} is not live on shard {shard}: {known}"
    )


def _check_alone(state: ShardState, request: PushRequest) -> None:
    """Refuse a push to slots that have, or are to have, another owner, too."""
    served_ranges = state.served_ranges or ()
    for each in served_ranges:
        wanted = each.replicas.get((request.model, request.table), 1)
        copies = len(each.ring.shards) if wanted == ALL else min(wanted, each.ring.ranks)
        if copies > 1:
            raise UnmetCondition(
                f"push to {request.model}/{request.table}: it has {copies} copies, and pushes are taken by tables of"
                " one; serve it with --replicas 1"
            )
    if len(served_ranges) > 1:
        raise Unavailable(
            f"push to {request.model}/{request.table}: slots are given to other shards just now; try again when"
            " the change is done"
        )
