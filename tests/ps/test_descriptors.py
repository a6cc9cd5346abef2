"""A version that is let go of leaves nothing open: descriptors and maps after many publishes are those after few."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringpull.ps.errors import NotFound
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.refusals import NotOpened
from ringpull.ps.ring import Ring, SlotRange
from ringpull.ps.store import mapping
from tests.ps.damaging import flip
from tests.ps.tables import MODEL, rows_request, write_table

pytestmark = [pytest.mark.net, pytest.mark.medium]

ONE = [ServedRanges(Ring.even([0]), {})]


@pytest.fixture(params=["in place", "copies"])
def actor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardProcess]:
    """A shard that keeps what it let go of on disk for longer than the test takes."""
    data_dir = tmp_path / "data" if request.param == "copies" else None
    running = ShardProcess(0, data_dir=data_dir, tidy_after_s=3600.0, scrub_bytes_per_s=1 << 30)
    yield running
    running.stop()


def write(folder: Path, version: int) -> VersionPlacement:
    tables = [write_table(folder / str(version) / name, rows=30, seed=version) for name in ("users", "items")]
    slots = (SlotRange(0, SLOTS),)
    return VersionPlacement(
        MODEL,
        version,
        {each.folder.name: TablePlacement(str(each.folder), slots, ()) for each in tables},
        check_rows=True,
    )


def opened(folder: Path) -> tuple[int, int]:
    """Return how many descriptors and maps this process has of files below a folder."""
    files = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(folder) in file for file in files), sum(str(folder) in line for line in maps)


def test_publishes_leave_no_descriptors_and_no_maps(actor: ShardProcess, tmp_path: Path) -> None:
    keys = write_table(tmp_path / "asked", rows=3).keys
    kept: list[VersionPlacement] = []
    seen = []
    for version in range(1, 51):
        kept = [*kept[-1:], write(tmp_path, version)]
        actor.prepare(kept)
        actor.assign(version, ONE, [(MODEL, placement.version) for placement in kept])
        actor._shard.pull(rows_request("users", keys, version=version))
        with pytest.raises(NotFound):
            actor._shard.pull(rows_request("users", keys, version=version + 1))
        if version in (10, 50):
            seen.append(opened(tmp_path))
    assert seen[0] == seen[1]
    assert seen[1][1] == 2 * 2 * 3
    locks = 0 if actor._copies is None else 2  # of copies, and of pushed rows
    assert seen[1][0] == locks, "a map keeps no descriptor"


def test_refused_versions_leave_none(actor: ShardProcess, tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    actor.prepare([first])
    actor.assign(1, ONE, [(MODEL, 1)])
    before = opened(tmp_path)
    for version in range(2, 12):
        bad = write(tmp_path, version)
        flip(Path(bad.tables["items"].folder) / "rows", 5)
        with pytest.raises(NotOpened, match="rows: block 0"):
            actor.prepare([first, bad])
        actor.assign(version, ONE, [(MODEL, 1)])
    assert opened(tmp_path) == before


FEW_DESCRIPTORS = """
import resource, shutil, sys
from pathlib import Path
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import ServedRanges, TablePlacement, VersionPlacement
from ringpull.ps.process import ShardProcess
from ringpull.ps.ring import Ring, SlotRange

resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
def table(name):
    # Files of its own: tables of the very same ones share a map.
    folder = shutil.copytree(sys.argv[1], f"{sys.argv[1]}-{name}")
    return {"table": TablePlacement(folder, (SlotRange(0, SLOTS),), ())}


actor = ShardProcess(0, scrub_bytes_per_s=1 << 30)
kept = []
for version in (1, 2):
    kept += [VersionPlacement(f"model_{number}", version, table(f"{version}-{number}")) for number in range(150)]
    actor.prepare(kept)
    actor.assign(version, [ServedRanges(Ring.even([0]), {})], [(each.model, each.version) for each in kept])
assert len(actor.statistics().tables) == 300
maps = sum(sys.argv[1] in line for line in Path("/proc/self/maps").read_text().splitlines())
assert maps == 300 * 3, maps
actor.stop()
print("published twice")
"""


def test_tables_by_the_hundred_fit_few_descriptors(tmp_path: Path) -> None:
    """Two versions of 150 tables, with less than one descriptor for each: they had three, each for as long as it was
    open."""
    table = write_table(tmp_path / "table", rows=30).folder
    ran = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(table)], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "published twice\n", ran.stderr


@pytest.mark.parametrize("laid", [True, False])
def test_a_map_that_fails_leaves_no_hole_for_another_to_be_unmapped_in(
    laid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def fails(*arguments: int) -> int:
        ctypes.set_errno(errno.ENOMEM)
        asked.append(arguments)
        return arguments[0] if laid and len(asked) == 2 else 2**64 - 1

    monkeypatch.setattr(mapping, "_libc_mmap", lambda: fails)
    monkeypatch.setattr(mapping, "_NEVER_UNMAPPED", kept := [])
    with pytest.raises(OSError, match=r"Errno \d+"):
        mapping.mapped(7, mmap.PAGESIZE)
    assert [each[:2] for each in asked] == [asked[0][:2]] * 2
    assert asked[1][3] & mmap.MAP_ANONYMOUS
    assert asked[1][4] == -1
    assert len(kept) == (not laid)
