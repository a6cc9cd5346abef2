"""`export_tables`: what it writes is what was given, by any way to give it; what cannot be is refused by name."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import ringpull.inference.export.given_rows
from ringpull import BytesRows, TableOptions, export_tables
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, DuplicateKey, ExportError, InvalidInput, RingpullError
from ringpull.ps.hashing import keys_of, keys_of_strings, positions_of
from ringpull.ps.spec import MAX_BYTES_ROW, KeyType, RowType
from ringpull.ps.store.base import Base
from tests.ps.tables import bytes_row

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def stored(version: Path, table: str) -> dict[int, Any]:
    base = Base.open(version / "tables" / table, verify_rows=True)
    try:
        keys = keys_of(base.sections.positions)
        if base.spec.is_bytes:
            return {int(key): bytes_row(base, row) for row, key in enumerate(keys)}
        return {int(key): base.row(row).tolist() for row, key in enumerate(keys)}
    finally:
        base.close()


@pytest.mark.medium
def test_keys_of_every_type(tmp_path: Path) -> None:
    given = {
        "signed": (np.array([-1, 2, 3, 4]), ROWS),
        "small": (np.array([7, 2, 3, 4], np.int16), ROWS),
        "unsigned": (np.array([2**64 - 1, 2, 3, 4], np.uint64), ROWS),
        "listed": ([2**63, 2, 3, 4], ROWS),
        "strings": (["a", "b", "ü", ""], ROWS),
        "fixed": (np.array(["a", "b", "ü", ""]), ROWS),
    }
    report = export_tables(given, tmp_path / "m", 3, quiet=True)
    assert report.path == tmp_path / "m" / "3"
    texts = keys_of_strings(["a", "b", "ü", ""]).tolist()
    wanted = {
        "signed": [2**64 - 1, 2, 3, 4],
        "small": [7, 2, 3, 4],
        "unsigned": [2**64 - 1, 2, 3, 4],
        "listed": [2**63, 2, 3, 4],
        "strings": texts,
        "fixed": texts,
    }
    for table, keys in wanted.items():
        assert stored(report.path, table) == dict(zip(keys, ROWS.tolist(), strict=True)), table
    types = {entry.spec.name: entry.spec.key_type for entry in report.manifest.tables}
    assert types["signed"] is types["small"] is KeyType.INT64
    assert types["unsigned"] is types["listed"] is KeyType.UINT64
    assert types["strings"] is types["fixed"] is KeyType.STRING


@pytest.mark.medium
def test_chunks_are_as_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringpull.inference.export.given_rows, "PIECE_BYTES", 24)
    rng = np.random.default_rng(3)
    keys, rows = rng.permutation(1000), rng.normal(size=(1000, 5)).astype(np.float32)

    def chunks() -> Iterator[tuple[Any, Any]]:
        for begin in range(0, 1000, 333):
            yield keys[begin : begin + 333], rows[begin : begin + 333]
        yield keys[:0], rows[:0]

    report = export_tables({"a": (keys, rows), "b": chunks(), "c": list(chunks())}, tmp_path / "m", 1, quiet=True)
    assert stored(report.path, "a") == stored(report.path, "b") == stored(report.path, "c")
    assert stored(report.path, "a") == dict(zip(keys.tolist(), rows.tolist(), strict=True))


def test_two_exports_of_a_number_are_two_versions_though_only_rows_differ(tmp_path: Path) -> None:
    written = [
        export_tables({"t": ([1], rows)}, tmp_path / name, 1, quiet=True)
        for name, rows in (("a", ROWS[:1]), ("b", ROWS[1:2]))
    ]
    identities = {Manifest.load(tmp_path / name / "1").identity for name in ("a", "b")}
    assert len(written) == len(identities) == 2


def test_rows_of_bytes_however_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringpull.inference.export.given_rows, "PIECE_ROWS", 2)
    rows = [b"", b"\0\xff", "zürich".encode(), b"x" * 5000, b"{}"]
    given = {
        "bytes": (range(5), rows),
        "mixed": (range(5), [b"", b"\0\xff", "zürich", b"x" * 5000, "{}"]),
        "array": (range(5), np.array(rows, object)),
        "packed": (range(5), BytesRows.of(rows)),
        "chunks": ((range(n, n + 1), [row]) for n, row in enumerate(rows)),
    }
    report = export_tables(given, tmp_path / "m", 1, quiet=True)
    for table in given:
        assert stored(report.path, table) == dict(enumerate(rows)), table
    specs = [entry.spec for entry in report.manifest.tables]
    assert {(spec.row_type, spec.dim) for spec in specs} == {(RowType.BYTES, 0)}
    assert {each.default for each in report.tables} == {"no bytes"}
    assert LoadedVersion.load(report.path).samples is not None


def test_options_hold_as_for_models(tmp_path: Path) -> None:
    options = {
        "a": TableOptions(row_type="int8", replicas="all", default="mean", on_unavailable="default"),
        "b": TableOptions(default=np.array([1, 2, 3], np.float32)),
    }
    report = export_tables({"a": (range(4), ROWS), "b": (range(4), ROWS)}, tmp_path / "m", 1, options=options)
    a, b = (entry.spec for entry in report.manifest.tables)
    assert (a.row_type, a.replicas, a.on_unavailable.value) == (RowType.INT8, "all", "default")
    assert a.default_vector().tolist() == ROWS.mean(axis=0).tolist()
    assert b.default_vector().tolist() == [1, 2, 3]
    assert [each.default for each in report.tables] == ["mean", "given"]


def test_the_report_says_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = export_tables({"user": (["u1", "u2"], ROWS[:2])}, tmp_path / "feed", 12)
    text = capsys.readouterr().out
    for said in ("feed/12", "user", "raw ids, strings", "zeros", "written to"):
        assert said in text
    for unsaid in ("features", "pooling", "dense program"):
        assert unsaid not in text
    assert report.bytes == sum(entry.bytes for entry in report.manifest.tables)
    shown = io.StringIO()
    report.print(Console(file=shown, width=40))
    assert "not shown at this width" in shown.getvalue()
    assert "pooling" not in shown.getvalue()


def test_the_version_loads_without_a_program_and_tells_a_change(tmp_path: Path) -> None:
    folder = export_tables({"user": (range(4), ROWS)}, tmp_path / "feed", 1, name="other", quiet=True).path
    loaded = LoadedVersion.load(folder)
    assert (loaded.name, loaded.program, list(loaded.schema.features)) == ("other/1", None, [])
    assert loaded.manifest.tables_alone
    assert loaded.manifest.identity
    assert loaded.samples is not None
    assert set(loaded.samples.tables) == {"user"}
    file = folder / "manifest.json"
    assert json.loads(file.read_text(encoding="utf-8"))["format"] == 2
    file.write_text(file.read_text(encoding="utf-8").replace('"rows": 4', '"rows": 5'), encoding="utf-8")
    with pytest.raises(CorruptData, match="damaged or edited"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (5, ExportError, "table t: is int; it must be a tuple"),
        ([], ExportError, "table t: has no rows"),
        (([], ROWS[:0]), ExportError, "table t: has no rows"),
        ([[1], [2]], ExportError, "table t: its content in chunk 0 is list"),
        (([1, 2], ROWS), ExportError, "table t: 2 keys and 4 rows"),
        ([([1], ROWS[:1]), ([2, 3], ROWS[:1])], ExportError, "table t: 2 keys and 1 rows in chunk 1"),
        ((range(4), ROWS.astype(np.float64)), ExportError, "table t: rows are float64"),
        ((range(4), ROWS.tolist()), ExportError, "table t: rows are list"),
        ((range(4), ROWS[:, 0]), ExportError, r"table t: rows are float32 \(4,\)"),
        ((range(4), ROWS[:, :0]), ExportError, r"table t: rows are float32 \(4, 0\)"),
        ((["a", 1, "b", "c"], ROWS), ExportError, "keys of table t"),
        (([1.5, 1, 2, 3], ROWS), ExportError, "keys of table t"),
        (([2**64, 1, 2, 3], ROWS), ExportError, "keys of table t"),
        (([1, 7, 2, 7], ROWS), DuplicateKey, "table t: key 7 was given more than once"),
        ((["a", "b", "c", "a"], ROWS), DuplicateKey, "table t: key 'a' was given more than once"),
        ([([1], ROWS[:1]), ([1], ROWS[:1])], DuplicateKey, "table t: key 1"),
        ((range(6, 10), np.where(ROWS == 7, np.nan, ROWS)), ExportError, "table t: the row of key 8 holds NaN"),
        ((list("abcd"), np.where(ROWS == 7, np.nan, ROWS)), ExportError, "table t: the row of key 'c' holds NaN"),
        ([(range(4), ROWS), (range(4, 8), ROWS[:, :2])], ExportError, "table t: rows have 3 .* later chunk 2"),
        ([(range(4), ROWS), (list("abcd"), ROWS)], ExportError, "table t: some keys are strings"),
        (([1, 2], [b"a", 7]), ExportError, "table t: the row of key 2 is int; it must be bytes or text"),
        ((["k", "l"], ["a", None]), ExportError, "table t: the row of key 'l' is NoneType"),
        (([1, 2], ["a", "\ud800"]), ExportError, "table t: the row of key 2 is no text"),
        (
            ([1, 9], [b"", bytes(MAX_BYTES_ROW + 1)]),
            ExportError,
            "table t: the row of key 9 has 1048577 b.* 1048576",
        ),
        (([1, 1], [b"a", b"b"]), DuplicateKey, "table t: key 1 was given more than once"),
        (([1], [b"a", b"b"]), ExportError, "table t: 1 keys and 2 rows"),
        ([([1], [b"a"]), ([2], ROWS[:1])], ExportError, "table t: rows have bytes, .* later chunk 3 numbers"),
        ([([], [])], ExportError, "table t: has no rows"),
        (("abcd", ROWS), ExportError, "keys of table t: are str"),
        ((7, ROWS), ExportError, "keys of table t: are int"),
        (([1], np.float32(1)), ExportError, "table t: rows are float32"),
        (([1], np.array(1.0, np.float32)), ExportError, r"table t: rows are float32 \(\)"),
        (([1], np.array([b"a\0"])), ExportError, "table t: rows are .S2"),
    ],
    ids=range(33),
)
def test_what_is_no_table_is_refused_and_nothing_is_left(
    tmp_path: Path, table: Any, error: type[RingpullError], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_tables({"good": (range(4), ROWS), "t": table}, tmp_path / "m", 1, quiet=True)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "m"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": {}}, "tables: give one or more"),
        ({"tables": [1]}, "tables: give one or more"),
        ({"tables": {"a/b": (range(4), ROWS)}}, "table name 'a/b' is not valid"),
        ({"version": 0}, "version is 0"),
        ({"name": "a b"}, "model name 'a b' is not valid"),
        ({"options": {"u": TableOptions()}}, "options: there is no table 'u'; there is t"),
        ({"options": {"t": TableOptions(row_type="float8")}}, "table t: row_type is 'float8'"),
        ({"options": {"t": TableOptions(replicas=0)}}, "table t: replicas"),
        ({"options": {"t": TableOptions(default="median")}}, "table t: default is 'median'"),
        ({"options": {"t": TableOptions(row_type="bytes")}}, "table t: row_type is 'bytes'"),
        (
            {"tables": {"t": ([1], [b""])}, "options": {"t": TableOptions(row_type="int8")}},
            "table t: row_type is 'int8'; rows of bytes have no other type",
        ),
        (
            {"tables": {"t": ([1], [b""])}, "options": {"t": TableOptions(default="zeros")}},
            "table t: default is given; an unknown key of a table of bytes has no bytes",
        ),
    ],
    ids=range(12),
)
def test_what_cannot_be_asked_for(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    asked = {"tables": {"t": (range(4), ROWS)}, "out_dir": tmp_path / "m", "version": 1, "quiet": True, **arguments}
    with pytest.raises(InvalidInput, match=message):
        export_tables(**asked)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "m"])


def test_a_default_of_another_length_and_a_version_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"table t: default has the shape \(2,\); it must be \(3,\)"):
        export_tables(
            {"t": (range(4), ROWS)}, tmp_path / "m", 1, options={"t": TableOptions(default=np.ones(2, np.float32))}
        )
    export_tables({"t": (range(4), ROWS)}, tmp_path / "m", 1, quiet=True)
    with pytest.raises(ExportError, match="exists; a version is never written over"):
        export_tables({"t": (range(4), ROWS)}, tmp_path / "m", 1, quiet=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"t": {"replicas": 2}}}, "table t: its options are dict; they must be TableOptions"),
        (
            {"options": {"t": TableOptions(on_unavailable="x")}},
            "table t: on_unavailable is 'x'; it must be one of error",
        ),  # type: ignore[arg-type]
        ({"version": 2**63}, "version is 9223372036854775808; it must be a whole number from 1 to"),
        ({"version": 0}, "version is 0"),
        ({"version": True}, "version is True"),
        ({"version": 1.0}, "version is 1.0"),
    ],
    ids=range(6),
)
def test_options_and_versions_that_are_none(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        export_tables(**{"tables": {"t": ([1], [b"a"])}, "out_dir": tmp_path / "m", "version": 1, **arguments})
    assert not (tmp_path / "m").exists()


def test_a_version_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    report = export_tables({"t": ([1], [b"a"])}, tmp_path / "m", np.int64(3), quiet=True)  # type: ignore[arg-type]
    assert (report.path.name, report.manifest.version) == ("3", 3)


@pytest.mark.medium
def test_of_two_exports_of_one_version_one_is_whole_and_one_is_told(tmp_path: Path) -> None:
    begun = threading.Barrier(2)

    def chunks(row: bytes) -> Iterator[Any]:
        yield [0], [row]
        begun.wait()
        yield from (([key], [row]) for key in range(1, 50))

    def export(row: bytes) -> str:
        try:
            export_tables({"t": chunks(row)}, tmp_path / "m", 1, quiet=True)
        except ExportError as exc:
            return str(exc)
        return ""

    with ThreadPoolExecutor(2) as executor:
        told = list(executor.map(export, [b"a", b"b"]))
    assert sorted(map(bool, told)) == [False, True]
    assert "exists: another export wrote it meanwhile" in "".join(told)
    assert set(stored(tmp_path / "m" / "1", "t").values()) == {b"ab"[told.index("") : told.index("") + 1]}
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.medium
def test_an_error_of_the_chunks_own_is_not_one_of_writing(tmp_path: Path) -> None:
    def chunks() -> Iterator[Any]:
        yield [1], [b"a"]
        (tmp_path / "input").read_bytes()

    with pytest.raises(Exception, match="input") as raised:
        export_tables({"t": chunks()}, tmp_path / "m", 1, quiet=True)
    assert "cannot be written" not in str(raised.value)


@pytest.mark.medium
def test_long_rows_take_no_more_memory_than_short_ones(tmp_path: Path) -> None:
    """300 MiB of rows, all of which are samples."""
    script = f"""
import threading, time
from ringpull import export_tables

def now():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) >> 10

peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], now())

threading.Thread(target=watch, daemon=True).start()
before = now()
chunks = (([key], [key.to_bytes(8, "little") * (1 << 17)]) for key in range(300))
export_tables({{"t": chunks}}, {str(tmp_path / "m")!r}, 1, quiet=True)
done.set()
print(peak[0] - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 250, "MiB"


def test_it_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np; from ringpull import export_tables;"
        f"export_tables({{'t': (range(2), np.ones((2, 2), np.float32))}}, {str(tmp_path / 'm')!r}, 1);"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_positions_are_those_of_the_keys(tmp_path: Path) -> None:
    folder = export_tables({"t": (range(4), ROWS)}, tmp_path / "m", 1, quiet=True).path
    base = Base.open(folder / "tables" / "t")
    found = base.find(positions_of(np.arange(4, dtype=np.uint64)))
    assert [base.row(int(row)).tolist() for row in found] == ROWS.tolist()
    base.close()
