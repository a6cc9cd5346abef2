"""`ringpull import table`: from a command line to a version, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringpull.inference.model.manifest import Manifest
from ringpull.ps.spec import OnUnavailable, RowType
from tests.deploy.running import Run
from tests.inference.importers.tables.reading import as_written, written


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two tables in it."""
    monkeypatch.chdir(tmp_path)
    table = pa.table({"movie": [1, 2], "v0": [0.5, 1.5], "v1": [2.5, 3.5], "recs": ["[3]", "[]"]})
    Path("als/day=1").mkdir(parents=True)
    pq.write_table(table, "als/day=1/part-0.parquet")
    Path("users.csv").write_text("7\t0.5 1\n8\t2 3\n")
    return tmp_path


@pytest.mark.medium
def test_several_tables_with_options_of_their_own(ringpull: Run, folder: Path) -> None:
    ran = ringpull(
        *("import", "table", "items=als/day=1", "users.csv", "recs=als/day=1/*.parquet", "models/shop"),
        *("--id", "items=movie", "--id", "recs=movie", "--vector", "items=v*", "--value", "recs=recs"),
        *("--row-type", "users=bfloat16", "--default", "users=mean", "--id-type", "users=string"),
        *("--replicas", "2", "--replicas", "items=all", "--on-unavailable", "default", "--name", "store"),
    )
    assert ran.status == 0, ran.err
    assert "items: als/day=1: Parquet, 1 file, 2 rows; keys movie, vectors v0 to v1 (2 columns)" in ran.out
    assert "imported models/shop/1; serve it with: ringpull serve models/shop" in ran.out
    manifest = Manifest.load(folder / "models/shop/1")
    assert manifest.model == "store"
    specs = {entry.spec.name: entry.spec for entry in manifest.tables}
    assert (specs["items"].replicas, specs["users"].replicas, specs["recs"].replicas) == ("all", 2, 2)
    assert (specs["users"].row_type, specs["users"].default) == (RowType.BFLOAT16, (1.25, 2.0))
    assert {spec.on_unavailable for spec in specs.values()} == {OnUnavailable.DEFAULT}
    tables = folder / "models/shop/1/tables"
    assert written(tables / "items") == {1: [0.5, 2.5], 2: [1.5, 3.5]}
    assert written(tables / "users") == as_written({"7": [0.5, 1], "8": [2, 3]})
    assert written(tables / "recs") == {1: b"[3]", 2: b"[]"}


def test_versions_count_up_and_json_says_what_was_read(ringpull: Run, folder: Path) -> None:
    assert ringpull("import", "table", "users.csv", "models/users", "--version", "4", "--json").status == 0
    ran = ringpull("import", "table", "users.csv", "models/users", "--json")
    said = json.loads(ran.out)
    assert (said["model"], said["version"], said["folder"]) == ("users", 5, "models/users/5")
    (table,) = said["tables"]
    assert (table["table"], table["rows"], table["dim"], table["row_type"]) == ("users", 2, 2, "float32")
    assert table["read"].startswith("users.csv: text, 1 file, columns between tabs, no header; keys 0, vectors 1")


@pytest.mark.parametrize(
    ("sources", "options", "why"),
    [
        (["nowhere.csv"], [], "nowhere.csv: there is no such file or folder"),
        (["als/day=1"], [], "gives the table no name; write TABLE=als/day=1"),
        (["redis://host/0"], [], "gives the table no name"),
        (["users.csv", "users=als/day=1"], [], "there are two tables 'users': users.csv and als/day=1"),
        (["users.csv"], ["--row-type", "int4"], "--row-type 'int4'"),
        (["users.csv"], ["--row-type", "bytes"], "--row-type 'bytes'"),
        (["users.csv"], ["--id-type", "users=text"], "--id-type 'text'"),
        (["users.csv"], ["--default", "ones"], "--default 'ones'"),
        (["users.csv"], ["--replicas", "x"], "--replicas 'x'"),
        (["users.csv"], ["--on-unavailable", "users=fail"], "--on-unavailable 'fail'"),
        (["users.csv"], ["--id", "0", "--id", "1"], "--id is given twice for the table users: 0, 1"),
        (["users.csv"], ["--format", "xls"], "format is 'xls'; it must be one of parquet"),
        (["users.csv"], ["--vector", "9"], "there is no column '9'; its columns are 0 (integer), 1 (vector)"),
        (["users.csv"], ["--delimiter", "ab"], "delimiter is 'ab'"),
    ],
)
def test_what_it_refuses(ringpull: Run, folder: Path, sources: list[str], options: list[str], why: str) -> None:
    ran = ringpull("import", "table", *sources, "m", *options)
    assert ran.status == 1
    assert why in ran.err
    assert not (folder / "m").exists()


def test_a_tab_can_be_named(ringpull: Run, folder: Path) -> None:
    assert ringpull("import", "table", "users.csv", "m", "--delimiter", "tab", "--no-header", "--json").status == 0
    assert len(written(folder / "m/1/tables/users")) == 2
    assert np.isfinite(written(folder / "m/1/tables/users")[7]).all()


@pytest.mark.usefixtures("folder")
def test_what_is_missing_behind_a_source_is_out_dir(ringpull: Run) -> None:
    """The last argument is OUT_DIR, so one alone is told to be none of SOURCE, and not the other way."""
    ran = ringpull("import", "table", "users.csv")
    assert ran.status == 2
    said = " ".join(ran.err.replace("│", " ").split())
    assert "Invalid value for OUT_DIR: missing: 'users.csv' is all there is" in said
    assert "SOURCE first, then OUT_DIR" in said
    assert "Missing argument 'OUT_DIR'" in ringpull("import", "table").err


@pytest.mark.parametrize("kind", ["onnx", "pmml", "savedmodel", "sklearn", "lightgbm", "xgboost"])
def test_out_dir_is_named_where_it_is_missing(ringpull: Run, kind: str) -> None:
    ran = ringpull("import", kind, "users.csv")
    assert ran.status == 2
    assert "Missing argument 'OUT_DIR'" in ran.err
