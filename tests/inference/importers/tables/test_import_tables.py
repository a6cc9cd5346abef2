"""`import_tables`: what is on disk afterwards, what stops it, and how it goes on after it was stopped anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringpull.inference.export.report import ExportReport
from ringpull.inference.export.table_options import TableOptions
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.importers.tables.source import TablePiece, TableSource
from ringpull.inference.importers.tables.staging import staged, staging_folder
from ringpull.inference.model.manifest import Manifest
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, DuplicateKey, ExportError, HashCollision, InvalidInput, Unavailable
from ringpull.ps.spec import KeyType, RowType
from tests.inference.importers.tables.reading import as_written, read, written

ROWS = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
KEYS = np.random.default_rng(1).permutation(3000) - 1000


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Three part files of 1000 rows, whose row groups have 100."""
    folder = tmp_path / "items"
    folder.mkdir()
    for part in range(3):
        own = slice(part * 1000, part * 1000 + 1000)
        table = pa.table({"id": KEYS[own], "features": pa.array(list(ROWS[own]), pa.list_(pa.float32()))})
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=100)
    return folder


def run(tables: Any, out: Path, version: int = 1, **options: Any) -> ExportReport:
    return import_tables(tables, out, version, quiet=True, **options)


def entry_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.medium
def test_several_tables_in_one_version(tmp_path: Path, items: Path) -> None:
    (tmp_path / "recs.csv").write_text('user,recs\nu1,"[1, 2]"\nu2,"{}"\n')
    (tmp_path / "words.txt").write_text("king 1 2\nqueen 3 5\n")
    out = tmp_path / "shop"
    report = run(
        {
            "items": items,
            "recs": open_source(tmp_path / "recs.csv", read_options(value="recs")),
            "words": tmp_path / "words.txt",
        },
        out,
        7,
        options={"words": TableOptions(default="mean", replicas="all", row_type="bfloat16")},
    )
    assert entry_names(out) == ["7"]
    manifest = Manifest.load(out / "7")
    assert (manifest.model, manifest.version, manifest.tables_alone) == ("shop", 7, True)
    assert written(out / "7/tables/items") == as_written(read(items))
    assert written(out / "7/tables/recs") == as_written({"u1": b"[1, 2]", "u2": b"{}"})
    assert written(out / "7/tables/words") == as_written({"king": [1, 2], "queen": [3, 5]})
    specs = {entry.spec.name: entry.spec for entry in manifest.tables}
    assert specs["words"].default == (2.0, 3.5)
    assert (specs["words"].row_type, specs["words"].replicas) == (RowType.BFLOAT16, "all")
    assert (specs["words"].key_type, specs["items"].key_type) == (KeyType.STRING, KeyType.INT64)
    assert [table.rows for table in report.tables] == [3000, 2, 2]


def read_options(**options: Any) -> Any:
    from ringpull.inference.importers.tables.source import ReadOptions

    return ReadOptions(**options)


def test_float16_stays_float16(tmp_path: Path) -> None:
    rows = np.array([[0.1, 0.2]], np.float16)
    np.savez(tmp_path / "t.npz", keys=np.array([5]), rows=rows)
    run({"t": tmp_path / "t.npz"}, tmp_path / "m")
    assert Manifest.load(tmp_path / "m/1").tables[0].spec.row_type is RowType.FLOAT16
    assert written(tmp_path / "m/1/tables/t") == {5: rows[0].tolist()}


