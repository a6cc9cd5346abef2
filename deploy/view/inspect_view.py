"""Text and tables of `ringpull inspect`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.text import Text

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.deploy.view.folder_summary import TableSummary, VersionSummary
from ringpull.deploy.view.outputs import output_text
from ringpull.inference.short_form import and_more, most_important
from ringpull.ps.hashing import SLOTS
from ringpull.ps.spec import TableSpec
from ringpull.ps.text.byte_size import size

SHOWN_RANGES = 4
SHOWN_BLOCKS = 20


def version_headline(summary: VersionSummary) -> Text:
    """Return a version's name, date, dense program and outputs in one line; or that it is of tables alone."""
    manifest = summary.manifest
    created = re.sub(r"\.\d+", "", manifest.created)  # to the second, which is enough for people
    text = Text.assemble((f"{manifest.model} version {manifest.version}", "bold"), f"   created {created}")
    if summary.chain:
        text.append(f"   follows {' -> '.join(summary.chain)}")
        if summary.same:
            text.append(f", as before: {', '.join(summary.same)}")
    if manifest.program is None:
        return text.append("   tables alone: rows by key, no predictions")
    taken = manifest.program.bytes + sum(each.bytes for each in manifest.program_data)
    precision = "" if manifest.bfloat16 is None else " in bfloat16"
    text.append(f"   dense program {size(taken)}, run by {manifest.runtime}{precision}")
    return text.append(f"   outputs {', '.join(output_text(each) for each in manifest.outputs)}")


def files_table(
    tables: Sequence[TableSummary], summary: VersionSummary | None = None, *, every: bool = True
) -> FieldsTable:
    """Return a row for each table on disk, of a version if they are of one; of many only those with damage and the
    largest, without `every`."""
    some = most_important(tables, lambda each: (len(each.bad_blocks), each.bytes), every=every)
    shown = FieldsTable(
        "tables",
        (
            Column("table", "name"),
            Column("rows", "number"),
            Column("dim", "number"),
            Column("type", rank=1),
            Column("keys", rank=2),
            Column("unknown keys", rank=3),
            Column("replicas", rank=4),
            Column("bytes", "number"),
            Column("slots", "wrapped"),
            Column("rows checked", "wrapped"),
        ),
        below=and_more(len(tables), len(some), f"of {size(sum(each.bytes for each in tables))} in all"),
    )
    for each in some:
        shown.add(
            f"{each.spec.name} ({each.what})" if each.what else each.spec.name,
            f"{each.rows:,}",
            "" if each.spec.is_bytes else str(each.spec.dim),
            each.spec.row_type.value + ", live" * _is_live(summary, each.spec.name),
            each.spec.key_type.value,
            "refused" if summary is not None and summary.refuses(each.spec.name) else _default(each.spec),
            str(each.spec.replicas),
            size(each.bytes),
            _ranges(each.held),
            _checked(each),
        )
    return shown


def _is_live(summary: VersionSummary | None, table: str) -> bool:
    """Whether a version's manifest has a table take pushes."""
    return summary is not None and any(entry.live for entry in summary.manifest.tables if entry.spec.name == table)


def lookups_table(summary: VersionSummary, *, every: bool = True) -> FieldsTable:
    """Return a row for each look-up of a version; of many only those in the largest tables, without `every`."""
    sizes = {entry.spec.name: entry.bytes for entry in summary.manifest.tables}
    lookups = summary.manifest.lookups
    some = most_important(lookups, lambda each: sizes[each.table], every=every)
    shown = FieldsTable(
        "look-ups",
        (
            Column("feature", "name"),
            Column("table", "name"),
            Column("pooling"),
            Column("added to ids", "number", rank=1),
            Column("dropped id", "number", rank=2),
            Column("ids", "wrapped", rank=3),
        ),
        below=and_more(len(lookups), len(some)),
    )
    for lookup in some:
        pooling = f"{lookup.pooling.value}, weighted" if lookup.weighted else lookup.pooling.value
        dropped = "" if lookup.padding_id is None else str(lookup.padding_id)
        shown.add(lookup.feature, lookup.table, pooling, f"{lookup.add:,}", dropped, _ids(summary, lookup.feature))
    return shown


def degrade_table(summary: VersionSummary) -> FieldsTable:
    """Return the degrade steps of a version, in order."""
    shown = FieldsTable(
        "degrade steps, taken under load in this order", (Column("step", "number"), Column("replies say"))
    )
    for place, step in enumerate(summary.manifest.degrade, 1):
        shown.add(str(place), step.phrase)
    return shown


def bad_blocks_table(tables: Sequence[TableSummary]) -> FieldsTable:
    """Return a row for each damaged block."""
    shown = FieldsTable(
        "damaged rows",
        (
            Column("table", "name"),
            Column("block", "number"),
            Column("first row", "number"),
            Column("rows", "number"),
            Column("slots"),
        ),
    )
    for table in tables:
        for bad in table.bad_blocks[:SHOWN_BLOCKS]:
            shown.add(
                table.spec.name,
                str(bad.block),
                f"{bad.first_row:,}",
                f"{bad.rows:,}",
                _ranges((bad.slots,)),
                style="red",
            )
        if len(table.bad_blocks) > SHOWN_BLOCKS:
            shown.add(table.spec.name, f"and {len(table.bad_blocks) - SHOWN_BLOCKS} more", style="red")
    return shown


def _default(spec: TableSpec) -> str:
    if spec.is_bytes:
        return "no bytes"
    if spec.default is None or not any(spec.default):
        return "zeros"
    first = ", ".join(f"{value:.3g}" for value in spec.default[:3])
    return f"[{first}{', ...' if spec.dim > 3 else ''}]"


def _ids(summary: VersionSummary, feature: str) -> str:
    span = summary.ids.get(feature)
    if span is None:
        return "any"
    others = "refused" if span.beyond is None else f"as {span.beyond}"
    return f"{span.low} to {span.high - 1}, others {others}"


def _ranges(held: Sequence[tuple[int, int]]) -> str:
    if tuple(held) == ((0, SLOTS),):
        return "all"
    first = ", ".join(f"{begin}..{end}" for begin, end in held[:SHOWN_RANGES])
    return f"{first}, ... ({len(held)} ranges)" if len(held) > SHOWN_RANGES else first


def _checked(table: TableSummary) -> Text:
    if not table.verified:
        return Text("no", style="dim")
    if table.bad_blocks:
        return Text(f"{len(table.bad_blocks)} of {table.blocks} blocks damaged", style="bold red")
    return Text(f"{table.blocks} block{'s' * (table.blocks != 1)}", style="green")
