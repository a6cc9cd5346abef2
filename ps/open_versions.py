"""Open versions of a shard as values: what its verbs read, and what may become part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import CorruptData, NotFound, NotOwner, OtherContent, RingpullError, Unavailable
from ringpull.ps.identity import differ, number_of, text_of
from ringpull.ps.local.flat_pull import FlatTables
from ringpull.ps.open_parts import OpenPart, bases
from ringpull.ps.parts import PartName
from ringpull.ps.parts import table_of as table_of_part
from ringpull.ps.placement import ServedRanges
from ringpull.ps.pull_messages import PullRequest
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.table import Table
from ringpull.ps.top_k_messages import TopKRequest
from ringpull.ps.wire.messages import TableStatistics
from ringpull.ps.wire.newest_messages import NewestRequest


@dataclass(slots=True)
class Counts:
    """Counts of one table since it was opened. Written under the shard's lock."""

    keys: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ServedTable:
    """Open table, and the slots of it that this shard serves."""

    table: Table
    """What is asked for: the exported table, and what was pushed since."""
    exported: Table
    """Base and deltas of its version, which its heads check; the same object where nothing was pushed."""
    parts: Mapping[str, OpenPart]
    """What the exported table is made of, by the names of the parts."""
    mask: SlotMask | None
    """Slots served; None: every slot."""
    owned_rows: int
    owned_bytes: int
    """Bytes of all parts of these slots, and of their keys."""
    counts: Counts
    grown: NDArray[np.int64] | None = None
    """See `ringpull.ps.open_parts.grown_by_slot`; None: there are no deltas."""

    @property
    def chained(self) -> bool:
        """Whether it has deltas."""
        return len(self.parts) > 1

    @property
    def deltas(self) -> int:
        """Number of its deltas."""
        return len({PartName.of(name).version for name in self.parts} - {0})

    @property
    def newer_share(self) -> float:
        """Rows that deltas brought or that were pushed, as a share of those of the base."""
        return self.table.newer_rows / max(1, self.table.base.rows)

    @property
    def delta_share(self) -> float:
        """Rows and keys that deltas brought, as a share of the base's rows."""
        base = self.exported.base.rows
        return (sum(part.base.rows for part in self.parts.values()) - base) / max(1, base)


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """Open version: what it is, and its tables."""

    identity: int
    """Identity of the version; 0: not known."""
    tables: Mapping[str, ServedTable]
    lineage: int = 0
    """Lineage of the version; 0: not known."""
    live: frozenset[str] = frozenset()
    """Tables that take pushes."""
    includes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """See `VersionPlacement.includes`."""
    publish: int = 0
    """See `VersionPlacement.publish`."""
    _flat: FlatTables | None = field(init=False, default=None, repr=False, compare=False)

    @property
    def flat(self) -> FlatTables:
        """Its tables as the kernel takes them, laid out when they are first asked for."""
        if self._flat is None:  # Threads that find so at once make one each, which are alike.
            object.__setattr__(self, "_flat", FlatTables(tuple(self.tables), self.tables))
        assert self._flat is not None
        return self._flat

    @property
    def bases(self) -> dict[str, Base]:
        """Base of each part of each table, by the part's name."""
        return dict(bases(each.parts for each in self.tables.values()))

    def part(self, name: str) -> OpenPart | None:
        """Return a part of one of its tables, by its name; None: there is none."""
        served = self.tables.get(table_of_part(name))
        return None if served is None else served.parts.get(name)


TableKey = tuple[str, int, str]
"""Key of a table, of a part of one, or of the copy of either: model, version, name."""

KnownDamage = Callable[[Base], Collection[BadBlock]]
"""Function that returns the blocks of a base which are known to be bad when it is opened."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ShardState:
    """State that verbs read."""

    epoch: int = 0
    served_ranges: tuple[ServedRanges, ...] | None = None
    """Assigned rings, two while a move is under way; None before the first assignment, when nothing is owned."""
    versions: Mapping[tuple[str, int], OpenVersion] = field(default_factory=dict)
    assigned: Collection[tuple[str, int]] = ()
    """Versions that should be open, as (model, version)."""
    refusals: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Versions that could not be opened when that was asked for, each with the reason."""
    live: Mapping[str, int] = field(default_factory=dict)
    """Lineage that is live, by model: of those alone where all that is assigned here agrees on it."""