@pytest.mark.parametrize(
    ("content", "error", "why"),
    [
        ("id,v\n1,1\n2,2\n1,3\n", DuplicateKey, r"key 1 was given more than once: t\.csv: line 2, and t\.csv: line 4"),
        ("id,v\na,1\nb,2\na,3\n", DuplicateKey, r"key 'a' was given more than once: t\.csv: line 2, and .* line 4"),
        (
            f"id,v\n-1,1\n{2**64 - 1},3\n",
            DuplicateKey,
            r"key 18446744073709551615 was given more than once: t\.csv: line 2, and t\.csv: line 3",
        ),
        (
            "id,v\nu0000000s0000000,1\n9im3mx8HC0GcBev1,3\n",
            HashCollision,
            r"'u0000000s0000000' and '9im3mx8HC0GcBev1' have one hash.* line 2, and t\.csv: line 3",
        ),
        ("id,v\n1,1\n2,nan\n", InvalidInput, "line 3: number 0 of the vector of key 2 is nan"),
    ],
)
def test_after_an_error_of_the_content_nothing_stays(
    tmp_path: Path, content: str, error: type[Exception], why: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(error, match=why):
        run({"t": tmp_path / "t.csv"}, tmp_path / "new/m", checkpoint_bytes=1)
    assert entry_names(tmp_path) == ["t.csv"]


@pytest.mark.parametrize(
    ("tables", "options", "why"),
    [
        ({}, {}, "give one or more"),
        ({"../t": "t.csv"}, {}, "table name '../t' is not valid"),
        ({"t": "t.csv"}, {"options": {"u": TableOptions()}}, "there is no table 'u'"),
        ({"t": "t.csv"}, {"options": {"t": TableOptions(row_type="int4")}}, "row_type is 'int4'"),
        ({"t": "t.csv"}, {"options": {"t": TableOptions(replicas=0)}}, "replicas is 0"),
        ({"t": "t.csv"}, {"options": {"t": TableOptions(default=np.zeros(3, np.float32))}}, r"float32 \(1,\)"),
        ({"t": "t.csv"}, {"name": "a/b"}, "model name"),
        ({"t": "recs.csv"}, {"options": {"t": TableOptions(default="mean")}}, "rows are bytes"),
    ],
)
def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: Any, options: Any, why: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("id,v\n1,1\n")
    (tmp_path / "recs.csv").write_text("id,v\n1,x\n")
    with pytest.raises(InvalidInput, match=why):
        run(tables, tmp_path / "m", **options)
    assert entry_names(tmp_path) == ["recs.csv", "t.csv"]


class Stopping:
    """A source that ends with an error behind so many rows; with None it goes through."""

    def __init__(self, source: TableSource, stop_after: int | None, error: BaseException) -> None:
        self._source, self._stop_after, self._error = source, stop_after, error
        self.read_rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        for piece in self._source.pieces(start):
            if self._stop_after is not None and self.read_rows >= self._stop_after:
                raise self._error
            self.read_rows += len(piece)
            yield piece


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["vectors", "strings", "bytes"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unavailable("the bucket is away"), OSError(28, "full")])
def test_it_goes_on_wherever_it_was_stopped(tmp_path: Path, items: Path, kind: str, error: BaseException) -> None:
    source, expected = sources_of(kind, tmp_path, items)
    random = np.random.default_rng(len(kind))
    out = tmp_path / "m"
    read_rows = 0
    for _ in range(4):
        stopping = Stopping(source, int(random.integers(1, 600)), error)
        with pytest.raises((type(error), ExportError)):
            run({"t": stopping}, out, checkpoint_bytes=3000, buffer_bytes=5000, options=mean_of(kind))
        read_rows += stopping.read_rows
        assert entry_names(out) in ([".1.import"], [])
    last = Stopping(source, None, error)
    run({"t": last}, out, checkpoint_bytes=3000, buffer_bytes=5000, options=mean_of(kind))
    assert entry_names(out) == ["1"]
    assert last.read_rows < 3000 <= last.read_rows + read_rows
    assert written(out / "1/tables/t") == as_written(expected)
    if kind != "bytes":
        default = Manifest.load(out / "1").tables[0].spec.default
        assert np.allclose(default, ROWS.mean(axis=0), atol=1e-6)


def mean_of(kind: str) -> dict[str, TableOptions]:
    return {} if kind == "bytes" else {"t": TableOptions(default="mean")}


def sources_of(kind: str, tmp_path: Path, items: Path) -> tuple[TableSource, dict[Any, Any]]:
    if kind == "vectors":
        return open_source(items), read(items)
    names = [f"item {key}" for key in KEYS]
    texts = [f"row {key}" * (key % 7) for key in KEYS]
    table = pa.table({"id": names, "features": pa.array(list(ROWS), pa.list_(pa.float32())), "text": texts})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    options = {"vector": ("features",)} if kind == "strings" else {"value": "text"}
    return (
        open_source(tmp_path / "t.parquet", read_options(id="id", **options)),
        read(tmp_path / "t.parquet", id="id", **options),
    )


