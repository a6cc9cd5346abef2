"""Damage of versions that a delta is made of: what it writes has checksums of its own, so it is seen now or never."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ringpull import export_delta, export_tables
from ringpull.inference.export.compaction.checks import with_samples
from ringpull.inference.export.delta import differences, weight_rows
from ringpull.inference.export.delta.versions import delta_of
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import Samples
from ringpull.ps.errors import CorruptData
from ringpull.ps.store.base import Base
from tests.inference.export.test_delta import SCHEMA, Two, changed, export

pytestmark = pytest.mark.medium

DIM = 64
MIB = 1 << 20


def write(folder: Path, version: int, value: float, rows: int = 12_000) -> Path:
    """Write rows of three blocks, which are `value` each."""
    given = {"user": (np.arange(rows), np.full((rows, DIM), value, np.float32)), "text": ([1, 2], [b"a", b"bc"])}
    return export_tables(given, folder, version, quiet=True).path


def flip(version_dir: Path, block: int = 0) -> None:
    file = version_dir / "tables" / "user" / "rows"
    content = bytearray(file.read_bytes())
    content[block * MIB + 3] ^= 0x10
    file.write_bytes(content)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare less than a stored block at a time, so that blocks lie across the pieces' ends."""
    for module in (differences, weight_rows):
        monkeypatch.setattr(module, "BLOCK_BYTES", 300_000)


@pytest.mark.parametrize("block", range(3))
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("which", ["old", "new"])
def test_every_block_of_both_versions_is_verified(tmp_path: Path, which: str, chained: bool, block: int) -> None:
    folder = tmp_path / "m"
    old, new = write(folder, 1, 1.0), write(tmp_path / "whole" / "m", 9, 1.0)
    assert Base.open(old / "tables" / "user").block_count == 3
    if chained:  # the same rows, put together of a base and deltas: both go by way of the ordered rows
        first = write(tmp_path / "new" / "m", 1, 1.0)
        new = delta_of(first, write(tmp_path / "whole" / "m", 5, 1.0, 12_001), first.with_name("2")).path
        flip(first if which == "new" else old, block)
    else:
        flip(new if which == "new" else old, block)
    with pytest.raises(CorruptData, match="rows: 1 blocks are damaged, the first holds rows"):
        delta_of(old, new, folder / "2")
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.mark.parametrize("which", ["old", "new"])
def test_so_are_deltas_that_a_version_is_made_of_and_rows_of_bytes(tmp_path: Path, which: str) -> None:
    folder = tmp_path / "m"
    versions = {"old": write(folder, 1, 1.0), "new": write(tmp_path / "new" / "m", 1, 1.0)}
    for number in (2, 3):
        whole = write(tmp_path / "whole" / "m", number, float(number))
        for name, last in versions.items():
            versions[name] = delta_of(last, whole, last.with_name(str(number))).path
    flip(versions[which].with_name("2"))
    with pytest.raises(CorruptData, match="blocks are damaged"):
        delta_of(versions["old"], versions["new"], folder / "4")
    other = write(tmp_path / "other" / "m", 1, 1.0)
    rows = other / "tables" / "text" / "rows"
    rows.write_bytes(b"xyz")
    with pytest.raises(CorruptData, match="text/rows: 1 blocks are damaged"):
        delta_of(folder / "1", other, folder / "4")


def zeroed(version_dir: Path) -> None:
    """Have a hole where rows were, as a write that was lost leaves it."""
    file = version_dir / "tables" / "item" / "rows"
    file.write_bytes(b"\0" * file.stat().st_size)


@pytest.mark.parametrize("named", [None, {"item": [3]}])
@pytest.mark.parametrize("after_delta", [False, True])
def test_a_row_does_not_look_as_before_because_that_was_damaged(
    tmp_path: Path, named: dict[str, list[int]] | None, after_delta: bool
) -> None:
    """The module's row is zeros now: shards that have the version before whole would go on with the old one."""
    module, folder, last = Two(), tmp_path / "m", 1
    export(module, folder)
    if after_delta:
        export_delta(changed(module, [3]), SCHEMA, folder, 2, 1, quiet=True)
        last = 2
    zeroed(folder / str(last))
    with torch.no_grad():
        module.item.weight[3] = 0
    with pytest.raises(CorruptData, match="item/rows: 1 blocks are damaged"):
        export_delta(module, SCHEMA, folder, 9, last, named, quiet=True)


def test_samples_of_a_compacted_version_are_of_whole_rows(tmp_path: Path) -> None:
    written = write(tmp_path / "m", 1, 1.0)
    manifest = Manifest.load(written)
    flip(written, 2)
    with pytest.raises(CorruptData, match="blocks are damaged"):
        with_samples(written, manifest, Samples.of_tables({}))