def statistics_of(state: ShardState) -> tuple[TableStatistics, ...]:
    """Return the numbers of all tables; called under the lock that counts are written under."""
    return tuple(
        TableStatistics(model, version, name, each.owned_rows, each.owned_bytes, each.counts.keys, each.counts.missing)
        for (model, version), opened in state.versions.items()
        for name, each in opened.tables.items()
    )


def check_keys(part: OpenPart) -> None:
    """Refuse to cut a range out of a part of a table by positions that are damaged.

    Raises:
        CorruptData: They are.
    """
    if part.keys_damaged:
        raise CorruptData(f"{part.base.folder}: keys are damaged, so no range can be cut out; another copy has them")


def open_base(
    name: str, folder: Path, identity: int, within: Path | None, *, verify: bool, like: Iterable[Base] = ()
) -> Base:
    """Open a table's folder, or that of a part of it, which must hold the table of this name and identity.

    Args:
        like: See `Base.open`.

    Raises:
        CorruptData: It is damaged, or holds another table.
        OtherContent: It has another identity.
    """
    base = Base.open(folder, verify_rows=verify, within=within, identity=identity, like=like)
    if base.spec.name != table_of_part(name):
        raise CorruptData(f"{folder}: holds the table {base.spec.name!r}, where {name!r} should be")
    return base


def is_content_of(served: OpenVersion, identity: str, tables: Mapping[str, int]) -> bool:
    """Return whether an open version has the content that is asked for."""
    there = served.bases
    return not differ(served.identity, number_of(identity)) and not any(
        differ(there[name].identity, wanted) for name, wanted in tables.items() if name in there
    )


def mixes(before: OpenVersion, bases: Mapping[str, Base]) -> bool:
    """Return whether one of these bases has another content than the part of its name has."""
    there = before.bases
    return any(name in there and differ(there[name].identity, base.identity) for name, base in bases.items())


def opened_version(state: ShardState, shard: int, model: str, version: int) -> OpenVersion:
    """Return an open version.

    Raises:
        NotFound: It is not open.
        Unavailable: It should be open, and could not be opened.
    """
    opened = state.versions.get((model, version))
    if opened is None:
        raise not_open(state, shard, model, version)
    return opened


def table_of(tables: Mapping[str, ServedTable], model: str, version: int, name: str) -> ServedTable:
    """Return a table of an open version.

    Raises:
        NotFound: It has none of this name.
    """
    served = tables.get(name)
    if served is None:
        raise NotFound(f"model {model}, version {version}: there is no table {name!r}; it has {sorted(tables)}")
    return served


def part_of(served: ServedTable, model: str, version: int, name: str) -> OpenPart:
    """Return a part of an open table.

    Raises:
        NotFound: It has none of this name.
    """
    part = served.parts.get(name)
    if part is None:
        raise NotFound(f"model {model}, version {version}: there is no part {name!r}; it has {sorted(served.parts)}")
    return part


def check_identity(opened: OpenVersion, shard: int, request: PullRequest | TopKRequest | NewestRequest) -> None:
    """Refuse a request that means another content than the open version has.

    Raises:
        OtherContent: It does.
    """
    if request.identity != opened.identity and request.identity and opened.identity:
        what = f"{request.model}/{request.version} on shard {shard}"
        raise OtherContent.found(what, text_of(opened.identity), text_of(request.identity))


def not_open(state: ShardState, shard: int, model: str, version: int) -> RingpullError:
    """Return the error for a version that is not open."""
    message = f"model {model!r}, version {version} is not open on shard {shard}"
    reason = state.refusals.get((model, version))
    if reason is not None and (model, version) in state.assigned:
        return Unavailable(f"{message}: {reason}")  # Another replica may have it.
    return NotFound(message)


def not_owner(state: ShardState, shard: int, table: str, slot: int) -> NotOwner:
    """Return the error for a slot that is not served."""
    message = f"shard {shard} does not own slot {slot} of table {table} at epoch {state.epoch}"
    return NotOwner(message, epoch=state.epoch)
