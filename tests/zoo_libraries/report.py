"""What became of all models: a table to read, and counts as one line of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.zoo_libraries.outcome import Outcome

HEAD = (
    "model",
    "library",
    "status",
    "tables",
    "pooled",
    "look-ups that are no table",
    "kept dense, and why",
    "max diff",
)
NEEDED = "untouched", "wrapped"


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the counts; the models are those of the four kinds together."""
    untouched = [each for each in outcomes if each.status == "untouched"]
    with_tables = sum(bool(each.tables) for each in untouched)
    counts = {
        "untouched_with_tables": with_tables,
        "untouched_without": len(untouched) - with_tables,
        "wrapped": sum(each.status == "wrapped" for each in outcomes),
        "refused": sum(each.status == "refused" for each in outcomes),
    }
    served = [each.max_abs_diff for each in outcomes if each.status != "refused"]
    return {"models": sum(counts.values()), **counts, "max_abs_diff": max(served, default=0.0)}


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the table as markdown, and below it why models were refused or needed a wrapper, and what went wrong."""
    outcomes = list(outcomes)
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(_cells(each))} |" for each in outcomes]
    notes = []
    for each in outcomes:
        name = f"{each.library}, {each.name}"
        if each.status != "untouched":
            notes.append(f"- {name}: {_plain(each.reason)}")
        notes += [f"- {name}: FAULT: {_plain(fault)}" for fault in each.faults]
        if each.library_fails:
            notes.append(f"- {name}: the library itself fails: {_plain(each.library_fails[0])}")
    return "\n".join([*lines, "", *notes, ""])


def _cells(outcome: Outcome) -> tuple[str, ...]:
    poolings = Counter(pooling for each in outcome.tables.values() for pooling in each.split("+") if pooling != "none")
    return (
        outcome.name,
        outcome.library,
        outcome.status,
        str(len(outcome.tables)),
        ", ".join(f"{count} {pooling}" for pooling, count in sorted(poolings.items())),
        ", ".join(outcome.not_tables) if outcome.status in NEEDED else "",
        _plain("; ".join(f"{name}: {reason}" for name, reason in outcome.kept.items())),
        f"{outcome.max_abs_diff:.1e}" if outcome.status in NEEDED else "",
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
