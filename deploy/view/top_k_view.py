"""Table and JSON of `ringpull top-k`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.deploy.view.rows_view import visible

if TYPE_CHECKING:
    from ringpull.inference.top_k_answer import TopK


def top_k_table(answer: TopK, asked: Sequence[str] | None) -> FieldsTable:
    """Return a row for each row of the answer.

    Args:
        asked: Keys that the queries are, as they were written; None: they are known by their numbers.
    """
    several = len(answer.counts) > 1
    columns = (Column("query", "name"),) if several else ()
    key = "hash of key" if answer.hashed else "key"
    table = FieldsTable("", (*columns, Column("", "number"), Column(key, "name"), Column("score", "number")))
    for query, items in enumerate(answer.items()):
        name = str(query) if asked is None else visible(asked[query])
        for place, (found, score) in enumerate(items, 1):
            cells = (str(place), visible(str(found)), f"{score:.6g}")
            table.add(*((name, *cells) if several else cells))
    return table


def plain_top_k(answer: TopK) -> dict[str, Any]:
    """Return JSON values: for each query its keys and scores, best first."""
    items = answer.items()
    return {
        "model": answer.model,
        "version": answer.version,
        "table": answer.table,
        "keys": [[key for key, _ in each] for each in items],
        "scores": [[score for _, score in each] for each in items],
        "hashed": answer.hashed,
        "found": None if answer.found is None else answer.found.tolist(),
        "missing": answer.missing,
        "lost": answer.lost,
        "lost_queries": answer.lost_queries,
    }
