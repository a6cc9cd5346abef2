"""Compaction of a version with a dense program: heads accept it, by samples that were computed anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull.deploy.model_folders import newest_version
from ringpull.inference.export.compaction.compact import compact
from ringpull.inference.model.manifest import FileEntry, Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData, ExportError
from ringpull.ps.hashing import SLOTS
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import TableSpec, UInt64Array
from ringpull.ps.store.base import Base
from ringpull.ps.store.raw_rows import RawRows
from ringpull.ps.store.row_codec import decode, encode
from ringpull.ps.store.table import Table
from tests.integration.local import local_cluster
from tests.integration.ranker import export_ranker

FACTOR = 3


class Changed:
    """Rows of a version's files, each a few times as large."""

    def __init__(self, version_dir: Path) -> None:
        self.version_dir = version_dir
        self.asked: list[str] = []
        self.looked_at: list[str] = []

    def stamps(self, table: str) -> Mapping[int, int]:
        assert not self.asked, "stamps are asked before the first row"
        self.looked_at.append(table)
        return {0: 6 + len(self.looked_at), 1: 9 - len(self.looked_at), 1 + len(self.looked_at): 5}

    def blocks(self, spec: TableSpec) -> Iterator[tuple[UInt64Array, RawRows]]:
        self.asked.append(spec.name)
        table = Table(Base.open(self.version_dir / "tables" / spec.name))
        positions, rows = table.newest_block(SlotRange(0, SLOTS), None, 1 << 30)
        assert isinstance(rows, np.ndarray)
        yield positions, encode(FACTOR * decode(rows, spec), spec)


def first_table(version_dir: Path) -> str:
    return Manifest.load(version_dir).tables[0].spec.name


@pytest.mark.medium
@pytest.mark.net
def test_a_head_accepts_a_compacted_version_and_not_one_with_other_rows(tmp_path: Path) -> None:
    _, before = export_ranker(tmp_path)
    live = first_table(before)
    source = replace(newest_version(before.parent), live_tables=(live,))
    rows = Changed(before)
    written = compact(source, before, before.parent, rows, number=lambda: 2)
    assert rows.asked == [live] == list(written.streamed)
    manifest = written.manifest
    assert rows.looked_at == [live]
    assert manifest.chain.includes == {0: 7, 1: 8, 2: 5}
    old, new = LoadedVersion.load(before), LoadedVersion.load(written.path)
    assert old.samples is not None
    assert new.samples is not None
    for name, values in old.samples.outputs.items():
        assert not np.allclose(values, new.samples.outputs[name])
    for file in (manifest.program, manifest.schema):
        assert file is not None
        assert (written.path / file.path).samefile(before / file.path)
    with local_cluster([written.path], shards=2):
        pass
    shutil.copyfile(before / "samples.npz", tmp_path / "old.npz")
    # The linked file goes with a name of its own: the version before keeps it.
    shutil.rmtree(before)
    LoadedVersion.load(written.path)
    (written.path / "samples.npz").write_bytes((tmp_path / "old.npz").read_bytes())
    replace(manifest, samples=FileEntry.of(written.path, "samples.npz")).save(written.path)
    with pytest.raises(CorruptData, match="self-check"), local_cluster([written.path]):
        pytest.fail("it serves")


@pytest.mark.medium
def test_a_version_is_never_written_over_and_damage_of_files_is_seen(tmp_path: Path) -> None:
    _, before = export_ranker(tmp_path)
    source = replace(newest_version(before.parent), live_tables=(first_table(before),))
    with pytest.raises(ExportError, match="exists; a version is never written over"):
        compact(source, before, before.parent, Changed(before), number=lambda: 1)
    other = Manifest.load(before).tables[1].spec.name
    rows = max((before / "tables" / other).iterdir(), key=lambda file: file.stat().st_size)
    rows.write_bytes(rows.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CorruptData):
        compact(source, before, before.parent, Changed(before), number=lambda: 2)
    assert [path.name for path in before.parent.iterdir()] == ["1"]


@pytest.mark.medium
def test_every_live_table_is_looked_at_before_the_first_row_and_the_smallest_stamps_count(tmp_path: Path) -> None:
    _, before = export_ranker(tmp_path)
    live = [entry.spec.name for entry in Manifest.load(before).tables][:2]
    rows = Changed(before)
    source = replace(newest_version(before.parent), live_tables=tuple(live))
    written = compact(source, before, before.parent, rows, number=lambda: 2)
    assert rows.looked_at == live == list(written.streamed)
    assert written.manifest.chain.includes == {0: 7, 1: 7}, "but none of a shard that one table has nothing from"
