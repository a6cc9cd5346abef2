"""Text and JSON of a planned move: ranges with new owners, bytes that cross the wire, memory of the shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.inference.short_form import SHOWN, and_more
from ringpull.ps.spec import Replicas
from ringpull.ps.text.byte_size import size
from ringpull.router.control.moves import MoveSummary
from ringpull.router.control.planner import Cost

Copies = Mapping[str, Replicas]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMove:
    """Move that has not begun."""

    shards_before: int
    shards_after: int
    replicas_before: Copies
    """Number of copies by `MODEL/TABLE`."""
    replicas_after: Copies
    moves: MoveSummary
    cost_before: Cost | None
    """Cost of a request by the planner's formula; None if nothing was looked up yet."""
    cost_after: Cost | None
    process_bytes: int
    """Memory of a shard's process without tables."""
    reasons: tuple[str, ...] = ()
    """Reasons of the planner, if it chose the copies."""

    def memory_bytes(self, held: Mapping[int, int]) -> dict[int, int]:
        """Return the memory of each shard, given the size of its rows."""
        return {shard: self.process_bytes + count for shard, count in held.items()}

    @property
    def replicas_changed(self) -> dict[str, tuple[Replicas, Replicas]]:
        """Number of copies before and after, of tables for which it changes."""
        return {
            name: (before, self.replicas_after[name])
            for name, before in self.replicas_before.items()
            if self.replicas_after[name] != before
        }

    def subject(self, *, every: bool) -> str:
        """Return a summary in one line, `shards 2 -> 4, ranker/item 1 -> 2 copies`, of many tables only how many."""
        words = []
        if self.shards_before != self.shards_after:
            words.append(f"shards {self.shards_before} -> {self.shards_after}")
        changed = self.replicas_changed
        if len(changed) > SHOWN and not every:
            words.append(f"{len(changed):,} tables other copies")
        else:
            words += [f"{name} {before} -> {after} copies" for name, (before, after) in changed.items()]
        return ", ".join(words) or "the same shards and copies elsewhere"


def move_view(move: PlannedMove, *, every: bool = True) -> RenderableType:
    """Return a move for printing.

    Args:
        every: Whether every table is named; otherwise the first few of those that change.
    """
    plan = move.moves
    way = f"{size(plan.copied_bytes)} cross the wire" if plan.streamed else "files are opened, nothing crosses the wire"
    headline = Text.assemble((move.subject(every=every), "bold"))
    headline.append(
        f"\n{plan.ranges} ranges get new owners: {size(plan.assigned_bytes)}; for exactly even shares the least"
        f" possible is {size(plan.min_bytes)}; {way}"
    )
    parts: list[RenderableType] = [headline, _shards(move)]
    if move.cost_before is not None and move.cost_after is not None:
        parts.append(_costs(move.cost_before, move.cost_after))
    reasons = move.reasons if every else move.reasons[:SHOWN]
    parts += [Text(reason) for reason in reasons]
    if more := and_more(len(move.reasons), len(reasons)):
        parts.append(Text(more, style="dim"))
    return Group(*parts)


def move_fields(move: PlannedMove) -> dict[str, Any]:
    """Return a move as JSON values."""
    plan = move.moves
    return {
        "subject": move.subject(every=True),
        "shards_before": move.shards_before,
        "shards_after": move.shards_after,
        "replicas": {
            name: {"before": before, "after": move.replicas_after[name]}
            for name, before in move.replicas_before.items()
        },
        "ranges": plan.ranges,
        "assigned_bytes": plan.assigned_bytes,
        "copied_bytes": plan.copied_bytes,
        "least_bytes": plan.min_bytes,
        "streamed": plan.streamed,
        "memory_before": _by_shard(move.memory_bytes(plan.shard_bytes_before)),
        "memory_after": _by_shard(move.memory_bytes(plan.shard_bytes_after)),
        "request_before": _cost_fields(move.cost_before),
        "request_after": _cost_fields(move.cost_after),
        "reasons": list(move.reasons),
    }


def _shards(move: PlannedMove) -> FieldsTable:
    shown = FieldsTable(
        "memory of shards",
        (Column("shard", "number"), Column("before", "number"), Column("after", "number"), Column("gains", "number")),
    )
    before = move.memory_bytes(move.moves.shard_bytes_before)
    after = move.memory_bytes(move.moves.shard_bytes_after)
    gains = move.moves.shard_bytes_gained
    for shard in sorted({*before, *after}):
        shown.add(
            str(shard),
            size(before[shard]) if shard in before else "new",
            size(after[shard]) if shard in after else "leaves",
            size(gains[shard]) if shard in gains else "",
        )
    return shown


def _costs(before: Cost, after: Cost) -> FieldsTable:
    shown = FieldsTable(
        "a request",
        (Column(""), Column("bytes", "number"), Column("messages", "number"), Column("keys waiting", "number")),
    )
    for when, cost in (("before", before), ("after", after)):
        shown.add(when, f"{cost.bytes:,.0f}", f"{cost.messages:.1f}", f"{cost.waiting_keys:.1f}")
    return shown


def _by_shard(held: Mapping[int, int]) -> dict[str, int]:
    return {str(shard): count for shard, count in held.items()}


def _cost_fields(cost: Cost | None) -> dict[str, float] | None:
    return None if cost is None else {"bytes": round(cost.bytes, 1), "messages": round(cost.messages, 3)}
