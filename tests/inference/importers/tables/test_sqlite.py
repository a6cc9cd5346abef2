"""SQLite: what its columns hold, however vectors lie in them; what is none, and what would write, is refused."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ringpull.inference.importers.tables.sqlite
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError, Unavailable
from ringpull.ps.spec import KeyType
from tests.inference.importers.tables.reading import read
from tests.inference.importers.tables.whole_reading import rows_of, table_of

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
IDS = [3, -1, 7, 2**62]
EXPECTED = dict(zip(IDS, ROWS.tolist(), strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.db"


def write(file: Path, columns: str, rows: Sequence[Sequence[Any]], table: str = "item") -> Path:
    quoted = table.replace('"', '""')
    with closing(sqlite3.connect(file)) as database:
        database.execute(f'CREATE TABLE "{quoted}" ({columns})')
        database.executemany(f'INSERT INTO "{quoted}" VALUES ({", ".join("?" * len(rows[0]))})', rows)
        database.commit()
    return file


def refused(kind: type[RingpullError], where: Path, *words: str, **options: Any) -> None:
    before = {path: path.read_bytes() for path in where.parent.rglob("*")}
    with pytest.raises(kind) as error:
        table_of(where, **options)
    assert all(word in str(error.value) for word in (where.name, *words)), error.value
    assert {path: path.read_bytes() for path in where.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, [row.tobytes() for row in ROWS]),
        ("float64", [row.astype(np.float64).tobytes() for row in ROWS]),
        ("float16", [row.astype(np.float16).tobytes() for row in ROWS]),
        (None, [json.dumps(row.tolist()) for row in ROWS]),
        (None, [json.dumps(row.tolist()).encode() for row in ROWS]),
        (None, [",".join(map(str, row)) for row in ROWS]),
        (None, ["  ".join(map(str, row)) for row in ROWS]),
        ("text", [";".join(map(str, row)) for row in ROWS]),
    ],
)
def test_vectors_in_one_column(file: Path, encoding: str | None, packed: list[Any]) -> None:
    write(file, "id INTEGER, vector", list(zip(IDS, packed, strict=True)))
    assert table_of(file, encoding=encoding) == EXPECTED


def test_float64_is_not_taken_for_twice_as_many_numbers(file: Path) -> None:
    packed = [(key, (row.astype(np.float64) + 0.1).tobytes()) for key, row in zip(IDS, ROWS, strict=True)]
    write(file, "id INTEGER, vector", packed)
    refused(InvalidInput, file, "looks like numbers of float64", "encoding")


def test_a_number_a_column_in_the_order_asked_for(file: Path) -> None:
    write(file, "id, a, b, c", [(key, *map(float, row)) for key, row in zip(IDS, ROWS, strict=True)])
    assert table_of(file, vector=("c", "a")) == {key: [row[2], row[0]] for key, row in EXPECTED.items()}


def test_a_query_joins_and_renames(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, "k, v", [(f"k{n}", row.tobytes()) for n, row in enumerate(ROWS)], "a table")
    write(file, "k, name", [(f"k{n}", f"näme {n}") for n in range(4)], "names")
    query = 'SELECT name AS id, v AS vector FROM "a table" JOIN names USING (k)'
    expected = {f"näme {n}": row for n, row in enumerate(ROWS.tolist())}
    assert table_of(file, query=query) == expected
    source = open_source(file, ReadOptions(query=query))
    assert source.key_type is KeyType.STRING
    monkeypatch.setattr(ringpull.inference.importers.tables.sqlite, "PIECE_BYTES", 36)
    assert rows_of(source, 2) == {key: row for key, row in expected.items() if key[-1] in "23"}, "in pieces of 3 rows"


def test_which_table_it_is(file: Path) -> None:
    write(file, "id, vector", list(zip(IDS, [row.tobytes() for row in ROWS], strict=True)), 'a "b"')
    assert table_of(file) == EXPECTED
    write(file, "id, vector", [(1, ROWS[0].tobytes())], "other")
    refused(InvalidInput, file, "table must be one of", "other")
    assert table_of(file, table='a "b"') == EXPECTED
    refused(InvalidInput, file, "'x'", "other", table="x")
    refused(InvalidInput, file, "give one of them", table="other", query="SELECT 1")


def test_rows_of_bytes(file: Path) -> None:
    write(file, "id, value", [("a", b"\0\xff"), ("b", "käse"), ("c", b"")])
    assert table_of(file, value="value") == {"a": b"\0\xff", "b": "käse".encode(), "c": b""}
    write(file, "id, value", [(1, b"x"), (2, None)], "nulls")
    refused(InvalidInput, file, "value of row 1", "None", value="value", table="nulls")
    write(file, "id, value", [(1, bytes((1 << 20) + 1))], "long")
    refused(InvalidInput, file, "1048577 bytes", value="value", table="long")


def test_ids_of_texts_that_look_like_integers(file: Path) -> None:
    write(file, "id TEXT, vector", [("12", "1,2"), ("-3", "3,4")])
    assert table_of(file) == {12: [1, 2], -3: [3, 4]}
    assert table_of(file, id_type="string") == {"12": [1, 2], "-3": [3, 4]}
    write(file, "id TEXT, vector", [(str(2**64 - 1), "1,2"), ("5", "3,4")], "large")
    assert table_of(file, table="large") == {2**64 - 1: [1, 2], 5: [3, 4]}


def test_lists_of_integers_are_taken_for_vectors_only_where_somebody_says_so(file: Path) -> None:
    write(file, "id INTEGER, history", [(1, "3,5,8"), (2, "4,0,1")])
    refused(InvalidInput, file, "lists of integers", "'3,5,8'", "encoding")
    assert table_of(file, vector=("history",)) == {1: [3, 5, 8], 2: [4, 0, 1]}
    assert table_of(file, value="history") == {1: b"3,5,8", 2: b"4,0,1"}


def test_an_underscore_is_in_no_number(file: Path) -> None:
    write(file, "id INTEGER, vector", [(1, "0.5,1"), (2, "1_5,2")])
    refused(InvalidInput, file, "vector of row 1 is '1_5,2', no text")


GOOD = (1, ROWS[0].tobytes())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((2, None), "vector of row 1 is null"),
        ((2, b"1234"), "1 numbers; the first has 3"),
        ((2, b"12345"), "5 bytes"),
        ((2, "[1,2,3]"), "a text"),
        ((2, 5), "int"),
        ((None, GOOD[1]), "id of row 1 is null"),
        ((2.5, GOOD[1]), "id of row 1 is 2.5"),
        (("x", GOOD[1]), "id_type string"),
        ((b"\xff", GOOD[1]), "id of row 1"),
    ],
)
def test_values_that_are_none_are_refused_with_their_row(file: Path, bad: Any, words: str) -> None:
    # Behind the rows that are looked at first, so that one of another kind is not what decides.
    write(file, "id, vector", [GOOD, bad])
    options = {"id_type": "int64"} if isinstance(bad[0], str | bytes) else {}
    refused(InvalidInput, file, words, **options)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("[1, 2", "no json"),
        ("[1, null]", "a list of numbers"),
        ("[[1, 2]]", "a list of numbers"),
        ('["1"]', "a list of numbers"),
        ("[true]", "a list of numbers"),
        ("[" * 100_000, "no json"),
        ("[]", "0 numbers"),
        ("1,x", "no text"),
        ("", "0 numbers"),
        ("1e300,1", "beyond float32"),
        (b"", "0 numbers"),
        (bytes(4 * 65_537), "65537 numbers"),
    ],
)
def test_cells_that_are_no_vector_are_refused(file: Path, cell: Any, words: str) -> None:
    refused(InvalidInput, write(file, "id, vector", [(1, cell)]), words)


def test_columns_of_numbers_that_hold_something_else(file: Path) -> None:
    write(file, "id, a, b", [(1, 1.0, 2), (2, None, 1)])
    refused(InvalidInput, file, "a of row 1 is null", vector=("a", "b"))
    write(file, "id, a, b", [(1, 1.0, "x")], "texts")
    refused(InvalidInput, file, "b of row 0 is 'x'", vector=("a", "b"), table="texts")
    write(file, "id, a, b", [(1, 1.0, 1e300)], "large")
    refused(InvalidInput, file, "row 0 holds a number beyond float32", vector=("a", "b"), table="large")


def test_columns_that_are_not_there_or_not_clear(file: Path) -> None:
    write(file, "a, b", [(1, "1,2")])
    refused(InvalidInput, file, "'x'", "a", id="x")
    write(file, "id, x, y", [(1, "1,2", "3,4")], "two")
    refused(InvalidInput, file, "vector", "x", "y", table="two")
    refused(InvalidInput, file, "'id'", query="SELECT x AS id, y AS id FROM two")
    write(file, "id, vector", [(1, "1")], "none")
    refused(InvalidInput, file, "no rows", query="SELECT * FROM none WHERE id = 2")


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM item",
        "CREATE TABLE more (a)",
        "ATTACH DATABASE 'more.db' AS more",
        "VACUUM INTO 'more.db'",
        "PRAGMA user_version = 3",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT * FROM nothing",
        "no query",
        "",
    ],
)
def test_a_query_that_does_more_than_read_is_refused(file: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    refused(InvalidInput, write(file, "id, vector", [GOOD]), "query", query=query)


def test_damaged_files_are_refused(file: Path) -> None:
    write(file, "id, vector", [(n, ROWS[0].tobytes()) for n in range(2000)])
    content = file.read_bytes()
    for damaged in (content[:50], content[:200], content[: len(content) // 2], content[:4096] + bytes(8192)):
        file.write_bytes(damaged)
        refused(CorruptData, file, format="sqlite")
    file.write_bytes(b"no database at all, whatever its name says" * 100)
    refused(CorruptData, file, "SQLite")


def test_a_database_that_somebody_locks_is_tried_later(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, "id, vector", [GOOD])
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda where, **options: connect(where, timeout=0, **options))
    with closing(connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            table_of(file)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (b"\x93NUMPY\x01\x00v\x00" + b" " * 118 + np.ones(2, np.float32).tobytes(), "numpy.save writes it.*tobytes"),
        (pickle.dumps(np.ones(3, np.float32)), "a pickle, which is never read"),
        (np.array([0.12, -0.5, 0.03, 0.9], np.float16).tobytes(), "float16, which read as float32 are others"),
    ],
)
def test_bytes_of_another_kind_are_not_taken_for_float32(tmp_path: Path, cell: bytes, words: str) -> None:
    """They have as many bytes as some vector of float32 has."""
    file = database(tmp_path, cell + b"\x00" * (-len(cell) % 4))
    with pytest.raises(InvalidInput, match=words):
        read(file)


def test_float16_is_read_where_somebody_says_so(tmp_path: Path) -> None:
    """And small numbers of float32 are no float16."""
    half = np.array([0.12, -0.5, 0.03, 0.9], np.float16)
    assert read(database(tmp_path, half.tobytes()), encoding="float16") == {1: half.tolist()}
    small = np.array([1.5e-5, -2.25e-5, 3e-7], np.float32)
    assert read(database(tmp_path, small.tobytes())) == {1: small.tolist()}
    signalling = np.array([0x3C007C01, 0x3C007D01], np.uint32).view(np.float32)
    assert read(database(tmp_path, signalling.tobytes())) == {1: signalling.tolist()}


def database(folder: Path, cell: bytes) -> Path:
    """Return a file with one vector, which these bytes are."""
    file = folder / "one.db"
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("CREATE TABLE t (id INTEGER, v BLOB)")
        opened.execute("INSERT INTO t VALUES (1, ?)", (cell,))
    return file
