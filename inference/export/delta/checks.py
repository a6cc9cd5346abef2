"""Checks of what follows a version: it takes the same features, and has the same tables, of rows of the same kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ringpull.inference.model.chain_files import VersionOnDisk
from ringpull.inference.model.manifest import Chain, Follows, TableKind
from ringpull.inference.model.manifest_chain import check_length
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import TableSpec


def chain_after(before: VersionOnDisk, includes: Mapping[int, int] | None) -> Chain:
    """Return what the manifest of a version says that follows this one."""
    return Chain(Follows(before.manifest.version, before.manifest.identity), before.lineage, includes)


def check_room(before: VersionOnDisk) -> None:
    """Check that the chain of a version is not too long for one more that follows it.

    Raises:
        InvalidInput: It is: what is written would never be served.
        RingpullError: Any that `VersionOnDisk.followed` raises.
    """
    version, deltas = before, 1
    while any(entry.kind is not TableKind.FULL for entry in version.manifest.tables):
        version, deltas = version.followed(), deltas + 1
        check_length(deltas, f"the one that follows {before.name} would be one more")


def as_deployed(spec: TableSpec, before: TableSpec) -> TableSpec:
    """Return the spec of a table with how it is deployed: as in the version before, where its exporter did not say.

    Copies and policy are a deployment's, and no property of the rows: whoever retrains a model every hour says them
    once. A default cannot be told from what was not said, so to go back to one takes a full version.
    """
    unsaid = TableSpec(name=spec.name, dim=spec.dim, row_type=spec.row_type)
    kept = {
        field: getattr(before, field)
        for field in ("replicas", "on_unavailable")
        if getattr(spec, field) == getattr(unsaid, field)
    }
    return replace(spec, **kept)


def check_schema(before: VersionOnDisk, schema: bytes | None) -> None:
    """Check that a version takes what the one before does, given its schema as JSON; None: it is of tables alone.

    Raises:
        ExportError: It does not.
    """
    there = before.manifest.schema
    if (None if there is None else there.read(before.folder)) != schema:
        raise ExportError(f"follows {before.name}, whose schema is another one; a full version can have any")


def check_tables(before: VersionOnDisk, specs: Iterable[TableSpec]) -> None:
    """Check that a version has the tables that the one before has.

    Raises:
        ExportError: It has others, or rows of another kind; the message names table and field.
    """
    entries = {entry.spec.name: entry.spec for entry in before.manifest.tables}
    now = {spec.name: spec for spec in specs}
    for name in sorted(now.keys() ^ entries.keys()):
        which = "has no such table" if name in now else "has one, and this version has none"
        raise ExportError(f"table {name}: {before.name}, which is followed, {which}; export a full version")
    for name, spec in now.items():
        for field in ("dim", "row_type", "key_type"):
            own, other = getattr(spec, field), getattr(entries[name], field)
            if own != other:
                raise ExportError(
                    f"table {name}: {field} is {own}, and {other} in {before.name}, which is followed; export a full"
                    " version"
                )
