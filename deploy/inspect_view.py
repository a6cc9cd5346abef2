"""What lies on disk as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deploy.console import facts_table, size
from deploy.folder_facts import TableFacts, VersionFacts
from ps.hashing import SLOTS
from ps.spec import TableSpec

SHOWN_RANGES = 4
SHOWN_BLOCKS = 20


def version_headline(facts: VersionFacts) -> Text:
    manifest = facts.manifest
    text = Text.assemble((f"{manifest.model} version {manifest.version}", "bold"), f"   created {manifest.created}")
    text.append(f"   dense program {size(manifest.program.bytes)}")
    outputs = ", ".join(f"{output.name}{list(output.shape) if output.shape else ''}" for output in manifest.outputs)
    return text.append(f"   outputs {outputs}")


def files_table(tables: Sequence[TableFacts]) -> Table:
    shown = facts_table(
        "tables", "table", "#rows", "#dim", "type", "keys", "default", "replicas", "#bytes", "slots", "rows checked"
    )
    for each in tables:
        shown.add_row(
            each.spec.name,
            f"{each.rows:,}",
            str(each.spec.dim),
            each.spec.row_type.value,
            each.spec.key_type.value,
            _default(each.spec),
            str(each.spec.replicas),
            size(each.bytes),
            _ranges(each.held),
            _checked(each),
        )
    return shown


def lookups_table(facts: VersionFacts) -> Table:
    shown = facts_table("look-ups", "feature", "table", "pooling", "#added to ids", "dropped id")
    for lookup in facts.manifest.lookups:
        pooling = f"{lookup.pooling.value}, weighted" if lookup.weighted else lookup.pooling.value
        dropped = "" if lookup.padding_id is None else str(lookup.padding_id)
        shown.add_row(lookup.feature, lookup.table, pooling, f"{lookup.add:,}", dropped)
    return shown


def bad_blocks_table(tables: Sequence[TableFacts]) -> Table:
    shown = facts_table("damaged rows", "table", "#block", "#first row", "#rows", "slots")
    for table in tables:
        for bad in table.bad_blocks[:SHOWN_BLOCKS]:
            shown.add_row(
                table.spec.name,
                str(bad.block),
                f"{bad.first_row:,}",
                f"{bad.rows:,}",
                _ranges((bad.slots,)),
                style="red",
            )
        if len(table.bad_blocks) > SHOWN_BLOCKS:
            shown.add_row(table.spec.name, f"and {len(table.bad_blocks) - SHOWN_BLOCKS} more", style="red")
    return shown


def _default(spec: TableSpec) -> str:
    if spec.default is None or not any(spec.default):
        return "zeros"
    first = ", ".join(f"{value:.3g}" for value in spec.default[:3])
    return f"[{first}{', ...' if spec.dim > 3 else ''}]"


def _ranges(held: Sequence[tuple[int, int]]) -> str:
    if tuple(held) == ((0, SLOTS),):
        return "all"
    first = ", ".join(f"{begin}..{end}" for begin, end in held[:SHOWN_RANGES])
    return f"{first}, ... ({len(held)} ranges)" if len(held) > SHOWN_RANGES else first


def _checked(table: TableFacts) -> Text:
    if not table.verified:
        return Text("no", style="dim")
    if table.bad_blocks:
        return Text(f"{len(table.bad_blocks)} of {table.blocks} blocks damaged", style="bold red")
    return Text(f"{table.blocks} blocks", style="green")
