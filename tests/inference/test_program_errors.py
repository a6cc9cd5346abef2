"""Versions that a newer torch exported: read where this torch can, else refused with that as the reason."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from ringpull.inference.head.pipeline import Pipeline
from ringpull.inference.head.request.preparation import Preparation
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.program_errors import exported_with, newer_torch
from ringpull.inference.model.torch_program import TorchProgram, read_program
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData
from tests.inference.fakes import ReferenceRouter
from tests.inference.small_model import SCHEMA, make_manifest, make_tables
from tests.inference.test_failing_programs import Raising
from tests.inference.tiny import export_tiny

HERE = str(torch.__version__).partition("+")[0]
GOLDEN = Path(__file__).parents[1] / "golden" / "torch-2.15.0" / "models" / "line" / "1"
NEWER = "99.1.0"


def entry_of(content: bytes) -> FileEntry:
    return FileEntry(path="dense.pt2", bytes=len(content), xxh3=xxhash.xxh3_64_hexdigest(content))


def test_a_program_of_a_newer_torch_is_read_and_runs() -> None:
    content = (GOLDEN / "dense.pt2").read_bytes()
    assert exported_with(content).startswith("2.15.0")
    program = read_program(GOLDEN, entry_of(content))
    rows = torch.tensor([[1.0, 2.0, 3.0], [1.0, 5.0, 0.0]])
    assert program.module()(rows).tolist() == [0.5 - 4 + 12, 0]


@pytest.mark.parametrize(
    ("writer", "newer"),
    [
        ("99.0.0", True),
        ("99.1", True),
        ("99.0.0a0+git1234", True),
        ("2.999.0+cu132", True),
        (HERE, False),
        (HERE + "+cu130", False),
        ("2.6.0", False),
        ("1.99.9", False),
        ("", False),
        ("<=2.4", False),
        ("nonsense", False),
    ],
)
def test_only_a_newer_writer_is_a_reason(writer: str, newer: bool) -> None:
    said = newer_torch(writer)
    assert bool(said) == newer
    if newer:
        wrote = writer.partition("+")[0]
        assert said.startswith(f"exported with torch {wrote}; this server has {HERE}")
        assert f"install torch {wrote} or newer" in said
        assert f"export it with torch {HERE}" in said


def test_what_our_own_torch_writes_says_so(tmp_path: Path) -> None:
    folder = export_tiny(tmp_path / "tiny", 1)
    assert exported_with((folder / "dense.pt2").read_bytes()) == str(torch.__version__)
    assert exported_with(b"no archive") == ""


def repacked(folder: Path, change: Callable[[str, bytes], bytes]) -> Manifest:
    """Write a version's program anew with some members changed, and its manifest to fit."""
    manifest = Manifest.load(folder)
    assert manifest.program is not None
    file = folder / manifest.program.path
    out = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), change(name, old.read(name)))
    content = out.getvalue()
    file.write_bytes(content)
    changed = replace(manifest, program=entry_of(content))
    changed.save(folder)
    return changed


def by(writer: str, change: Callable[[dict[str, Any]], None] = lambda graph: None) -> Callable[[str, bytes], bytes]:
    """Change the graph of a program, and who says to have written it."""

    def changed(name: str, content: bytes) -> bytes:
        if not re.search(r"models/[^/]+\.json$", name):
            return content
        graph = json.loads(content)
        graph["torch_version"] = writer
        change(graph)
        return json.dumps(graph).encode()

    return changed


def unknown_operator(graph: dict[str, Any]) -> None:
    """Have it call an operator that torch will have some day."""
    for node in graph["graph_module"]["graph"]["nodes"]:
        node["target"] = "torch.ops.aten.operator_of_tomorrow.default"


def schema_of_tomorrow(graph: dict[str, Any]) -> None:
    graph["schema_version"]["major"] = 99


def another_shape(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["inputs"].pop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_tiny(tmp_path / "tiny", 1)


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), torch.OutOfMemoryError("no memory of the device")], ids=str
)
def test_want_of_memory_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A file that is refused as damaged is not tried again, where there is memory."""

    def fail(*args: Any) -> None:
        raise error

    manifest = repacked(folder, by(NEWER))
    monkeypatch.setattr("ringpull.inference.model.torch_program.move_to_device_pass", fail)
    with pytest.raises(type(error), match="no memory"):
        TorchProgram.load(folder, manifest, "cpu")


def test_a_newer_torchs_program_of_a_known_form_loads(folder: Path) -> None:
    manifest = repacked(folder, by(NEWER))
    assert TorchProgram.load(folder, manifest, "cpu").writer == NEWER


@pytest.mark.parametrize("change", [unknown_operator, schema_of_tomorrow, another_shape])
def test_one_of_a_form_that_is_not_known_is_refused_with_that_as_the_reason(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    repacked(folder, by(NEWER, change))
    with pytest.raises(CorruptData) as raised:
        LoadedVersion.load(folder, device="cpu")
    said = str(raised.value)
    assert said.startswith(f"{folder / 'dense.pt2'}: exported with torch {NEWER}; this server has {HERE}")
    assert len(said) < 1_000
    assert "\n" not in said


@pytest.mark.parametrize("change", [unknown_operator, schema_of_tomorrow, another_shape])
def test_one_of_our_own_torch_is_refused_as_ever(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    repacked(folder, by(str(torch.__version__), change))
    with pytest.raises(CorruptData) as raised:
        LoadedVersion.load(folder, device="cpu")
    assert "exported with" not in str(raised.value)
    assert str(folder / "dense.pt2") in str(raised.value)


def test_an_archive_with_members_of_tomorrow_is_refused_with_that_as_the_reason(folder: Path) -> None:
    manifest = repacked(folder, by(NEWER))
    assert manifest.program is not None
    file = folder / manifest.program.path
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(archive.namelist()[0].partition("/")[0] + "/data/of_tomorrow/x", b"x")
    content = file.read_bytes()
    replace(manifest, program=entry_of(content)).save(folder)
    with pytest.raises(CorruptData, match=f"exported with torch {NEWER}.*of_tomorrow/x: refused"):
        LoadedVersion.load(folder, device="cpu")


def test_one_that_loads_and_does_not_run_says_the_same() -> None:
    program = Raising(RuntimeError("no such kernel"))
    pipeline = Pipeline(make_manifest(), SCHEMA, program, ReferenceRouter(make_tables()))
    batch = Preparation(make_manifest(), SCHEMA).plain_batch()
    with pytest.raises(CorruptData, match=r"ranker/3: the dense program does not run: RuntimeError: no such kernel$"):
        pipeline.rehearse(batch)
    program.writer = NEWER
    with pytest.raises(CorruptData, match=rf"exported with torch {NEWER}.* \(RuntimeError: no such kernel\)$"):
        pipeline.rehearse(batch)
