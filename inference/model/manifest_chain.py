"""Chains of versions in manifests: what a version follows, its lineage, and how each of its tables is made.

A manifest of format 4 has the fields of a format before it, and `OF_CHAINS` besides; each of its tables has those of
`TABLES_OF_CHAINS`. A version that follows nothing, and none of whose tables is live, is written in the earlier format,
byte for byte as ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ringpull.inference.model.manifest_parts import TableEntry, TableKind, read_table_entry
from ringpull.inference.schema.fields import Fields
from ringpull.ps.errors import InvalidInput
from ringpull.ps.identity import MAX_IDENTITY
from ringpull.ps.ring import MAX_SHARD

FORMAT_OF_CHAINS: Final = 4

OF_CHAINS: Final = ("follows", "lineage", "includes")
"""Fields that only a manifest of format 4 has."""
TABLES_OF_CHAINS: Final = ("kind", "gone", "live")
"""Fields that the tables of such a manifest have besides."""

MAX_CHAIN: Final = 64
"""Most deltas that follow a full version: all are read to bring the last one up, and to compact is due at a few."""

_IDENTITY: Final = re.compile(r"[0-9a-f]{16}")
_SHARD: Final = re.compile(r"0|[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Follows:
    """Version that another one follows: its rows are that one's, but for what a delta changed."""

    version: int
    identity: str
    """Identity of its manifest, 16 hex digits: another content under its number is another version."""

    def __str__(self) -> str:
        return f"{self.version} ({self.identity})"


@dataclass(frozen=True, slots=True)
class Chain:
    """What a manifest says of the chain that its version is in."""

    follows: Follows | None = None
    """Version that it follows; None: none."""
    lineage: str | None = None
    """Lineage of whoever follows: identity of the full version, following none, that the chain began with."""
    includes: Mapping[int, int] | None = None
    """Stamp by shard, up to which the exporter had read the pushed rows: those lose to the delta's rows. None: all that
    were pushed when a shard first opens the delta."""


NO_CHAIN: Final = Chain()
"""Chain of a version that follows nothing."""


def is_chained(chain: Chain, tables: Sequence[TableEntry]) -> bool:
    """Return whether a version needs a manifest of format 4."""
    return chain != NO_CHAIN or any(entry.live or entry.kind is not TableKind.FULL for entry in tables)


def chain_to_plain(chain: Chain) -> dict[str, Any]:
    """Return the fields `OF_CHAINS` as JSON has them."""
    includes = None if chain.includes is None else {str(shard): stamp for shard, stamp in chain.includes.items()}
    follows = None if chain.follows is None else {"version": chain.follows.version, "identity": chain.follows.identity}
    return {"follows": follows, "lineage": chain.lineage, "includes": includes}


def check_length(deltas: int, what: str) -> None:
    """Refuse a chain that has too many deltas, where `what` says which.

    Raises:
        InvalidInput: They are too many.
    """
    if deltas > MAX_CHAIN:
        raise InvalidInput(f"a chain may have {MAX_CHAIN} deltas, and {what}: compact, or publish a full version")


def read_chain(fields: Fields, version: int, tables: Sequence[TableEntry]) -> Chain:
    """Read the fields `OF_CHAINS` of a version that has these tables."""
    if fields.absent("follows"):
        for name in ("lineage", "includes"):
            if not fields.absent(name):
                raise fields.error(name, "must be null: the version follows none, so it begins a lineage")
        for number, entry in enumerate(tables):
            if entry.kind is not TableKind.FULL:
                raise fields.error(f"tables[{number}].kind", f"is {entry.kind.value!r}, and the version follows none")
        return NO_CHAIN
    inner = fields.inner("follows", ("version", "identity"))
    if version < 2:
        raise fields.error("follows", "must be null: there is no version before 1")
    follows = Follows(inner.integer("version", 1, version - 1), _identity(inner, "identity"))
    return Chain(follows, _identity(fields, "lineage"), None if fields.absent("includes") else _stamps(fields))


def read_chained_table(fields: Fields) -> TableEntry:
    """Read one table of a manifest of format 4."""
    kind, gone = fields.choice("kind", TableKind), None if fields.absent("gone") else fields.text("gone")
    if kind is TableKind.SAME and not fields.absent("path"):
        raise fields.error("path", "must be null for kind 'same': the version that is followed has the rows")
    if kind is not TableKind.DELTA and gone is not None:
        raise fields.error("gone", f"must be null for kind {kind.value!r}: keys go with a delta")
    entry = read_table_entry(fields)
    if gone is not None and gone == entry.path:
        raise fields.error("gone", f"is {gone!r}, where the rows are")
    return replace(entry, kind=kind, gone=gone, live=fields.boolean("live"))


def _identity(fields: Fields, name: str) -> str:
    text = fields.text(name)
    if _IDENTITY.fullmatch(text) is None:
        raise fields.error(name, f"is {text!r:.80}; an identity is 16 hex digits")
    return text


def _stamps(fields: Fields) -> dict[int, int]:
    values = fields.values["includes"]
    if not isinstance(values, dict):
        raise fields.error("includes", "must be an object of stamps by shard, or null")
    inner = fields.inner("includes", values.keys())
    for shard in values:
        if _SHARD.fullmatch(shard) is None or int(shard) > MAX_SHARD:
            raise inner.error(shard, f"is no shard: they are 0 to {MAX_SHARD}")
    return {int(shard): inner.integer(shard, 0, MAX_IDENTITY) for shard in values}


def check_stamp(stamp: Any) -> None:
    """Check a stamp that an exporter gives.

    Raises:
        InvalidInput: A shard or a number of it is none, or there is none at all.
    """
    if not isinstance(stamp, Mapping):
        raise InvalidInput(
            f"includes: is {type(stamp).__name__}; it must be the stamp of a push; PushStamp.parse reads its text"
        )
    if not stamp:
        # Read as none was given, it would put the delta over pushes that the module had not read.
        raise InvalidInput(
            "includes: is an empty stamp, which names no shard, as of a push that wrote nothing: give that of one that"
            " wrote rows, or leave it out, and all rows that are pushed before the delta is opened are replaced"
        )
    for shard, number in stamp.items():
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in (shard, number))
        if not (whole and 0 <= shard <= MAX_SHARD and 0 <= number <= MAX_IDENTITY):
            raise InvalidInput(f"includes: {shard!r}: {number!r} is no shard (0 to {MAX_SHARD}) and its stamp, 64 bits")
