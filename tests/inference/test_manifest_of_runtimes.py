"""Manifests of versions whose dense program onnxruntime runs: a format of their own, and files of weights beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.ps.errors import CorruptData
from tests.inference.test_manifest import rewrite, write_version


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "movies" / "3"
    write_version(folder)
    return folder


def of_onnxruntime(folder: Path) -> Manifest:
    """Make the version one whose program onnxruntime runs, with weights beside it."""
    (folder / "dense.onnx.data").write_bytes(b"weights" * 100)
    data = (FileEntry.of(folder, "dense.onnx.data"),)
    manifest = replace(Manifest.load(folder), runtime="onnxruntime", program_data=data)
    manifest.save(folder)
    return manifest


def test_a_version_of_onnxruntime_has_a_format_of_its_own(folder: Path) -> None:
    manifest = of_onnxruntime(folder)
    document = json.loads((folder / "manifest.json").read_text())
    # What builds from before there was onnxruntime refuse by: they know 1 and 2.
    assert document["format"] == 3
    assert document["manifest"]["runtime"] == "onnxruntime"
    assert document["manifest"]["program_data"] == [
        {"path": "dense.onnx.data", "bytes": 700, "xxh3": manifest.program_data[0].xxh3}
    ]
    assert Manifest.load(folder) == manifest


def test_a_version_of_torch_says_nothing_of_runtimes(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    assert document["format"] == 1
    assert not {"runtime", "program_data"} & document["manifest"].keys()
    assert (Manifest.load(folder).runtime, Manifest.load(folder).program_data) == ("torch", ())
    rewrite(folder, lambda body: body.update(runtime="onnxruntime"))
    with pytest.raises(CorruptData, match="runtime"):
        Manifest.load(folder)


@pytest.mark.parametrize("damage", [b"weights" * 99, b"weightz" + b"weights" * 99, None])
def test_weights_beside_the_program_are_verified(folder: Path, damage: bytes | None) -> None:
    of_onnxruntime(folder)
    file = folder / "dense.onnx.data"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    with pytest.raises(CorruptData, match=r"dense\.onnx\.data"):
        Manifest.load(folder)


def test_a_runtime_that_is_not_known(folder: Path) -> None:
    of_onnxruntime(folder)
    rewrite(folder, lambda body: body.update(runtime="tomorrow"))
    with pytest.raises(CorruptData, match="runtime: is 'tomorrow'; in format 3 it must be 'onnxruntime'"):
        Manifest.load(folder)
    rewrite(
        folder,
        lambda body: body.update(runtime="onnxruntime", program_data=[{"path": "../x", "bytes": 1, "xxh3": "0"}]),
    )
    with pytest.raises(CorruptData, match="stay inside"):
        Manifest.load(folder)
