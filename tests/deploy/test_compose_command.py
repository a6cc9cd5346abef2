"""`ringpull compose`, and the options of `ringpull import table` for stores: what is written, and what is said."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ringpull import export_tables
from ringpull.deploy.cli import app
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import positions_of
from ringpull.ps.store.base import Base
from tests.inference.export.versions import Exported
from tests.reference import assert_close

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8

RANKING = """
import torch

def score(user, item, **features):
    print("scored")
    return (user * item).sum(1) + features["price"][:, 0]
"""


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows_of(folder: Path, keys: list[int]) -> list[list[float]]:
    base = Base.open(folder, verify_rows=True)
    try:
        return [base.row(int(row)).tolist() for row in base.find(positions_of(np.array(keys, np.uint64)))]
    finally:
        base.close()


@pytest.mark.medium
def test_options_of_stores_reach_their_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("rows.db")) as database:
        database.execute("CREATE TABLE item (k INTEGER, v BLOB)")
        packed = [(number * 3, row.astype(np.float64).tobytes()) for number, row in enumerate(ROWS)]
        database.executemany("INSERT INTO item VALUES (?, ?)", packed)
        database.execute("CREATE TABLE other (a)")
        database.commit()
    torch.save({"a": {"w": torch.from_numpy(ROWS)}, "b": torch.zeros(2, 2)}, "model.pt")
    Path("ids.txt").write_text("5\n6\n7\n8\n")
    sources = ("a=rows.db", "b=rows.db", "c=model.pt", "models")
    columns = ("--id", "a=k", "--vector", "a=v", "--table-name", "a=item", "--encoding", "a=float64")
    query = ("--query", "b=SELECT k AS id, v AS vector FROM item WHERE k > 0", "--encoding", "b=float64")
    tensors = ("--vector", "c=a.w", "--ids", "c=ids.txt")
    result = run("import", "table", *sources, *columns, *query, *tensors, "--json")
    assert result.exit_code == 0, result.output
    assert [each["rows"] for each in json.loads(result.stdout)["tables"]] == [4, 3, 4]
    assert rows_of(tmp_path / "models/1/tables/a", [0, 3, 6, 9]) == ROWS.tolist()
    assert rows_of(tmp_path / "models/1/tables/b", [3, 6, 9]) == ROWS[1:].tolist()
    assert rows_of(tmp_path / "models/1/tables/c", [5, 6, 7, 8]) == ROWS.tolist()
    with pytest.raises(InvalidInput, match="read as sqlite; keys is for redis"):
        run("import", "table", "rows.db", "models", "--keys", "item:*")


@pytest.mark.medium
def test_composing_by_a_function_of_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("ranking.py").write_text(RANKING)
    Path("features.py").write_text("from ringpull import Dense, Schema\nschema = Schema([Dense('price')])\n")
    export_tables({"user": (range(4), ROWS), "item": (range(4), ROWS[::-1].copy())}, "tables", 1, quiet=True)
    folders = ("--user", "tables", "--user-table", "user", "--item", "tables/1", "--item-table", "item")
    result = run("compose", "models/r", *folders, "--score", "ranking:score", "--schema", "features.py", "--json")
    assert json.loads(result.stdout)["folder"] == "models/r/1"
    price = np.array([[1], [2], [3], [4]], np.float32)
    given = {"user_id": np.arange(4), "item_id": np.arange(4), "price": price}
    (scores,) = Exported(tmp_path / "models/r/1").score(given, 4).values()
    assert_close(scores, (ROWS * ROWS[::-1]).sum(1) + price[:, 0])
    result = run(
        "compose", "models/r", *folders, "--score", "cosine", "--interests", "1", "--version", "7", "--name", "x"
    )
    assert "composed models/r/7; serve it with: ringpull serve models/r" in result.stdout
    with pytest.raises(InvalidInput, match="MODULE:FUNCTION"):
        run("compose", "models/r", *folders, "--score", "euclid")
