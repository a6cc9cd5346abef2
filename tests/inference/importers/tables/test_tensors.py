"""Safetensors and files of torch.save: the rows that are in them, by numpy and torch; hostile files are refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ringpull.inference.importers.tables.tensors
import ringpull.inference.importers.tables.torch_file
from ringpull.inference.importers.tables.formats import open_source
from ringpull.inference.importers.tables.ids_file import read_ids_file
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.ps.errors import CorruptData, DuplicateKey, InvalidInput, RingpullError
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import RowType
from ringpull.ps.store.base import Base
from tests.inference.importers.tables.reading import read
from tests.inference.importers.tables.whole_reading import rows_of, table_of

ROWS = torch.arange(60, dtype=torch.float32).reshape(20, 3) / 8
IDS = torch.arange(20) * 7 - 3
SAVERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    ".safetensors": lambda tensors, file: save_file(tensors, file),
    ".pt": lambda tensors, file: torch.save(tensors, file),
}


@pytest.fixture(params=SAVERS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def saved(tensors: dict[str, Any]) -> Path:
        file = tmp_path / f"model{request.param}"
        SAVERS[request.param](tensors, file)
        return file

    return saved


def by_number(rows: torch.Tensor) -> dict[int, list[float]]:
    return dict(enumerate(rows.float().tolist()))


def refused(kind: type[RingpullError], *words: str, where: Path, **options: Any) -> None:
    before = sorted(where.parent.rglob("*"))
    with pytest.raises(kind) as error:
        table_of(where, **options)
    assert all(word in str(error.value) for word in (where.name, *words)), error.value
    assert sorted(where.parent.rglob("*")) == before


def test_the_only_table_is_taken_and_keyed_by_row_number(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save({"item": ROWS, "bias": torch.zeros(20), "count": torch.zeros(20, 3, dtype=torch.int64)})
    assert table_of(file) == by_number(ROWS)
    monkeypatch.setattr(ringpull.inference.importers.tables.tensors, "PIECE_BYTES", 48)
    assert table_of(file) == by_number(ROWS), "in pieces of 4 rows"
    source = open_source(file)
    assert rows_of(source, 7) == {key: row for key, row in by_number(ROWS).items() if key >= 7}
    assert "item float32 [20, 3]" in source.described
    assert source.fingerprint is not None


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_read_exactly(save: Any, kind: torch.dtype) -> None:
    rows = (torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 100).to(kind)
    file = save({"item": rows})
    assert table_of(file) == by_number(rows)
    assert open_source(file).row_type == {torch.float16: RowType.FLOAT16, torch.bfloat16: RowType.BFLOAT16}.get(
        kind, RowType.FLOAT32
    )


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8, torch.uint64])
def test_ids_are_another_tensor(save: Any, kind: torch.dtype) -> None:
    ids = torch.arange(20).to(kind) if kind is torch.uint8 else (torch.arange(20) * 9).to(kind)
    file = save({"item": ROWS, "ids": ids, "column": ids.reshape(20, 1).clone()})
    expected = dict(zip(ids.tolist(), ROWS.tolist(), strict=True))
    assert table_of(file, id="ids") == expected
    assert table_of(file, id="column") == expected
    refused(InvalidInput, "item float32", "no integers", where=file, id="item")
    refused(InvalidInput, "'idd'", "ids", where=file, id="idd")


@pytest.mark.parametrize("ids", [IDS.tolist(), [f"käse {n}" for n in range(20)], [2**63 + n for n in range(20)]])
def test_ids_are_the_lines_of_a_file_or_an_array(save: Any, tmp_path: Path, ids: list[Any]) -> None:
    file = save({"item": ROWS})
    lines, array = tmp_path / "ids.txt", tmp_path / "ids.npy"
    lines.write_text("".join(f"{each}\n" for each in ids), encoding="utf-8")
    np.save(array, np.array(ids))
    for given in (lines, array):
        assert table_of(file, ids=str(given)) == dict(zip(ids, ROWS.tolist(), strict=True))
    lines.write_text("a\n\nb\n")
    with pytest.raises(InvalidInput, match=r"ids\.txt: line 2 is empty"):
        table_of(file, ids=str(lines))
    lines.write_text("1\n2\n")
    refused(InvalidInput, "[2]", "[20, 3]", "one id a row", where=file, ids=str(lines))
    np.save(array, np.array([Evil(tmp_path / "mark")], object), allow_pickle=True)
    with pytest.raises(CorruptData, match=r"ids\.npy"):
        table_of(file, ids=str(array))


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("\ufeff1\n2\n", [1, 2]),
        ("1\r\n2\r\n", [1, 2]),
        ("007\n7\n", ["007", "7"]),
        ("\u0661\n2\n", ["\u0661", "2"]),
        ("a\u2028b\nc\x0bd\n", ["a\u2028b", "c\x0bd"]),
    ],
)
def test_ids_of_lines_are_the_lines_as_they_are(tmp_path: Path, content: str, ids: list[Any]) -> None:
    (tmp_path / "ids.txt").write_bytes(content.encode())
    assert read_ids_file(str(tmp_path / "ids.txt")).tolist() == ids


def test_what_could_be_several_is_listed(save: Any) -> None:
    file = save({"user": ROWS, "item": ROWS[:5].clone()})
    refused(InvalidInput, "several", "user float32 [20, 3]", "item float32 [5, 3]", where=file)
    assert table_of(file, vector=("item",)) == by_number(ROWS[:5])
    refused(InvalidInput, "'itme'", "item float32", where=file, vector=("itme",))
    refused(InvalidInput, "user, item", where=file, vector=("user", "item"))
    refused(InvalidInput, "no texts", where=file, value="item")
    empty = save({"bias": torch.zeros(3)})
    refused(InvalidInput, "no tensor", "bias float32 [3]", where=empty)
    refused(InvalidInput, "must be floats (rows, dim)", where=empty, vector=("bias",))


def test_a_number_beyond_float32_is_refused(save: Any) -> None:
    refused(
        InvalidInput,
        "beyond float32",
        "row 0 to 1",
        where=save({"item": torch.tensor([[1e300], [1.0]], dtype=torch.float64)}),
    )


def test_a_truncated_file_is_refused(save: Any) -> None:
    file = save({"item": ROWS})
    content = file.read_bytes()
    for length in (0, 5, 8, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises((CorruptData, InvalidInput), match=file.name):
            table_of(file, format="torch" if file.suffix == ".pt" else "safetensors")


def test_several_files_of_safetensors_and_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"user": ROWS}, folder / "model-1.safetensors")
    save_file({"item": ROWS[:5].clone()}, folder / "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"user": "model-1.safetensors", "item": "model-2.safetensors"}}))
    for where in (folder, index, folder / "*.safetensors"):
        assert table_of(where, vector=("item",)) == by_number(ROWS[:5])
    for bad in ("../model-1.safetensors", "/model-1.safetensors", "ids.txt", "model-3.safetensors"):
        index.write_text(json.dumps({"weight_map": {"item": bad}}))
        with pytest.raises((CorruptData, InvalidInput), match="model"):
            table_of(index)
    save_file({"user": ROWS}, folder / "model-3.safetensors")
    refused(InvalidInput, "user", "model-1", "model-3", where=folder)


def header(entry: Any, size: int = 60) -> bytes:
    text = json.dumps({"item": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        header({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 60]}),
        header({"dtype": "F32", "shape": [5, 3], "data_offsets": [0, 64]}),
        header({"dtype": "F32", "shape": [5, 4], "data_offsets": [0, 60]}),
        header({"dtype": "F32", "shape": [-5, -3], "data_offsets": [0, 60]}),
        header({"dtype": "F32", "shape": [5.0, 3], "data_offsets": [0, 60]}),
        header({"dtype": "F32", "shape": [5, 3], "data_offsets": [60, 0]}),
        header({"dtype": "F32", "shape": "53", "data_offsets": [0, 60]}),
        header({"dtype": 4, "shape": [5, 3], "data_offsets": [0, 60]}),
        header({"dtype": "F32", "shape": [5, 3]}),
        header([]),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    refused(CorruptData, where=file)


def test_a_type_that_is_not_read_is_said(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(header({"dtype": "F8_E4M3", "shape": [20, 3], "data_offsets": [0, 60]}))
    refused(InvalidInput, "item F8_E4M3 [20, 3]", where=file)


def test_tensors_of_a_state_dict_in_dictionaries(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    module = torch.nn.Sequential(torch.nn.Embedding(6, 2), torch.nn.Linear(2, 1))
    state = {"model": module.state_dict(), "epoch": 3, "rate": 0.1, "name": "m", "list": [1, None], "step": {7: ROWS}}
    torch.save(state, file)
    assert table_of(file, vector=("model.0.weight",)) == by_number(module[0].weight.detach())
    assert table_of(file, vector=("step.7",)) == by_number(ROWS)
    torch.save(torch.nn.Parameter(ROWS), file)
    assert table_of(file) == by_number(ROWS)


def test_views_are_read_as_torch_does(tmp_path: Path) -> None:
    file = tmp_path / "views.pt"
    whole = torch.arange(24, dtype=torch.float32)
    views = {"back": whole[4:].reshape(10, 2), "across": whole.reshape(4, 6).T, "some": whole.reshape(6, 4)[::2, 1:3]}
    torch.save(views, file)
    for name, view in views.items():
        assert table_of(file, vector=(name,)) == by_number(view)
    torch.save({"spread": torch.zeros(1, 1).expand(1 << 40, 8)}, file)
    refused(CorruptData, "spread", "contiguous()", where=file)


class Evil:
    """What would leave a file behind if its pickle were done."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pt", tmp_path / "mark"
    torch.save({"item": ROWS, "more": Evil(mark)}, file)
    refused(CorruptData, "evil.pt: evil/data.pkl", "mkdir", "nothing of it was run", "state_dict()", where=file)
    assert not mark.exists()
    file.write_bytes(pickle.dumps(Evil(mark)))
    refused(CorruptData, "weights_only=True", where=file)
    assert not mark.exists()
    torch.save(torch.nn.Linear(2, 2), file)
    refused(CorruptData, "torch.nn.modules.linear.Linear", "state_dict()", where=file)


