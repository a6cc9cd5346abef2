"""Checkpoints of torch.distributed.checkpoint: rows as torch loads them, however cut; hostile ones refused."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

import ringpull.inference.importers.tables.tensors
from ringpull.inference.importers.tables.formats import open_source
from ringpull.ps.errors import CorruptData, InvalidInput, RingpullError
from tests.inference.importers.tables.whole_reading import rows_of, table_of

ROWS = torch.arange(120, dtype=torch.float32).reshape(20, 6) / 8

Cuts = Sequence[tuple[int, int, int, int]]
"""First row, rows, first column and columns of each chunk."""


def write(folder: Path, tensors: dict[str, tuple[torch.Tensor, Cuts]], *, files: int = 2, **change: Any) -> Path:
    """Write a checkpoint as processes that each had some of the chunks would have."""
    folder.mkdir()
    described, places = {}, {}
    contents = [bytearray() for _ in range(files)]
    count = 0
    for name, (tensor, cuts) in tensors.items():
        chunks = []
        for first, rows, left, columns in cuts:
            offsets, sizes = torch.Size([first, left]), torch.Size([rows, columns])
            chunks.append(ChunkStorageMetadata(offsets, sizes))
            part = tensor[first : first + rows, left : left + columns].clone()
            packed = folder / "part"
            torch.save(part, packed)
            number = count % files
            count += 1
            info = _StorageInfo(f"__{number}_0.distcp", len(contents[number]), packed.stat().st_size)
            places[MetadataIndex(name, offsets)] = info
            contents[number] += packed.read_bytes()
            packed.unlink()
        properties = TensorProperties(dtype=tensor.dtype)
        described[name] = TensorStorageMetadata(properties, tensor.shape, chunks)
    for number, content in enumerate(contents):
        (folder / f"__{number}_0.distcp").write_bytes(content)
    metadata = Metadata(**{"state_dict_metadata": described, "planner_data": None, "storage_data": places, **change})
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def by_number(rows: torch.Tensor) -> dict[int, list[float]]:
    return dict(enumerate(rows.float().tolist()))


def refused(kind: type[RingpullError], folder: Path, *words: str, **options: Any) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(kind) as error:
        table_of(folder, **options)
    assert all(word in str(error.value) for word in (folder.name, *words)), error.value
    assert sorted(folder.parent.rglob("*")) == before


def test_a_checkpoint_that_torch_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    state = {"model": {"user.weight": ROWS, "item": ROWS[:7].bfloat16()}, "epoch": 3, "ids": torch.arange(20) * 3}
    with warnings.catch_warnings(action="ignore"):
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    assert table_of(folder, vector=("model.user.weight",)) == by_number(ROWS)
    assert table_of(folder, vector=("model.item",)) == by_number(ROWS[:7].bfloat16())
    keyed = table_of(folder, vector=("model.user.weight",), id="ids")
    assert keyed == {3 * key: row for key, row in by_number(ROWS).items()}
    refused(InvalidInput, folder, "model.user.weight float32 [20, 6]", "model.item bfloat16 [7, 6]")
    loaded = {"model": {"user.weight": torch.zeros(20, 6)}}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    assert torch.equal(loaded["model"]["user.weight"], ROWS)


@pytest.mark.parametrize(
    "cuts",
    [
        [(0, 20, 0, 6)],
        [(0, 7, 0, 6), (7, 7, 0, 6), (14, 6, 0, 6)],
        [(0, 20, 0, 2), (0, 20, 2, 3), (0, 20, 5, 1)],
        [(10, 10, 3, 3), (0, 10, 0, 3), (10, 10, 0, 3), (0, 10, 3, 3)],
        [(0, 20, 0, 3), (0, 5, 3, 3), (5, 15, 3, 2), (5, 15, 5, 1)],
    ],
    ids=["table-wise", "row-wise", "column-wise", "grid", "mixed"],
)
def test_rows_are_put_together_however_they_were_cut(
    tmp_path: Path, cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "checkpoint", {"ebc.t.weight": (ROWS, cuts)}, files=3)
    assert table_of(folder) == by_number(ROWS)
    monkeypatch.setattr(ringpull.inference.importers.tables.tensors, "PIECE_BYTES", 72)
    assert table_of(folder) == by_number(ROWS), "in pieces of 3 rows"
    assert rows_of(open_source(folder), 8) == {key: row for key, row in by_number(ROWS).items() if key >= 8}


class OldProperties:
    """What properties were before torch 2.3: those of sharded tensors, filled by name."""

    __module__ = "torch.distributed._shard.sharded_tensor.metadata"
    __qualname__ = "TensorProperties"

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.requires_grad = False


def test_an_older_checkpoint_names_its_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{OldProperties.__module__}.TensorProperties", OldProperties)
    chunk = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([20, 6]))
    described = {"t": TensorStorageMetadata(OldProperties(torch.float32), ROWS.shape, [chunk])}  # type: ignore[arg-type]
    cuts = [(0, 20, 0, 6)]
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, cuts)}, files=1, state_dict_metadata=described)
    assert OldProperties.__module__.encode() in (folder / ".metadata").read_bytes()
    assert table_of(folder) == by_number(ROWS)


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ([(0, 10, 0, 6)], "rows 10 to 19 not once"),
        ([(0, 20, 0, 3)], "up to column 3 of 6"),
        ([(0, 12, 0, 6), (10, 10, 0, 6)], "rows 10 to 11 not once"),
        ([(0, 20, 0, 4), (0, 20, 3, 3)], "not once"),
        ([], "not once"),
    ],
)
def test_chunks_that_lack_or_repeat_numbers_are_refused(tmp_path: Path, cuts: Cuts, words: str) -> None:
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, cuts)})
    refused(CorruptData, folder, words)


def test_files_that_are_missing_or_cut_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, [(0, 10, 0, 6), (10, 10, 0, 6)])})
    part = folder / "__1_0.distcp"
    content = part.read_bytes()
    for length in (1, len(content) // 2, len(content) - 1):
        part.write_bytes(content[:length])
        refused(CorruptData, folder, "__1_0.distcp", "truncated")
    middle = len(content) // 2
    part.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    refused(CorruptData, folder, "__1_0.distcp")
    part.write_bytes(b"")
    refused(CorruptData, folder, "__1_0.distcp")
    part.unlink()
    refused(CorruptData, folder, "__1_0.distcp is missing")
    metadata = folder / ".metadata"
    content = metadata.read_bytes()
    for length in (0, 10, len(content) - 1):
        metadata.write_bytes(content[:length])
        refused(CorruptData, folder, ".metadata")
    metadata.unlink()
    with pytest.raises(InvalidInput, match="no checkpoint"):
        table_of(folder, format="dcp")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickles_that_would_run_code_are_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = write(tmp_path / "one", {"t": (ROWS, [(0, 20, 0, 6)])}, planner_data=Evil(mark))
    refused(CorruptData, folder, ".metadata", "mkdir", "nothing of it was run", "DefaultSavePlanner")
    folder = write(tmp_path / "two", {"t": (ROWS, [(0, 20, 0, 6)])}, files=1)
    part = folder / "__0_0.distcp"
    torch.save(Evil(mark), part)
    places = {MetadataIndex("t", torch.Size([0, 0])): _StorageInfo(part.name, 0, part.stat().st_size)}
    chunk = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([20, 6]))
    described = {"t": TensorStorageMetadata(TensorProperties(dtype=torch.float32), torch.Size([20, 6]), [chunk])}
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(described, None, places)))
    refused(CorruptData, folder, part.name, "mkdir")
    assert not mark.exists()


@pytest.mark.parametrize(
    "info",
    [
        _StorageInfo("../out.distcp", 0, 1000),
        _StorageInfo("/etc/passwd", 0, 1000),
        _StorageInfo("..", 0, 1000),
        _StorageInfo("__0_0.distcp", -5, 1000),
        _StorageInfo("__0_0.distcp", 0, 1 << 61),
        _StorageInfo("__0_0.distcp", 3, 1000),
        _StorageInfo("__0_0.distcp", 0, 1000, ["zstd"]),
        _StorageInfo(5, 0, 1000),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_places_that_lead_elsewhere_are_refused(tmp_path: Path, info: _StorageInfo) -> None:
    places = {MetadataIndex("t", torch.Size([0, 0])): info}
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, [(0, 20, 0, 6)])}, files=1, storage_data=places)
    refused(CorruptData, folder)


@pytest.mark.parametrize(
    "described",
    [
        TensorStorageMetadata(TensorProperties(dtype=torch.float32), torch.Size([1 << 50, 6]), []),
        TensorStorageMetadata(
            TensorProperties(dtype=torch.float32),
            torch.Size([20, 6]),
            [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([1 << 60, 6]))],
        ),
        TensorStorageMetadata(
            TensorProperties(dtype=torch.float64),
            torch.Size([20, 6]),
            [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([20, 6]))],
        ),
        TensorStorageMetadata(
            TensorProperties(dtype=torch.float32),
            torch.Size([20, 6]),
            [ChunkStorageMetadata(torch.Size([0]), torch.Size([20]))],
        ),
    ],
    ids=["huge", "huge chunk", "another type", "another rank"],
)
def test_tensors_that_are_not_what_is_said_are_refused(tmp_path: Path, described: Any) -> None:
    cuts = [(0, 20, 0, 6)]
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, cuts)}, files=1, state_dict_metadata={"t": described})
    refused(CorruptData, folder)


def test_what_is_no_metadata_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint", {"t": (ROWS, [(0, 20, 0, 6)])})
    for content in (5, {}, [], Metadata({"t": 5}), Metadata(7), np.float32):  # type: ignore[arg-type,dict-item]
        (folder / ".metadata").write_bytes(pickle.dumps(content))
        with pytest.raises((CorruptData, InvalidInput), match="checkpoint"):
            table_of(folder)
