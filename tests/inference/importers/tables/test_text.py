"""Texts: what is found out of their first lines, every layout against the values in it, and what names a line."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ringpull.inference.importers.tables import text_blocks
from ringpull.inference.importers.tables.formats import format_of, open_source
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.spec import KeyType
from tests.inference.importers.tables.reading import read, read_source

LAYOUTS: dict[str, tuple[str, dict[Any, list[float]]]] = {
    "columns.csv": ("id,v0,v1\n1,2,3\n2,4.5,-1e-3\n", {1: [2, 3], 2: [4.5, -1e-3]}),
    "no_header.csv": ("1,2,3\n-2,4.5,5\n", {1: [2, 3], -2: [4.5, 5]}),
    "windows.csv": ("id,v0,v1\r\n1,2,3\r\n2,4,5\r\n", {1: [2, 3], 2: [4, 5]}),
    "bom.csv": ("\ufeffid,v0,v1\n1,2,3\n", {1: [2, 3]}),
    "no_end.csv": ("id,v0\n1,2\n2,3", {1: [2], 2: [3]}),
    "semicolons.csv": ("id;v1;v2\nx;1;2\ny;3;4\n", {"x": [1, 2], "y": [3, 4]}),
    "brackets.csv": ('id,emb\n1,"[1.0, 2.0]"\n2,"[3.0, 4.0]"\n', {1: [1, 2], 2: [3, 4]}),
    "numpys_own.csv": ('id,emb\n1,"[1.0  2.0]"\n2,"[ 3. 4. ]"\n', {1: [1, 2], 2: [3, 4]}),
    "commas.csv": ('id,emb\n1,"1,2"\n2,"3, 4"\n', {1: [1, 2], 2: [3, 4]}),
    "bars.tsv": ("id\temb\n1\t1|2\n2\t3|4\n", {1: [1, 2], 2: [3, 4]}),
    "titles.tsv": ("title\tid\temb\nToy Story\t1\t1,2\nX, Y\t2\t3,4\n", {1: [1, 2], 2: [3, 4]}),
    "sparrow.csv": ("858:0.1 0.2\n2:-0.3 0.4\n", {858: [0.1, 0.2], 2: [-0.3, 0.4]}),
    "word2vec.txt": ("2 2\nking 1 2\nqueen 3 4\n", {"king": [1, 2], "queen": [3, 4]}),
    "one_number.vec": ("2 1\nking 1\nqueen 3\n", {"king": [1], "queen": [3]}),
    "trailing.vec": ("2 2\nking 1 2 \nqueen 3 4 \n", {"king": [1, 2], "queen": [3, 4]}),
    "tabs.vec": ("2 2\nking\t1\t2\nqueen\t3\t4\n", {"king": [1, 2], "queen": [3, 4]}),
    "glove.txt": ('the 1 2\n, 3 4\n" 5 6\n12:30 7 8\n', {"the": [1, 2], ",": [3, 4], '"': [5, 6], "12:30": [7, 8]}),
    "spaced.txt": (
        "a 1 2\nb 3 4\nat b 5 6\n. . . 7 8\nc 9 1\n",
        {"a": [1, 2], "b": [3, 4], "at b": [5, 6], ". . .": [7, 8], "c": [9, 1]},
    ),
    "written_by_r.txt": ('"id" "v0" "v1"\n"a b" 1.5 2\n"c" "3" 4\n', {"a b": [1.5, 2], "c": [3, 4]}),
    "quoted_numbers.txt": ('"id" "v0"\n"7" "1.5"\n"9" "-2"\n', {7: [1.5], 9: [-2]}),
    "quotes.tsv": ('the\t1\t2\n"\t3\t4\n', {"the": [1, 2], '"': [3, 4]}),
    "quotes.vec": ('2 2\nthe\t1\t2\n"\t3\t4\n', {"the": [1, 2], '"': [3, 4]}),
    "pandas.csv": (",0,1\n7,1.5,2\n9,3,4\n", {7: [1.5, 2], 9: [3, 4]}),
    "pandas_named.csv": ("userId,0,1\n7,1.5,2\n9,3,4\n", {7: [1.5, 2], 9: [3, 4]}),
    "pandas_named_years.csv": ("user_id\t2019\t2020\n7\t1.5\t2\n9\t3\t4\n", {7: [1.5, 2], 9: [3, 4]}),
    "pandas_named_texts.csv": ("item_id;1;2\nB0X;1.5;2\nB1X;3;4\n", {"B0X": [1.5, 2], "B1X": [3, 4]}),
    "pandas_named_users.csv": ("userid,0,1,2\nu7,1.5,2,1\nu9,3,4,1\n", {"u7": [1.5, 2, 1], "u9": [3, 4, 1]}),
    "pandas_not_ascii.csv": ("番号,0,1\n7,1.5,2.5\n9,3,4\n", {7: [1.5, 2.5], 9: [3, 4]}),
    "words_like_ids.txt": ("android 0 1\nmonkey 1 0\n", {"android": [0, 1], "monkey": [1, 0]}),
    "words_like_keys.csv": ("hockey,1\ntennis,0\n", {"hockey": [1], "tennis": [0]}),
    "words_of_numbers.csv": ("the,0,0\n1999,3,4\n", {"the": [0, 0], "1999": [3, 4]}),
    "pandas_index.csv": (",itemId,0,1\n0,7,1.5,2\n1,9,3,4\n", {7: [1.5, 2], 9: [3, 4]}),
    "pandas_arrays.csv": (',id,emb\n0,7,"[ 1.   2.5\n  3.  ]"\n1,9,"[4. 5.\n 6.]"\n', {7: [1, 2.5, 3], 9: [4, 5, 6]}),
    "pandas_codes.csv": (',id,emb\n0,B0X,"[1.5, 2]"\n1,123456,"[3, 4]"\n', {"B0X": [1.5, 2], "123456": [3, 4]}),
    "mac.csv": ("id,v0,v1\r1,2,3\r2,4,5\r", {1: [2, 3], 2: [4, 5]}),
    "zeros.csv": ("id,v0,v1\n007,1,2\n7,3,4\n", {"007": [1, 2], "7": [3, 4]}),
    "large.csv": (f"id,v0,v1\n{2**64 - 1},1,2\n0,3,4\n", {2**64 - 1: [1, 2], 0: [3, 4]}),
}


def as_float32(rows: dict[Any, list[float]]) -> dict[Any, list[float]]:
    return {key: np.array(row, np.float32).tolist() for key, row in rows.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_found_out(tmp_path: Path, name: str) -> None:
    content, expected = LAYOUTS[name]
    (tmp_path / name).write_text(content, newline="")
    assert read(tmp_path / name) == as_float32(expected)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert format_of(str(tmp_path / f"{name}.gz")) == "text"
    assert read(tmp_path / f"{name}.gz") == as_float32(expected)


def test_options_go_before_what_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,recs\n1,2,x y\n3,4,z\n")
    assert read(path, id="b", value="recs") == {2: b"x y", 4: b"z"}
    assert read(path, id="a", vector=("b",), id_type="string") == {"1": [2], "3": [4]}
    assert read(path, header=False, id="2", value="0") == {"recs": b"a", "x y": b"1", "z": b"3"}
    path.write_text("x=1\ny=2\n")
    assert read(path, delimiter="=") == {"x": [1], "y": [2]}


def test_json_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('user,recs\nu1,"{""a"": [1, 2]}"\nu2,"[]"\n')
    assert read(path, value="recs") == {"u1": b'{"a": [1, 2]}', "u2": b"[]"}
    path.write_text('user,recs\nu1,"[1, 2]"\nu2,"[]"\n')
    with pytest.raises(InvalidInput, match=r"say which columns hold the rows.*recs \(texts, some of numbers\)"):
        read(path)


ROWS = "".join(f"{key},{key},1\n" for key in range(50))
"""More than a layout is found out of."""


NO_NUMBERS = ("", "-", "?", "NA", "n/a", "#N/A", "null", "None", "\\N", "<NA>")
"""What is written for a number that is missing: in the first line it is no name of a column."""


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        (f"id,v0,v1\n{ROWS}99,1\n", {}, "line 52: Expected 3 columns, got 2"),
        (f"id,v0,v1\n{ROWS}99,1,x\n", {}, "line 52: .* invalid value 'x'"),
        (f"id,v0,v1\n{ROWS}99,1,\n", {}, "line 52: .* invalid value ''"),
        (f"id,v0,v1\n{ROWS}99,1,NaN\n", {}, "line 52: number 1 of the vector of key 99 is nan"),
        (f"id,v0,v1\n{ROWS}99,1,1e60\n", {}, "line 52: number 1 of the vector of key 99 is inf"),
        (f"id,v0,v1\n{ROWS}abc,1,2\n", {}, "line 52: the key 'abc' is no integer .* say so with id_type"),
        (f"id,v0,v1\n{ROWS}099,1,2\n", {}, "line 52: the key '099' is no integer"),
        (f"id,v0,v1\n{ROWS}{2**64},1,2\n", {}, "line 52: the key '18446744073709551616' is no integer of 64 bits"),
        (f"id,v0,v1\n{ROWS},1,2\n", {"id_type": "string"}, "line 52: the key is empty"),
        ("id,v0,v1\n1,2,3\n2,4\n", {}, "line 3: Expected 3 columns, got 2"),
        ('id,v\n1,"1 2"\n2,"3"\n', {"vector": ("v",)}, "line 3: .* has 1 numbers; the first one has 2"),
        ('id,v\n1,"1 2"\n2,"3 x"\n', {"vector": ("v",)}, "line 3: .* is '3 x', which is not of numbers"),
        ('id,v\n1,"1 2"\n2,""\n', {"vector": ("v",)}, "line 3: .* is '', which is not of numbers"),
        ("id,a,b\nx,1,2\n", {"vector": ("id", "a"), "id": "b"}, "column id has 'x', which is no number"),
        ("id,v0,v1,year\n1,2,3,1999\n", {}, "say which columns hold the rows"),
        ("id,history\n1,2|5|8\n2,3|4|5\n", {}, "column history has lists of integers, such as '2.5.8'; say what"),
        ("id;score\n1;0,5\n2;0,25\n", {}, "column score has lists of integers, such as '0,5'; say what"),
        *((f"5,{no},3\n6,0.5,0.25\n7,0.1,0.2\n", {}, "say which columns .* columns are 0") for no in NO_NUMBERS),
        ("id,age,zip\n1,2,3\n", {}, "say which columns hold the rows"),
        ("1.0,2,3\n2.0,4,5\n", {}, "keys .column 0. are numbers but no plain integers, such as '1.0'"),
        ("id,v\n1.0,2\n", {"id": "id"}, "keys .column id. are numbers but no plain integers"),
        ("1 1:0.5 3:2\n0 2:1.5 3:1\n", {}, "keys .column 0. are numbers but no plain integers, such as '1 1'"),
        ("i2vEmb:1:0.1 0.2\ni2vEmb:2:0.1 0.2\n", {}, "say which columns hold keys and rows.* no header"),
        ('{"id": 1, "v": [1, 2]}\n{"id": 2, "v": [3, 4]}\n', {}, "say which columns hold keys and rows.* no header"),
        ("a 1 2\nb 3 4\nc d e 3\n", {}, "word with blanks, number 1: 'c d e 3' is no word and 2 numbers"),
        ("a 1 2\nb 3 4\nc 5 6 7\n", {}, "word with blanks, number 1: 'c 5 6 7' is no word and 2 numbers"),
        ("id,id\n1,2\n", {}, "two columns of the name 'id'"),
        ("word\nother\n", {}, "no columns can be seen"),
        ("id,v\n", {"header": True}, "has no rows"),
        ("", {}, "its files are empty"),
        (f"id,v\nx,{'2' * (2 << 20)}\n", {"value": "v"}, "line 2: the row of key 'x' has 2097152 bytes"),
    ],
)
def test_what_no_table_can_hold_is_named_by_its_line(
    tmp_path: Path, content: str, options: dict[str, Any], why: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InvalidInput, match=why):
        read(tmp_path / "t.csv", **options)


def test_a_line_is_at_most_a_few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 1 << 17)
    (tmp_path / "t.csv").write_text(f"id,v\n1,2\n3,{'2' * (1 << 20)}\n2,3\n")
    with pytest.raises(InvalidInput, match=r"t\.csv: a line is longer than 131,072 bytes"):
        read(tmp_path / "t.csv", value="v")
    (tmp_path / "t.csv").write_text(f"id,{'v' * (1 << 20)}\n1,2\n")
    with pytest.raises(InvalidInput, match=r"its first line is longer than 131,072 bytes"):
        read(tmp_path / "t.csv", value="v")


def test_a_negative_key_and_its_like_of_64_bits_are_both_taken_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"id,v\n-2,1\n{2**64 - 1},2\n3,3\n")
    source = open_source(tmp_path / "t.csv")
    assert source.key_type is KeyType.UINT64
    assert read_source(source) == {2**64 - 2: [1], 2**64 - 1: [2], 3: [3]}


def test_damage_of_compressed_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"id,v\n" + b"".join(b"%d,1\n" % key for key in range(20_000)))[:-20])
    with pytest.raises(CorruptData, match="Truncated compressed stream"):
        read(path)
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xff\xfei\0d\0")
    with pytest.raises(InvalidInput, match="is no UTF-8 text"):
        read(path)


def test_the_counts_of_word2vec_are_held_against_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for claimed in (1, 3, 10**12):
        path.write_text(f"{claimed} 2\nking 1 2\nqueen 3 4\n")
        with pytest.raises(CorruptData, match=f"the first line says {claimed:,} rows; it has 2"):
            read(path)


def test_part_files_with_a_header_each_and_reading_from_any_row_on(tmp_path: Path) -> None:
    for part in range(3):
        (tmp_path / f"part-{part}.csv").write_text("id,v\n" + "".join(f"{part * 5 + i},{i}\n" for i in range(5)))
    everything = read(tmp_path)
    assert list(everything) == list(range(15))
    for start in (0, 3, 5, 14, 15):
        assert list(read_source(open_source(tmp_path), start)) == list(range(start, 15))
    shares = [piece.share for piece in open_source(tmp_path).pieces()]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    (tmp_path / "part-1.csv").write_text("v,id\n1,2\n")
    with pytest.raises(InvalidInput, match=r"its first line is not that of part-0\.csv"):
        read(tmp_path)


def test_a_folder_of_data_and_what_describes_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Data\n\nwhat it is\n")
    (tmp_path / "rows.csv").write_text("id,v\n1,2\n")
    with pytest.raises(InvalidInput, match=r"several kinds: README\.md, rows\.csv; name the one that is the table"):
        open_source(tmp_path)
    assert read(tmp_path / "*.csv") == {1: [2]}


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_word2vecs_binary(tmp_path: Path, end: bytes) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype("<f4")
    rows[1] = np.frombuffer(b" \n  \n\n 123 \n", "<f4", 3)  # which look like words
    words = ["king", "</s>", "zürich", "a\tb", "x"]
    body = b"".join(word.encode() + b" " + row.tobytes() + end for word, row in zip(words, rows, strict=True))
    path = tmp_path / "GoogleNews.bin"
    path.write_bytes(b"5 3\n" + body)
    assert format_of(str(path)) == "word2vec"
    assert read(path) == dict(zip(words, rows.tolist(), strict=True))
    assert list(read_source(open_source(path), 2)) == words[2:]
    path.write_bytes(b"1000000000000 3\n" + body)
    with pytest.raises(CorruptData, match=r"says 1,000,000,000,000 rows of 3 numbers; it has .* and is truncated"):
        read(path)
    path.write_bytes(b"5 3\n" + body[:-2])
    with pytest.raises(CorruptData, match="truncated"):
        read(path, format="word2vec")
    path.write_bytes(b"5 3\n" + body + b"more")
    with pytest.raises(CorruptData, match="goes on behind the 5 rows"):
        read(path)
    path.write_bytes(b"5 99999999\n" + body)
    with pytest.raises(CorruptData, match="no table has that"):
        read(path, format="word2vec")
    path.write_bytes(b"3 3\n" + b"w" * 100_000)
    with pytest.raises(CorruptData, match="there is no word"):
        read(path, format="word2vec")


def test_what_looks_like_nothing_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\0\1\2")
    with pytest.raises(InvalidInput, match="say what it is with format, one of parquet"):
        open_source(tmp_path / "t", ReadOptions())


@pytest.mark.parametrize(
    "shown",
    [
        '"[0.5 1. ... 2. 3.]"',
        '"[np.float32(0.5), np.float32(1.0)]"',
        '"array([0.5, 1.0], dtype=float32)"',
        "\"tensor([0.5, 1.0], device='cuda:0')\"",
    ],
)
def test_vectors_as_python_shows_them_are_no_rows_of_bytes(tmp_path: Path, shown: str) -> None:
    """They may be shortened, and nobody would see it before the first look-up."""
    file = tmp_path / "t.csv"
    file.write_text(f"id,v\n1,{shown}\n2,{shown}\n")
    with pytest.raises(InvalidInput, match=r"as Python shows arrays.* array.tolist\(\)"):
        read(file)
    assert read(file, value="v") == {1: shown.strip('"').encode(), 2: shown.strip('"').encode()}


def test_digits_of_other_scripts_are_signs_of_words(tmp_path: Path) -> None:
    """Arrow reads none as a number."""
    file = tmp_path / "t.csv"
    file.write_text("id,v0\n1٣,1.5\n2٣,2.5\n", encoding="utf-8")
    assert read(file) == {"1٣": [1.5], "2٣": [2.5]}
    file.write_text('id,v\n1,"[٣, 2]"\n2,"[٤, 2]"\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="v "):
        read(file, vector=("v",))


@pytest.mark.parametrize("codec", ["gzip", "bz2", "zstd"])
@pytest.mark.parametrize("name", ["t.csv.{}", "t"])
def test_compressed_texts(tmp_path: Path, codec: str, name: str) -> None:
    """What compressed a file is seen in its first bytes, whatever it is called."""
    text = b"id,v0\n1,2.5\n2,3\n"
    content = bz2.compress(text) if codec == "bz2" else pa.compress(text, codec, asbytes=True)
    file = tmp_path / name.format({"gzip": "gz", "bz2": "bz2", "zstd": "zst"}[codec])
    with pa.CompressedOutputStream(str(file), codec) if codec == "gzip" else file.open("wb") as opened:
        opened.write(text if codec == "gzip" else content)
    assert read(file) == {1: [2.5], 2: [3]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ARROW1\x00\x00", "write it as Parquet"),
        (b"ORC\x00", "ORC: write it as Parquet"),
        (b"\x89HDF\r\n", "HDF5: save each matrix"),
        (b"\x80\x04\x95", "a pickle, which may run code"),
        (b'{"id": 1, "v": [0.5]}\n{"id": 2, "v": [1.5]}\n', "JSON; write it as Parquet"),
        (b'[\n  {"id": 1, "v": [0.5]}]', "JSON; write it as Parquet"),
    ],
)
def test_other_formats_are_called_by_their_names(tmp_path: Path, content: bytes, words: str) -> None:
    """With what to do."""
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        read(tmp_path / "t")
