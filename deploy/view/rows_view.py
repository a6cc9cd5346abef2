"""Table and JSON of `ringpull lookup`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ringpull.deploy.view.fields_table import Column, FieldsTable
from ringpull.ps.bytes_rows import BytesRows

if TYPE_CHECKING:
    from ringpull.inference.rows_answer import RowsAnswer

SHOWN_NUMBERS: Final = 8
"""Numbers shown of one vector; the JSON has all."""
SHOWN_CHARS: Final = 400
"""Characters shown of one row of bytes; the JSON has all."""


def rows_table(asked: Sequence[str], answer: RowsAnswer) -> FieldsTable:
    """Return a row for each key, or bag.

    Args:
        asked: Keys, or bags of them, as they were written.
    """
    bags = answer.found is None
    known = () if bags else (Column("found"),)
    table = FieldsTable("", (Column("bag" if bags else "key", "name"), *known, Column("row", "wrapped")))
    for place, (written, row) in enumerate(zip(asked, answer.rows, strict=True)):
        found = True if answer.found is None else bool(answer.found[place])
        cells = [written] if bags else [written, "yes" if found else "no"]
        table.add(*cells, _cell(row), style="" if found else "dim")
    return table


def plain_rows(answer: RowsAnswer) -> dict[str, Any]:
    """Return JSON values: rows of bytes are text where they are UTF-8, else `{"b64": ...}`."""
    rows = answer.rows
    return {
        "model": answer.model,
        "version": answer.version,
        "rows": list(map(_plain, rows)) if isinstance(rows, BytesRows) else rows.tolist(),
        "found": None if answer.found is None else answer.found.tolist(),
        "missing": answer.missing,
        "lost": answer.lost,
    }


def _plain(row: bytes) -> str | dict[str, str]:
    try:
        return row.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(row).decode("ascii")}


def _cell(row: Any) -> Text:
    if not isinstance(row, bytes):
        shown = ", ".join(f"{value:.6g}" for value in row[:SHOWN_NUMBERS])
        return Text(shown if len(row) <= SHOWN_NUMBERS else f"{shown}, ... ({len(row)} numbers)")
    try:
        text = row.decode()
    except UnicodeDecodeError:
        shown = row[: SHOWN_CHARS // 2].hex(" ")
        return Text(f"{shown}{' ...' if len(row) > SHOWN_CHARS // 2 else ''} ({len(row)} bytes, no text)")
    shown = visible(text[:SHOWN_CHARS])
    return Text(shown if len(text) <= SHOWN_CHARS else f"{shown}... ({len(row)} bytes)")


def visible(text: str) -> str:
    """Return a text as it is, but for characters that would move the cursor or colour the terminal: these escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