def stop(items: Path, out: Path, tables: tuple[str, ...] = ("t",), rows: int = 2500) -> None:
    """Stop an import of the last of some tables behind so many rows."""
    sources: dict[str, Any] = {table: open_source(items) for table in tables}
    sources[tables[-1]] = Stopping(sources[tables[-1]], rows, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(sources, out, checkpoint_bytes=5000)


@pytest.mark.medium
def test_tables_that_were_whole_are_not_read_again(tmp_path: Path, items: Path) -> None:
    out = tmp_path / "m"
    stop(items, out, ("a", "b"))
    first, second = (Stopping(open_source(items), None, KeyboardInterrupt()) for _ in range(2))
    run({"a": first, "b": second}, out)
    assert first.read_rows == 0
    assert 0 < second.read_rows < 3000
    assert written(out / "1/tables/a") == written(out / "1/tables/b") == as_written(read(items))
    assert entry_names(out / "1") == ["manifest.json", "samples.npz", "tables"]
    assert entry_names(out / "1/tables") == ["a", "b"]


@pytest.mark.medium
@pytest.mark.parametrize("change", ["files", "options", "table", "journal", "rows cut", "rows gone"])
def test_what_is_not_the_same_import_begins_again(tmp_path: Path, items: Path, change: str) -> None:
    out = tmp_path / "m"
    stop(items, out)
    staging = staging_folder(out / "1")
    options = {}
    table = "u" if change == "table" else "t"
    if change == "files":
        (items / "part-0.parquet").touch()
    elif change == "options":
        options = {"options": {"t": TableOptions(row_type="bfloat16")}}
    elif change == "journal":
        (staging / "journal.json").write_text('{"t": 5')
    elif change == "rows cut":
        (staging / "t.rows/rows").write_bytes(b"")
    elif change == "rows gone":
        (staging / "t.rows/positions").unlink()
    source = Stopping(open_source(items), None, KeyboardInterrupt())
    run({table: source}, out, **options)
    assert source.read_rows == 3000
    assert entry_names(out) == ["1"]
    assert entry_names(out / "1/tables") == [table]
    assert len(written(out / f"1/tables/{table}")) == 3000


def test_one_import_at_a_time_and_no_version_twice(tmp_path: Path, items: Path) -> None:
    out = tmp_path / "m"
    with staged(out / "1") as other:
        with pytest.raises(ExportError, match="another import writes this version now"):
            run({"t": items}, out)
        other.version.joinpath("manifest.json").write_text("{}")
    assert entry_names(out) == ["1"]
    with pytest.raises(ExportError, match="never written over"):
        run({"t": items}, out)


class Contradicting:
    """A source whose pieces are not of the kind that it says."""

    described, rows, dim, row_type, key_type, fingerprint = "made", None, 2, RowType.FLOAT32, KeyType.INT64, None

    def __init__(self, *pieces: tuple[Any, Any]) -> None:
        self._pieces = pieces

    def pieces(self, start: int = 0) -> Iterator[TablePiece]:
        for keys, rows in self._pieces:
            yield TablePiece(keys, rows, "made", None)

    def close(self) -> None:
        pass


GOOD = (np.array([1]), np.ones((1, 2), np.float32))


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        ((np.array(["a"]), GOOD[1]), "made: keys are strings; those before are integers"),
        ((np.array([2]), np.ones((1, 3), np.float32)), "1 keys and 1 rows of 3 numbers; rows have 2"),
        ((np.array([2, 3]), GOOD[1]), "2 keys and 1 rows"),
        ((np.array([2]), BytesRows.of([b"x"])), "rows of 0 numbers; rows have 2"),
    ],
)
def test_pieces_are_held_to_what_their_source_says(tmp_path: Path, piece: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        run({"t": Contradicting(GOOD, piece)}, tmp_path / "m")
    with pytest.raises(InvalidInput, match="made has no rows"):
        run({"t": Contradicting()}, tmp_path / "m")
    assert entry_names(tmp_path) == []


def test_keys_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    good, cut = BytesRows.of([b"a", b"\xc3\xbc"]), BytesRows.of([b"a\xc3", b"\xbc"])
    for keys, row in ((good, None), (cut, 0), (BytesRows.of([b"a", b"\xff"]), 1)):
        source = Contradicting((keys, np.ones((2, 2), np.float32)))
        source.key_type = KeyType.STRING
        if row is None:
            run({"t": source}, tmp_path / "m")
            assert len(written(tmp_path / "m/1/tables/t")) == 2
        else:
            with pytest.raises(InvalidInput, match=r"the key '.*\\x.*' is no UTF-8"):
                run({"t": source}, tmp_path / "m", 2)


@pytest.mark.medium
def test_a_killed_process_is_gone_on_with(tmp_path: Path, items: Path) -> None:
    program = """
import os, signal, sys
from ringpull.inference.importers.tables import import_tables as room
reading = room.checked_pieces
def killed(source, start=0):
    for number, piece in enumerate(reading(source, start)):
        if number == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece
room.checked_pieces = killed
room.import_tables({"t": sys.argv[1]}, sys.argv[2], 1, quiet=True, checkpoint_bytes=5000)
"""
    out = tmp_path / "m"
    ended = subprocess.run([sys.executable, "-c", program, str(items), str(out)], check=False)
    assert ended.returncode == -signal.SIGKILL
    read_rows = json.loads((out / ".1.import/journal.json").read_text())["t"]["read_rows"]
    assert 0 < read_rows <= 1700
    source = Stopping(open_source(items), None, KeyboardInterrupt())
    run({"t": source}, out)
    assert source.read_rows == 3000 - read_rows
    assert written(out / "1/tables/t") == as_written(read(items))
    assert entry_names(out) == ["1"]


def test_damage_found_on_the_way_leaves_nothing(tmp_path: Path, items: Path) -> None:
    source = Stopping(open_source(items), 1500, CorruptData("part-1.parquet: is damaged"))
    with pytest.raises(CorruptData):
        run({"t": source}, tmp_path / "m", checkpoint_bytes=5000)
    assert entry_names(tmp_path) == ["items"]
