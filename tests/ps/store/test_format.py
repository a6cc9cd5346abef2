"""Golden bytes of every file of a table: a change here is a new format version and a line in the CHANGELOG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import KeyType, RowType, TableSpec
from ringpull.ps.store.base import Base
from ringpull.ps.store.format import Header
from ringpull.ps.store.writer import TableWriter

GOLDEN = {
    "header": (
        "52504c5441424c4501000000fa000000829fabff4c3e962b85a47370656387a46e616d65a6676f6c64656ea364696d02"
        "a8726f775f74797065a7666c6f61743332a86b65795f74797065a675696e743634a764656661756c7492cb3fe0000000"
        "000000cbbff0000000000000a87265706c69636173a3616c6cae6f6e5f756e617661696c61626c65a56572726f72a472"
        "6f777303aa696e6465785f6269747301a468656c64919200ce00010000a873656374696f6e7385a5696e646578920ccf"
        "ae2c8603990315bda9706f736974696f6e739218cf5b7d67c033d77c4aa4726f77739218c0a6626c6f636b739210cfe3"
        "a8e5ff32f5c361af706f736974696f6e5f626c6f636b739210cfd6e388b69dd6f723"
    ),
    "index": ("000000000100000003000000"),
    "positions": ("e7830665202abf3a93a431af1008788f2ccbc234fcbc56b4"),
    "rows": ("00004040000080400000a0400000c0400000803f00000040"),
    "blocks": ("00000000000000008c85f86abf88d886"),
    "position_blocks": ("e7830665202abf3a4a7cd733c0677d5b"),
}

HEADER_WITHOUT_POSITION_BLOCKS = (
    "52504c5441424c4501000000df000000a2976edc124a1ae885a47370656387a46e616d65a6676f6c64656ea364696d02"
    "a8726f775f74797065a7666c6f61743332a86b65795f74797065a675696e743634a764656661756c7492cb3fe0000000"
    "000000cbbff0000000000000a87265706c69636173a3616c6cae6f6e5f756e617661696c61626c65a56572726f72a472"
    "6f777303aa696e6465785f6269747301a468656c64919200ce00010000a873656374696f6e7384a5696e646578920ccf"
    "ae2c8603990315bda9706f736974696f6e739218cf5b7d67c033d77c4aa4726f77739218c0a6626c6f636b739210cfe3"
    "a8e5ff32f5c361"
)
"""As earlier builds wrote it, of the same rows."""


SHORT_ROWS = {
    RowType.FLOAT16: "00470047004700bc0000003c004200448045",
    RowType.BFLOAT16: "e040e040e04080bf0000803f40408040b040",
    RowType.INT8: (
        "000000000000e04000000000"  # scale 0, offset 7, codes 0, one byte of padding
        "8180003c000080bf007fff00"  # scale 2/255, offset -1, codes 0, 127, 255
        "a1a0203c000040400066ff00"
    ),
}
"""The file `rows` of the rows [3, 4, 5.5], [-1, 0, 1], [7, 7, 7], which the ring brings in the opposite order."""


def test_the_files_of_a_small_table(tmp_path: Path) -> None:
    spec = TableSpec(name="golden", dim=2, key_type=KeyType.UINT64, default=(0.5, -1.0), replicas="all")
    with TableWriter(tmp_path / "golden", spec) as writer:
        writer.add(np.array([1, 2, 2**63], np.uint64), np.array([[1, 2], [3, 4], [5, 6]], np.float32))
        writer.finish()
    written = {path.name: path.read_bytes().hex() for path in (tmp_path / "golden").iterdir()}
    assert written == GOLDEN


def test_the_golden_bytes_are_readable(tmp_path: Path) -> None:
    for name, content in GOLDEN.items():
        (tmp_path / name).write_bytes(bytes.fromhex(content))
    base = Base.open(tmp_path, verify_rows=True)
    assert base.spec.name == "golden"
    assert [base.row(number).tolist() for number in range(3)] == [[3, 4], [5, 6], [1, 2]]


def test_what_earlier_builds_wrote_is_readable(tmp_path: Path) -> None:
    before = {**GOLDEN, "header": HEADER_WITHOUT_POSITION_BLOCKS}
    del before["position_blocks"]
    for name, content in before.items():
        (tmp_path / name).write_bytes(bytes.fromhex(content))
    base = Base.open(tmp_path, verify_rows=True)
    assert [base.row(number).tolist() for number in range(3)] == [[3, 4], [5, 6], [1, 2]]


@pytest.mark.parametrize("row_type", list(SHORT_ROWS))
def test_the_rows_of_short_types(tmp_path: Path, row_type: RowType) -> None:
    """Such a table has format version 2: what reads version 1 only must refuse it, and says so."""
    with TableWriter(tmp_path / "t", TableSpec(name="t", dim=3, row_type=row_type)) as writer:
        writer.add([1, 2, 3], np.array([[3, 4, 5.5], [-1, 0, 1], [7, 7, 7]], np.float32))
        writer.finish()
    assert (tmp_path / "t" / "rows").read_bytes().hex() == SHORT_ROWS[row_type]
    header = (tmp_path / "t" / "header").read_bytes()
    assert header[8:12] == bytes([2, 0, 0, 0])
    with pytest.raises(CorruptData, match=f"format version 1 has no rows of type {row_type.value}"):
        Header.from_bytes(header[:8] + bytes([1]) + header[9:], tmp_path / "t" / "header")
