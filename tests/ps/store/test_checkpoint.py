"""A table that another writer goes on with, from a checkpoint, is the table that one writer writes; string keys as
UTF-8 end to end are the strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import CorruptData, DuplicateKey, InvalidInput
from ringpull.ps.spec import KeyType, RowType, TableSpec
from ringpull.ps.store.checkpoint import Checkpoint
from ringpull.ps.store.writer import TableWriter

KEYS = np.random.default_rng(0).permutation(500)
ROWS = np.random.default_rng(1).standard_normal((500, 3)).astype(np.float32)
SPECS = {
    "vectors": TableSpec(name="t", dim=3),
    "strings": TableSpec(name="t", dim=3, key_type=KeyType.STRING, row_type=RowType.INT8),
    "bytes": TableSpec(name="t", dim=0, row_type=RowType.BYTES, key_type=KeyType.STRING),
}


def add(writer: TableWriter, kind: str, begin: int, end: int) -> None:
    keys = KEYS[begin:end]
    texts = BytesRows.of([b"key %d" % key for key in keys])
    if kind == "bytes":
        writer.add_bytes(texts, BytesRows.of([b"row %d" % key * (key % 5) for key in keys]))
    else:
        writer.add(texts if kind == "strings" else keys, ROWS[begin:end])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("buffer_bytes", [300, 1 << 20])
def test_writers_one_after_the_other_write_what_one_writes(tmp_path: Path, kind: str, buffer_bytes: int) -> None:
    arguments: dict[str, Any] = {"default": None if kind == "bytes" else "mean", "buffer_bytes": buffer_bytes}
    with TableWriter(tmp_path / "one", SPECS[kind], **arguments) as writer:
        add(writer, kind, 0, 500)
        writer.finish()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    state = None
    for begin, end, lost in ((0, 120, 40), (120, 121, 300), (121, 350, 0)):
        with TableWriter(tmp_path / "t", SPECS[kind], scratch=scratch, resumed=state, **arguments) as writer:
            add(writer, kind, begin, end)
            state = Checkpoint.from_dict(json.loads(json.dumps(writer.checkpoint().to_dict())))
            add(writer, kind, end, end + lost)  # which nobody wrote down
        assert state.rows == end
    with TableWriter(tmp_path / "t", SPECS[kind], scratch=scratch, resumed=state, **arguments) as writer:
        add(writer, kind, 350, 500)
        assert writer.finish().rows == 500
    one, several = content(tmp_path / "one"), content(tmp_path / "t")
    assert one.keys() == several.keys()
    if kind == "bytes":
        assert one == several
    else:  # but for the last bits of the mean, which is summed in other pieces
        assert {name for name in one if one[name] != several[name]} <= {"header"}
    assert scratch.exists()


def test_a_duplicate_across_writers_is_named(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with TableWriter(tmp_path / "t", SPECS["strings"], scratch=scratch) as writer:
        add(writer, "strings", 0, 100)
        state = writer.checkpoint()
    with TableWriter(tmp_path / "t", SPECS["strings"], scratch=scratch, resumed=state) as writer:
        add(writer, "strings", 99, 101)
        with pytest.raises(DuplicateKey, match=f"key 'key {KEYS[99]}' was given more than once") as error:
            writer.finish()
    assert error.value.key is not None


@pytest.mark.parametrize("name", ["positions", "rows", "texts", "text_positions", "heap"])
def test_files_shorter_than_a_checkpoint_says_are_refused(tmp_path: Path, name: str) -> None:
    with TableWriter(tmp_path / "t", SPECS["bytes"], scratch=tmp_path) as writer:
        add(writer, "bytes", 0, 100)
        state = writer.checkpoint()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptData, match=f"{name}: has fewer bytes than at its checkpoint"):
        TableWriter(tmp_path / "t", SPECS["bytes"], scratch=tmp_path, resumed=state)


@pytest.mark.parametrize(
    "fields",
    [{}, {"run_ends": [], "texts_bytes": 0, "heap_bytes": 0, "sum": None}]
    + [{"run_ends": ends, "texts_bytes": 0, "heap_bytes": 0, "sum": None} for ends in ([1], [0, 5, 3], ["a"], 7)],
    ids=range(6),
)
def test_what_is_no_checkpoint_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptData, match="checkpoint of a table"):
        Checkpoint.from_dict(fields)


def test_texts_are_no_integers(tmp_path: Path) -> None:
    with (
        TableWriter(tmp_path / "t", SPECS["vectors"]) as writer,
        pytest.raises(InvalidInput, match="keys are BytesRows; they must be integers"),
    ):
        writer.add(BytesRows.of([b"a"]), ROWS[:1])
