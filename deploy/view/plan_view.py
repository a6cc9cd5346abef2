"""Text and JSON of a plan: copies of every table and why, memory of a shard, and the cost of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.inference.short_form import and_more, most_important
from ringpull.ps.spec import ALL, Replicas
from ringpull.ps.text.byte_size import size
from ringpull.router.control.planner import Choice, Cost, Plan, table_bytes


def plan_view(plan: Plan, *, assumed: str, every: bool = True) -> RenderableType:
    """Return a plan for printing.

    Args:
        assumed: Note about traffic that was assumed; empty when it was counted.
        every: Whether every table is shown; otherwise those looked up most.
    """
    layout = plan.layout
    shards = f"{layout.shards} shard{'s' * (layout.shards > 1)}"
    where = ", all on one machine" if layout.shared else ""
    headline = Text.assemble((f"{shards}{where}", "bold"))
    headline.append(f"  {size(plan.memory_bytes)} of {size(layout.memory_bytes)} each")
    headline.append(f"  (tables {size(plan.table_bytes)}, process {size(layout.process_bytes)})", style="dim")
    shown = most_important(plan.choices, lambda each: (each.table.load.keys, each.shard_bytes), every=every)
    parts: list[RenderableType] = [headline, _tables(plan, shown), _costs(plan)]
    parts += [Text(choice.reason) for choice in shown]
    if assumed:
        parts.append(Text(f"! {assumed}", style="yellow"))
    if plan.factor > 1:
        parts.append(
            Text(f"! no plan is more than {plan.factor - 1:.1%} cheaper; not all were compared", style="yellow")
        )
    return Group(*parts)


def plan_fields(plan: Plan, *, assumed: str) -> dict[str, Any]:
    """Return the plan as JSON values."""
    return {
        "shards": plan.layout.shards,
        "one_machine": plan.layout.shared,
        "memory_limit_bytes": plan.layout.memory_bytes,
        "memory_bytes": plan.memory_bytes,
        "tables_bytes": plan.table_bytes,
        "process_bytes": plan.layout.process_bytes,
        "tables": [
            {
                "table": choice.table.name,
                "rows": choice.table.rows,
                "newer_rows": choice.table.newer_rows,
                "deltas": choice.table.deltas,
                "bytes": table_bytes(choice.table.rows, choice.table.row_bytes),
                "keys_per_request": choice.table.load.keys,
                "bags_per_request": choice.table.load.bags,
                "replicas": choice.replicas,
                "bytes_per_shard": choice.shard_bytes,
                "reason": choice.reason,
            }
            for choice in plan.choices
        ],
        "cost": _cost_fields(plan.cost),
        "cost_fewest_copies": _cost_fields(plan.fewest_copies_cost),
        "factor": plan.factor,
        "traffic_assumed": assumed != "",
    }


def replicas_options(plan: Plan, wanted: Mapping[str, Replicas]) -> list[str]:
    """Return the plan as options of `serve`, for tables whose number of copies differs from `wanted`."""
    return [f"--replicas {name}={copies}" for name, copies in plan.replicas.items() if copies != wanted.get(name)]


def _tables(plan: Plan, choices: Sequence[Choice]) -> FieldsTable:
    left_out = len(plan.choices) - len(choices)
    everywhere = sum(choice.replicas == ALL for choice in plan.choices)
    total = f"; {everywhere:,} of {len(plan.choices):,} on every shard" if left_out else ""
    shown = FieldsTable(
        "tables",
        (
            Column("table", "name"),
            Column("rows", "number", rank=2),
            Column("bytes", "number", rank=1),
            Column("keys/request", "number", rank=3),
            Column("bag", "number", rank=4),
            Column("copies", "number"),
            Column("a shard", "number"),
        ),
        below=and_more(len(plan.choices), len(choices)) + total,
    )
    for choice in choices:
        table = choice.table
        shown.add(
            table.name,
            f"{table.rows - table.newer_rows:,} + {table.newer_rows:,}" if table.deltas else f"{table.rows:,}",
            size(table_bytes(table.rows, table.row_bytes)),
            f"{table.load.keys:,.1f}",
            f"{table.load.bag_length:,.1f}",
            str(choice.replicas),
            size(choice.shard_bytes),
        )
    return shown


def _costs(plan: Plan) -> FieldsTable:
    shown = FieldsTable(
        "a request",
        (
            Column("copies"),
            Column("bytes", "number"),
            Column("messages", "number"),
            Column("keys waiting", "number", rank=1),
            Column("cost", "number"),
        ),
    )
    for what, cost in (("as planned", plan.cost), ("as few as may be", plan.fewest_copies_cost)):
        shown.add(what, f"{cost.bytes:,.0f}", f"{cost.messages:.1f}", f"{cost.waiting_keys:.1f}", f"{cost.total:,.0f}")
    return shown


def _cost_fields(cost: Cost) -> dict[str, float]:
    return {
        "bytes": round(cost.bytes, 1),
        "messages": round(cost.messages, 3),
        "waiting_keys": round(cost.waiting_keys, 3),
        "total": round(cost.total, 1),
    }
