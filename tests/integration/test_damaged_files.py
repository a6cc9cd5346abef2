"""No byte of a version's files can be damaged without a publish refusing it: what shards check, and what heads load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.version import LoadedVersion
from ringpull.ps.errors import CorruptData
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import SlotRange
from tests.integration.ranker import Ranker
from tests.ps.damaging import flip

pytestmark = [pytest.mark.net, pytest.mark.medium]

SPREAD = 7
"""Places of a file that are damaged, evenly from its first byte to its last."""


@pytest.fixture
def actor() -> Iterator[ShardProcess]:
    running = ShardProcess(0)
    yield running
    running.stop()


def check(version: Path, actor: ShardProcess) -> None:
    """Do what a publish does before it goes live, but for the self-check."""
    manifest = Manifest.load(version)
    tables = {
        entry.spec.name: TablePlacement(
            str(manifest.table_folder(version, entry.spec.name)), (SlotRange(0, SLOTS),), ()
        )
        for entry in manifest.tables
    }
    actor.assign(actor.heartbeat().epoch + 1, [], [])  # nothing of it is open
    actor.prepare([VersionPlacement(manifest.model, manifest.version, tables, check_rows=True)])
    LoadedVersion.load(version)


def test_every_file_is_checked(exported: tuple[Ranker, Path], tmp_path: Path, actor: ShardProcess) -> None:
    version = shutil.copytree(exported[1], tmp_path / "ranker" / "1")
    files = sorted(path for path in version.rglob("*") if path.is_file())
    assert {"manifest.json", "schema.json", "samples.npz", "rows", "position_blocks"} <= {file.name for file in files}
    unnoticed, named = [], []
    for file in files:
        size = file.stat().st_size
        for at in {i * (size - 1) // (SPREAD - 1) for i in range(SPREAD)} if size else ():
            flip(file, at)
            try:
                check(version, actor)
            except CorruptData as exc:
                named.append(str(exc))
            else:
                unnoticed.append((file.relative_to(version), at))
            flip(file, at)
    assert not unnoticed
    assert all(str(version) in message for message in named)
    check(version, actor)
