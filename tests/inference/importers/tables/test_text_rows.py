"""Rows by kernels: the same as Arrow's of every layout, wherever blocks end, and the same errors in the same lines."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ringpull.inference.importers.tables import text_blocks, text_rows
from ringpull.inference.importers.tables.columns import Chosen, Column, Kind
from ringpull.inference.importers.tables.text_blocks import Block
from ringpull.inference.importers.tables.text_layout import TextLayout
from ringpull.inference.importers.tables.text_rows import RowParser
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import KeyType
from tests.inference.importers.tables.reading import read
from tests.inference.importers.tables.test_text import LAYOUTS, as_float32

pytestmark = pytest.mark.medium  # the kernels are compiled


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Blocks of some bytes, all by kernels; what is returned says of each block whether kernels read it."""
    monkeypatch.setattr(text_rows, "SMALL_BYTES", 0)
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 64)
    taken: list[bool] = []
    whole = RowParser.rows

    def rows(self: RowParser, block: Block) -> Any:
        found = whole(self, block)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(RowParser, "rows", rows)
    return taken


def test_every_layout_in_small_blocks(tmp_path: Path, small_blocks: list[bool]) -> None:
    by_arrow = {"spaced.txt", "mac.csv"}
    for name, (content, expected) in LAYOUTS.items():
        (tmp_path / name).write_text(content, newline="")
        assert read(tmp_path / name) == as_float32(expected), name
        assert all(small_blocks) is (name not in by_arrow), name
        small_blocks.clear()


def test_line_ends_in_quotes_where_blocks_end(tmp_path: Path, small_blocks: list[bool]) -> None:
    keys = [f"a{key}" for key in range(40)]
    ends = ["\n", "\r\n", "\r\n"]
    lines = "".join(f'{key},"[ {place}.5\n  2e0]"' + ends[place % 3] for place, key in enumerate(keys))
    (tmp_path / "t.csv").write_text("id,emb\n" + lines, newline="")
    assert read(tmp_path / "t.csv") == {key: [place + 0.5, 2] for place, key in enumerate(keys)}
    assert len(small_blocks) > 10
    assert all(small_blocks)


ROWS = "".join(f"{key},{key},1\n" for key in range(50))


@pytest.mark.parametrize(
    ("line", "options", "why"),
    [
        ("99,1", {}, "line 52: Expected 3 columns, got 2"),
        ("99,1,2,3", {}, "line 52: Expected 3 columns, got 4"),
        ("99,1,x", {}, "line 52: .* invalid value 'x'"),
        ("99,1,", {}, "line 52: .* invalid value ''"),
        ("99,1,1e", {}, "line 52: .* invalid value '1e'"),
        ("99,1,NaN", {}, "line 52: number 1 of the vector of key 99 is nan"),
        ("99,1,1e60", {}, "line 52: number 1 of the vector of key 99 is inf"),
        ("abc,1,2", {}, "line 52: the key 'abc' is no integer"),
        ("+7,1,2", {}, "line 52: the key .\\+7. is no integer"),
        (f"{2**64},1,2", {}, "line 52: the key '18446744073709551616' is no integer of 64 bits"),
        (",1,2", {"id_type": "string"}, "line 52: the key is empty"),
        ('"a,1,2', {"id_type": "string"}, "line 52: Expected 3 columns, got 1"),
    ],
)
def test_errors_name_their_line_in_whichever_block(
    tmp_path: Path, small_blocks: list[bool], line: str, options: dict[str, Any], why: str
) -> None:
    (tmp_path / "t.csv").write_text(f"id,v0,v1\n{ROWS}{line}\n100,1,2\n")
    with pytest.raises(InvalidInput, match=why):
        read(tmp_path / "t.csv", **options)
    assert small_blocks[0]


def numbers() -> list[str]:
    """Numbers as people write them, and those that are hardest to round."""
    rng = np.random.default_rng(0)
    some = rng.standard_normal(500) * 10.0 ** rng.integers(-44, 38, 500)
    forms = (repr, "{:.5f}".format, "{:.9e}".format, "{:.25f}".format)
    texts = [form(each) for each in some.tolist() for form in forms]
    texts += [str(each) for each in some.astype(np.float32)]
    for bits in rng.integers(1, 0x7F7FFFFF, 300).tolist():
        low, high = (struct.unpack("<f", struct.pack("<I", bits + more))[0] for more in (0, 1))
        half = (low + high) / 2  # exact in float64
        near = [half, float(np.nextafter(half, 0)), float(np.nextafter(half, 1e39))]
        texts += [f"{half:.30e}", *map(repr, near)]
    texts += ["0", "-0", "+1", "1.", ".5", "-.5", "00.5", "16777217", "9007199254740993", "1e5", "1E-3", "1e+5"]
    return [*texts, "1e-60", "0e999", "3.4028235e38", "1.17549e-38"]


def test_numbers_are_rounded_as_arrow_rounds_them() -> None:
    texts = [text for text in numbers() if abs(float(text)) < 3.5e38]
    columns = (Column("id", Kind.INTEGER, ""), Column("v", Kind.NUMBER, ""))
    layout = TextLayout(
        delimiter=",",
        quoted=True,
        skip_lines=0,
        first_line="",
        columns=columns,
        trailing=False,
        counts=None,
        line_ends=False,
        sample=(),
    )
    parser = RowParser(layout, Chosen(id="id", vector=("v",)), 1, KeyType.INT64)
    data = "".join(f"{key}, {text} \n" for key, text in enumerate(texts)).encode()
    text_rows_found = parser.rows(Block(np.frombuffer(data.ljust(text_rows.SMALL_BYTES + 1, b"\n"), np.uint8), 0))
    assert text_rows_found is not None
    keys, rows = text_rows_found
    np.testing.assert_array_equal(keys, np.arange(len(texts)))
    expected = pa.array(texts).cast(pa.float32()).to_numpy()
    np.testing.assert_array_equal(rows[:, 0].view(np.uint32), expected.view(np.uint32))