def torch_archive(file: Path, pickled: bytes, storages: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        for name, content in storages.items():
            archive.writestr(f"m/data/{name}", content)


def described(shape: bytes, *, first: bytes = b"K\x00", strides: bytes = b"K\x03K\x01\x86", key: bytes = b"0") -> bytes:
    """Return the pickle of {"w": a float32 tensor in the storage "0"}."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + key + b"X\x03\0\0\0cpuK\x0ctQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + first + shape + strides + b"\x89}tR"
    return b"\x80\x02}X\x01\0\0\0w" + call + b"s."


def test_hostile_descriptions_of_tensors_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.pt"
    right = b"K\x04K\x03\x86"
    torch_archive(file, described(right), {"0": ROWS[:4].numpy().tobytes()})
    assert table_of(file) == by_number(ROWS[:4])
    huge = b"\x8a\x05\0\0\0\0\x01K\x03\x86"
    negative = b"J\xff\xff\xff\xffK\x03\x86"
    for pickled in (
        described(huge),
        described(negative),
        described(right, first=b"K\x01"),
        described(right, strides=b"K\x03K\x01K\x01\x87"),
        described(right, strides=negative),
        described(b"X\x02\0\0\0ab"),
        described(right, key=b"1"),
        described(right)[:-1],
        b"\x80\x02]q\0h\0a.",
        b"\x80\x02" + b"}" + b"q\0h\0" + b"K\x01h\0s.",
        b"\x80\x02}(" + b"K\x00" * 3 + b"u.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02N.",
        b"\x80\x02}}}b.",
        b"\x80\x02\x8c\xff",
        b"\x80\x02r\xff\xff\xff\xffN.",
        b"",
    ):
        torch_archive(file, pickled, {"0": ROWS[:4].numpy().tobytes()})
        with pytest.raises((CorruptData, InvalidInput), match=r"m\.pt"):
            table_of(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", described(right))
        archive.writestr("m/data/0", bytes(1 << 20))
    refused(CorruptData, "compressed", where=file)


def test_dictionaries_in_each_other_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same dictionary in each of 40 would be a million millions of values."""
    monkeypatch.setattr(ringpull.inference.importers.tables.torch_file, "MAX_NAMES", 1000)
    file = tmp_path / "deep.pt"
    steps = [b"\x80\x02}q\x00"]
    for number in range(1, 25):
        below = b"h" + bytes([number - 1])
        steps += [b"}q" + bytes([number]), b"(K\x00" + below + b"K\x01" + below + b"u"]
    torch_archive(file, b"".join(steps) + b".", {})
    refused(CorruptData, "1000 values", where=file)


def test_torch_itself_reads_the_same(tmp_path: Path) -> None:
    file = tmp_path / "many.pt"
    generator = torch.Generator().manual_seed(3)
    state = {f"t{n}": torch.randn(n + 1, n + 2, generator=generator) for n in range(5)}
    torch.save(state, file)
    loaded = torch.load(file, weights_only=True)
    for name, tensor in loaded.items():
        assert table_of(file, vector=(name,)) == by_number(tensor)


def test_only_one_of_id_and_ids(save: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="give one of them"):
        open_source(save({"item": ROWS, "ids": IDS}), ReadOptions(id="ids", ids=str(tmp_path / "x")))


@pytest.mark.medium
def test_an_import_refuses_what_no_table_can_hold_and_writes_nothing(save: Any, tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[13, 2] = float("nan")
    file = save({"item": rows, "ids": IDS, "twice": torch.arange(20) % 19})
    out = tmp_path / "models"
    for options, kind, words in (
        ({}, InvalidInput, r"item row 13.*key 13"),
        ({"id": "ids"}, InvalidInput, r"item row 13.*key 88"),
    ):
        with pytest.raises(kind, match=words):
            import_tables({"item": open_source(file, ReadOptions(**options))}, out, 1, quiet=True)
        assert not out.exists()
    file = save({"item": ROWS, "twice": torch.arange(20) % 19})
    with pytest.raises(DuplicateKey, match=r"key 0 .*item row 0, and .*item row 19"):
        import_tables({"item": open_source(file, ReadOptions(id="twice"))}, out, 1, quiet=True)
    assert not out.exists()
    report = import_tables({"item": file}, out, 1, quiet=True)
    base = Base.open(report.path / "tables" / "item", verify_rows=True)
    found = base.find(positions_of(np.arange(20, dtype=np.uint64)))
    assert [base.row(int(row)).tolist() for row in found] == ROWS.tolist()
    base.close()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_of_other_kinds_are_named(tmp_path: Path) -> None:
    """A view that is the negative of its numbers is not read as these; nor is what has no such numbers."""
    table = torch.from_numpy(np.arange(1, 7, dtype=np.float32).reshape(3, 2))
    others = {
        "negative": (torch._neg_view(table), r"view marked neg"),
        "sparse": (table.to_sparse(), "sparse"),
        "quantised": (torch.quantize_per_tensor(table, 0.1, 0, torch.qint8), "quantised"),
        "meta": (table.to("meta"), r"without numbers \(meta\)"),
    }
    for name, (tensor, words) in others.items():
        torch.save({name: tensor}, tmp_path / "t.pt")
        with pytest.raises(InvalidInput, match=f"no tensor could be the rows.* {name} {words}"):
            read(tmp_path / "t.pt")
        torch.save({name: tensor, "table": table}, tmp_path / "t.pt")
        assert read(tmp_path / "t.pt") == {0: [1, 2], 1: [3, 4], 2: [5, 6]}


def test_ids_with_half_a_character_are_refused_by_row(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array(["a", "bad\ud83d"]))
    with pytest.raises(InvalidInput, match=r"ids\.npy: row 1: the id 'bad.* half a character"):
        read_ids_file(str(tmp_path / "ids.npy"))
