"""Open versions of a shard as values: what its verbs read, and what may become part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ringpull.ps.errors import CorruptData, NotFound, NotOwner, OtherContent, RingpullError, Unavailable
from ringpull.ps.identity import differ, number_of, text_of
from ringpull.ps.placement import ServedRanges
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.table import Table
from ringpull.ps.wire.messages import PullRequest, TableStatistics
from ringpull.ps.wire.top_k_messages import TopKRequest


@dataclass(slots=True)
class Counts:
    """Counts of one table since it was opened. Written under the shard's lock."""

    keys: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ServedTable:
    """Open table, and the slots of it that this shard serves."""

    table: Table
    mask: SlotMask | None
    """Slots served; None: every slot."""
    owned_rows: int
    owned_bytes: int
    """Bytes of these rows and their keys."""
    counts: Counts


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """Open version: what it is, and its tables."""

    identity: int
    """Identity of the version; 0: not known."""
    tables: Mapping[str, ServedTable]


TableKey = tuple[str, int, str]
"""Model, version and name of a table."""

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


def statistics_of(state: ShardState) -> tuple[TableStatistics, ...]:
    """Return the numbers of all tables; called under the lock that counts are written under."""
    return tuple(
        TableStatistics(model, version, name, each.owned_rows, each.owned_bytes, each.counts.keys, each.counts.missing)
        for (model, version), opened in state.versions.items()
        for name, each in opened.tables.items()
    )


def check_keys(table: Table) -> None:
    """Refuse to cut a range out of a table by positions that are damaged.

    Raises:
        CorruptData: They are.
    """
    if table.keys_damaged:
        raise CorruptData(f"{table.base.folder}: keys are damaged, so no range can be cut out; another copy has them")


def open_base(
    name: str, folder: Path, identity: int, within: Path | None, *, verify: bool, like: Iterable[Base] = ()
) -> Base:
    """Open a table's folder, which must hold the table of this name and identity.

    Args:
        like: See `Base.open`.

    Raises:
        CorruptData: It is damaged, or holds another table.
        OtherContent: It has another identity.
    """
    base = Base.open(folder, verify_rows=verify, within=within, identity=identity, like=like)
    if base.spec.name != name:
        raise CorruptData(f"{folder}: holds the table {base.spec.name!r}, where {name!r} should be")
    return base


def is_content_of(served: OpenVersion, identity: str, tables: Mapping[str, int]) -> bool:
    """Return whether an open version has the content that is asked for."""
    return not differ(served.identity, number_of(identity)) and not any(
        differ(served.tables[name].table.base.identity, wanted)
        for name, wanted in tables.items()
        if name in served.tables
    )


def mixes(before: Mapping[str, ServedTable], bases: Mapping[str, Base]) -> bool:
    """Return whether one of these bases has another content than the table of its name has."""
    return any(
        name in before and differ(before[name].table.base.identity, base.identity) for name, base in bases.items()
    )


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


def check_identity(opened: OpenVersion, shard: int, request: PullRequest | TopKRequest) -> None:
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
