"""Parquet: every way that keys, vectors and bytes lie in columns, against the values that were written."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType, RowType
from tests.inference.importers.tables.reading import read, read_source

VECTORS = [[0.5, -1.25], [2.0, 3.0], [0.0, 1e-3]]
IDS = [7, -2, 2**62]
UDT = pa.struct(
    [
        ("type", pa.int8()),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)
EXPECTED = {key: np.array(row, np.float32).tolist() for key, row in zip(IDS, VECTORS, strict=True)}


def write(path: Path, row_group_size: int | None = None, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float64(), 2),
    ],
    ids=str,
)
def test_vectors_in_lists_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "t.parquet", id=pa.array(IDS), features=pa.array(VECTORS, kind))
    assert read(path) == EXPECTED


def test_float16_is_kept_as_its_own_row_type(tmp_path: Path) -> None:
    rows = [np.array(row, np.float16) for row in VECTORS]
    path = write(tmp_path / "t.parquet", id=pa.array(IDS), v=pa.array(rows, pa.list_(pa.float16())))
    source = open_source(path)
    assert source.row_type is RowType.FLOAT16
    assert read_source(source) == {key: row.tolist() for key, row in zip(IDS, rows, strict=True)}


@pytest.mark.parametrize(
    ("keys", "key_type"),
    [
        (pa.array([1, -2, 3], pa.int8()), KeyType.INT64),
        (pa.array([1, 2, 2**32 - 1], pa.uint32()), KeyType.INT64),
        (pa.array([0, 1, 2**64 - 1], pa.uint64()), KeyType.UINT64),
        (pa.array([-(2**63), 0, 2**63 - 1], pa.int64()), KeyType.INT64),
        (pa.array(["a", "", "zürich"]), KeyType.STRING),
        (pa.array(["a", "", "zürich"], pa.large_string()), KeyType.STRING),
        (pa.array(["a", "", "zürich, and more than a few"], pa.string_view()), KeyType.STRING),
        (pa.array(["a", "b", "c"]).dictionary_encode(), KeyType.STRING),
        (pa.array([5, 6, 7]).dictionary_encode(), KeyType.INT64),
    ],
    ids=str,
)
def test_keys_of_any_type(tmp_path: Path, keys: pa.Array, key_type: KeyType) -> None:
    path = write(tmp_path / "t.parquet", key=keys, vector=pa.array(VECTORS, pa.list_(pa.float32())))
    source = open_source(path)
    assert source.key_type is key_type
    assert list(read_source(source)) == keys.to_pylist()


def test_sparks_vectors_dense_and_sparse(tmp_path: Path) -> None:
    vectors = [
        {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0, 3.0]},
        {"type": 0, "size": 3, "indices": [2, 0], "values": [5.0, 4.0]},
        {"type": 0, "size": 3, "indices": [], "values": []},
        {"type": 1, "size": None, "indices": None, "values": [7.0, 8.0, 9.0]},
    ]
    path = write(tmp_path / "t.parquet", id=pa.array([1, 2, 3, 4]), features=pa.array(vectors, UDT))
    assert read(path) == {1: [1, 2, 3], 2: [4, 0, 5], 3: [0, 0, 0], 4: [7, 8, 9]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"type": 0, "size": 2, "indices": [0], "values": [1.0]}, "has 2 numbers; the first one has 3"),
        ({"type": 0, "size": 3, "indices": [0, 3], "values": [1.0, 2.0]}, "not below 3"),
        ({"type": 0, "size": 3, "indices": [-1], "values": [1.0]}, "not below 3"),
        ({"type": 0, "size": 3, "indices": [0], "values": [1.0, 2.0]}, "other indices than values"),
        ({"type": 1, "size": None, "indices": None, "values": [1.0, None, 2.0]}, "is null"),
    ],
)
def test_a_broken_vector_of_spark_is_named(tmp_path: Path, bad: dict[str, Any], why: str) -> None:
    good = {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0, 3.0]}
    path = write(tmp_path / "t.parquet", id=pa.array([1, 2]), features=pa.array([good, bad], UDT))
    with pytest.raises(InvalidInput, match=rf"row group 0, row 1: .*{why}"):
        read(path)


def test_one_column_a_number_and_rows_of_bytes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        user_id=pa.array([1, 2]),
        v0=pa.array([1.0, 2.0]),
        v1=pa.array([3, 4]),
        recs=pa.array(['{"a": [1]}', ""]),
    )
    assert read(path, vector=("v*",)) == {1: [1, 3], 2: [2, 4]}
    assert read(path, vector=("v1", "v0")) == {1: [3, 1], 2: [4, 2]}
    assert read(path, value="recs") == {1: b'{"a": [1]}', 2: b""}


def test_numbers_of_rows_that_pandas_writes_along_are_no_numbers_of_vectors(tmp_path: Path) -> None:
    frame = pd.DataFrame({"itemId": [7, 9], "v0": [1.0, 2.0], "v1": [3, 4]}, index=[1, 0])
    frame.to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {7: [1, 3], 9: [2, 4]}
    frame[["v0", "v1"]].to_parquet(tmp_path / "index.parquet")
    assert read(tmp_path / "index.parquet") == {1: [1, 3], 0: [2, 4]}
    lists = pd.DataFrame({"item": [7.0, 9.0], "emb": [[1.0, 3.0], [2.0, 4.0]]}, index=[1, 0])
    for kind in (float, int):
        lists.astype({"item": kind}).to_parquet(tmp_path / "lists.parquet")
        with pytest.raises(InvalidInput, match="say which column holds the keys"):
            read(tmp_path / "lists.parquet")
    frame.assign(year=1999).to_parquet(tmp_path / "year.parquet")
    with pytest.raises(InvalidInput, match=r"say which columns hold the rows, .*year \(int64\)"):
        read(tmp_path / "year.parquet")


def test_part_files_of_a_folder_of_a_pattern_and_at_a_url(tmp_path: Path) -> None:
    folder = tmp_path / "als" / "itemFactors"
    folder.mkdir(parents=True)
    for number, key in enumerate(IDS):
        write(folder / f"part-{number}.snappy.parquet", id=pa.array([key]), features=pa.array([VECTORS[number]]))
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").write_bytes(b"no parquet")
    assert read(folder) == read(f"{folder}/part-*.parquet") == EXPECTED
    assert list(read(f"{folder}/part-[02]*")) == [IDS[0], IDS[2]]
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/als/items/{path.name}", path.read_bytes())
    assert read("memory://als/items") == EXPECTED
    with pytest.raises(InvalidInput, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="there are no files"):
        read(f"{folder}/x*")


def test_reading_from_any_row_on(tmp_path: Path) -> None:
    """Across row groups and files, with nothing twice and nothing left out."""
    rows = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    for part in range(2):
        own = slice(part * 25, part * 25 + 25)
        write(tmp_path / f"{part}.parquet", 7, id=pa.array(range(own.start, own.stop)), v=pa.array(list(rows[own])))
    source = open_source(tmp_path)
    assert source.rows == 50
    for start in (0, 1, 6, 7, 24, 25, 26, 49, 50):
        assert read_source(source, start) == dict(list(enumerate(rows.tolist()))[start:])


@pytest.mark.parametrize(
    ("columns", "options", "why"),
    [
        ({"id": [1, None], "v": [[1.0], [2.0]]}, {}, r"row group 1, row 0: the key \(column id\) is null"),
        ({"id": [1, 2], "v": [[1.0], None]}, {}, r"row group 1, row 0: the vector \(column v\) is null"),
        ({"id": [1, 2], "v": [[1.0], [None]]}, {}, "row group 1, row 0: the number in the vector"),
        ({"id": [1, 2], "v": [[1.0], [1.0, 2.0]]}, {}, "row group 1, row 0: .* has 2 numbers; the first one has 1"),
        ({"id": [1, 2], "v": [[], [1.0]]}, {}, "has 0 numbers"),
        (
            {"id": [1, 2], "v": [[1.0], [float("nan")]]},
            {},
            "row group 1, row 0: number 0 of the vector of key 2 is nan",
        ),
        ({"id": [1, 2], "v": [[1.0], [1e300]]}, {}, "of key 2 is inf"),
        ({"id": [1, 2], "v": [1.0, None]}, {}, r"the number \(column v\) is null"),
        (
            {"id": [Decimal("1.5"), Decimal("2.5")], "v": [[1.0], [2.0]]},
            {"id": "id"},
            r"column id is decimal128\(2, 1\)",
        ),
        ({"id": [1.0, 2.0], "v": [[1.0], [2.0]]}, {"id": "id"}, "column id is double"),
        (
            {"id": [1, 2], "v": [[Decimal("1.5")], [Decimal("2.5")]]},
            {"vector": ("v",)},
            "column v is list<element: dec",
        ),
        ({"id": [1, 2], "v": [["1"], ["2"]]}, {"vector": ("v",)}, r"column v is list<element: string>"),
        ({"id": [1, 2], "v": [[1], [2]]}, {}, r"say which columns hold the rows.*v \(list<element: int64>\)"),
        ({"a": [1, 2], "b": [1, 2], "v": [[1.0], [2.0]]}, {}, r"say which column holds the keys.*a \(int64\), b"),
        ({"id": [1, 2], "u": [[1.0], [2.0]], "v": [[1.0], [2.0]]}, {}, "say which columns hold the rows"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"vector": ("w",)}, "no column 'w'; its columns are id"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"id": "v"}, "column v is list"),
        ({"id": [1, 2], "v": [1.0, 2.0]}, {"id": "id", "vector": ("id", "v")}, "taken for keys and for rows"),
        ({"id": [1, 2], "v": ["a", None]}, {"value": "v"}, r"the value \(column v\) is null"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"value": "v"}, "must be of bytes or text values"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"vector": ("v",), "value": "v"}, "vectors, or rows of bytes"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"id_type": "string"}, "its keys are int64"),
        ({"id": [1, 2], "v": [[1.0], [2.0]]}, {"delimiter": ","}, "delimiter is for text"),
        ({"id": [], "v": []}, {"vector": ("v",), "id": "id"}, "column id is null|has no rows"),
    ],
)
def test_what_no_table_can_hold_is_named(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "t.parquet", 1, **columns)
    with pytest.raises(InvalidInput, match=why):
        read(path, **options)


def test_part_files_of_other_columns(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", id=pa.array([1]), v=pa.array([[1.0]]))
    write(tmp_path / "1.parquet", id=pa.array(["a"]), v=pa.array([[1.0]]))
    with pytest.raises(InvalidInput, match=r"1\.parquet: its columns id, v are string, .* those of 0\.parquet int64"):
        read(tmp_path)
    write(tmp_path / "1.parquet", id=pa.array([2]), w=pa.array([[1.0]]))
    with pytest.raises(InvalidInput, match=r"has no column 'v', which 0\.parquet has"):
        read(tmp_path)


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", id=pa.array(IDS), v=pa.array(VECTORS))
    whole = path.read_bytes()
    for size in (4, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptData, match=r"t\.parquet: cannot be read"):
            read(path)
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(CorruptData):
        read(path)
    with pytest.raises(InvalidInput, match="must be one of parquet"):
        open_source(path, ReadOptions(format="hdf5"))


ROWS = {7: [0.5, 1.0], 12: [2.0, 3.5]}


@pytest.mark.parametrize(
    ("columns", "options", "rows"),
    [
        *(
            ({"id": pa.array([Decimal(key) for key in ROWS], decimal), "v": [*ROWS.values()]}, {}, ROWS)
            for decimal in (pa.decimal128(20, 0), pa.decimal256(60, 0), pa.decimal64(12, 0), pa.decimal32(6, 0))
        ),
        (
            {"id": pa.array([b"a", "ß".encode()]), "v": [*ROWS.values()]},
            {},
            dict(zip("aß", ROWS.values(), strict=True)),
        ),
        ({"id": [*ROWS], "v": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([*ROWS.values()]))}, {}, ROWS),
        ({"id": [*ROWS], "v": [[1, 2], [3, 4]]}, {"vector": ("v",)}, {7: [1, 2], 12: [3, 4]}),
        ({"id": [*ROWS], "v": ["[0.5, 1]", "[2, 3.5]"]}, {"vector": ("v",)}, ROWS),
        ({"id": [*ROWS], "v": ["0.5 1", "2 3.5"]}, {"vector": ("v",)}, ROWS),
        ({"id": [*ROWS], "v": [np.array(v, np.float32).tobytes() for v in ROWS.values()]}, {"vector": ("v",)}, ROWS),
        (
            {"id": [*ROWS], "v": [np.array(v, np.float16).tobytes() for v in ROWS.values()]},
            {"vector": ("v",), "encoding": "float16"},
            ROWS,
        ),
        (
            {"id": [*ROWS], "v0": pa.array([Decimal("0.5"), Decimal(2)], pa.decimal128(6, 2)), "v1": [1.0, 3.5]},
            {},
            ROWS,
        ),
    ],
)
def test_columns_as_other_writers_write_them(tmp_path: Path, columns: Any, options: Any, rows: Any) -> None:
    """Integers of databases, texts that are not marked as such, tensors, and vectors that are texts or bytes."""
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", **options) == rows


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {"id": pa.array([Decimal(1), Decimal(2**63)], pa.decimal128(20, 0)), "v": [[1.0], [2.0]]},
            {},
            "row 1: .*int64",
        ),
        ({"id": pa.array([b"ab", b"cd"], pa.binary(2)), "v": [[1.0], [2.0]]}, {}, "integers or strings"),
        ({"id": [1, 2], "embedding": ["[1.5]", "[2]"]}, {}, "say vector if they are, or value"),
        ({"id": [1, 2], "embedding": [b"abcd", b"efgh"]}, {}, "say vector if they are, or value"),
        ({"id": [1, 2], "v": ["[1.5, 2]", "[2]"]}, {"vector": ("v",)}, "row group 0, row 1 has 1 numbers"),
        ({"id": [1, 2], "v": ["[1.5, 2]", None]}, {"vector": ("v",)}, "row group 0, row 1 is null"),
        ({"id": [1, 2], "v": [[1.5], [2.0]]}, {"encoding": "json"}, "for a vector of texts or bytes"),
    ],
)
def test_columns_of_other_writers_that_are_no_vectors_or_keys(
    tmp_path: Path, columns: Any, options: Any, words: str
) -> None:
    """An embedding in texts would be rows of bytes without anybody's notice."""
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match=words):
        read(tmp_path / "t.parquet", **options)


@pytest.mark.parametrize("mark", ["_delta_log", ".hoodie"])
def test_files_of_which_some_may_be_out_of_date(tmp_path: Path, mark: str) -> None:
    """A folder whose log says which files count is refused; the files that somebody names are read."""
    (tmp_path / "t" / mark).mkdir(parents=True)
    pq.write_table(pa.table({"id": [1], "v": [[1.5]]}), tmp_path / "t" / "part-0.parquet")
    with pytest.raises(InvalidInput, match="which of its files still count"):
        read(tmp_path / "t")
    assert read(tmp_path / "t" / "part-*.parquet") == {1: [1.5]}
