"""Fields tables: what becomes of them where there is no room."""

from __future__ import annotations

import pytest
from rich.console import Console

from ringpull.deploy.view.fields_table import Column, FieldsTable


def shown(table: FieldsTable, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def fields() -> FieldsTable:
    table = FieldsTable(
        "facts",
        (
            Column("name", "name"),
            Column("rows", "number"),
            Column("pid", rank=2),
            Column("epoch", "number", rank=1),
            Column("notes", "wrapped"),
        ),
    )
    table.add("model/the_table_of_users", "1,234,567,890", "4711", "12", "word " * 20)
    return table


def test_all_is_there_where_there_is_room() -> None:
    text = "\n".join(shown(fields(), 200))
    for part in ("facts", "model/the_table_of_users", "1,234,567,890", "4711", "12", "word word"):
        assert part in text
    assert "not shown" not in text


def test_the_highest_rank_goes_first() -> None:
    *_, last = shown(fields(), 75)
    assert last.strip() == "not shown at this width: pid"
    *_, last = shown(fields(), 68)
    assert last.strip() == "not shown at this width: pid, epoch"


def test_then_names_lose_their_beginning() -> None:
    text = "\n".join(shown(fields(), 60))
    assert "…" in text
    assert "able_of_users" in text
    assert "model/" not in text
    assert "1,234,567,890" in text


@pytest.mark.parametrize("width", [56, 60, 68, 75, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, shown(fields(), width))) <= width


def test_a_row_may_lack_its_last_cells() -> None:
    table = FieldsTable("", (Column("a"), Column("b", "number")))
    table.add("only")
    assert "only" in "\n".join(shown(table, 40))
