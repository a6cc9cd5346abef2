"""What samples hold, what a self-check makes of them, and which of them a head takes."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ringpull import TableOptions
from ringpull.inference.export.table_samples import KEYS, LACKED_KEYS
from ringpull.inference.head import selfcheck
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.head import CHECK_TRIES
from ringpull.inference.head.process import HeadProcess
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.model.samples import FILE, Samples, agree
from ringpull.ps.errors import CorruptData, Unavailable
from ringpull.ps.hashing import positions_of
from ringpull.ps.process import ShardProcess
from ringpull.ps.spec import VECTOR_TYPES, RowType
from ringpull.router.control.change import Kind, Phase
from ringpull.router.control.operations import ChangeStatus
from ringpull.router.shard_map import ShardMap
from tests.integration.local import local_cluster, open_versions
from tests.integration.test_selfcheck_tables import Two, export_two, refused, samples_of, with_samples

pytestmark = [pytest.mark.net, pytest.mark.medium]

LOSABLE = TableOptions(on_unavailable="default")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_two(tmp_path_factory.mktemp("models"), Two())


@pytest.mark.parametrize("row_type", list(VECTOR_TYPES))
def test_every_row_type_passes_bit_for_bit(tmp_path: Path, row_type: RowType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a table takes many pulls, and what has no rows at a place has unknown keys there."""
    monkeypatch.setattr(selfcheck, "PULL_BYTES", 1000)
    special = torch.tensor([-0.0, 1e-30, 3.0, 0.1])
    if row_type is not RowType.INT8:
        special[1] = float("inf")
    module = Two(lambda rows: torch.cat([special[None], rows[1:]]))
    options = {
        name: TableOptions(row_type=row_type.value, default=np.full(dim, 0.5, np.float32))
        for name, dim in (("large", 4), ("small", 3))
    }
    version = export_two(tmp_path, module, **options)
    samples = samples_of(version)
    assert KEYS < len(samples.tables["large"].keys) <= KEYS + LACKED_KEYS
    assert 5 < len(samples.tables["small"].keys) <= 5 + LACKED_KEYS
    with local_cluster([version], shards=3):
        pass


def test_samples_are_spread_over_the_ring(two: Path) -> None:
    positions = np.sort(positions_of(samples_of(two).tables["large"].keys))
    assert int(np.diff(positions).max()) < 2**64 // 300


def test_a_version_whose_samples_have_no_tables_serves(two: Path, tmp_path: Path) -> None:
    old = shutil.copytree(two, tmp_path / "two" / "1")
    with_samples(old, replace(samples_of(two), tables={}))
    with local_cluster([old]) as cluster, cluster.client() as client:
        assert client.predict("two", {"large": [1], "small": [1]}).version == 1


def test_builds_from_before_skip_the_samples_of_tables(two: Path) -> None:
    """They take every array whose name has a slash for a feature's or an output's."""
    with np.load(two / FILE) as arrays:
        new = {name for name in arrays.files if name.startswith("table:")}
        assert new == {"table:large", "table:small"}
        assert not any("/" in name for name in new)


@pytest.mark.parametrize("array", [np.zeros((3, 2)), np.zeros((3, 3), np.uint64), np.zeros(3, np.uint64)])
def test_damaged_samples_of_a_table_are_told(two: Path, tmp_path: Path, array: np.ndarray) -> None:
    with np.load(two / FILE) as arrays:
        np.savez(tmp_path / FILE, **{**arrays, "table:large": array})
    with pytest.raises(CorruptData, match=r"there: no samples can be read from it: .*must be uint64"):
        Samples.from_bytes((tmp_path / FILE).read_bytes(), "there")


@pytest.mark.parametrize("tolerance", [np.nan, np.inf, -1.0])
def test_a_tolerance_that_is_none_is_told(two: Path, tolerance: float) -> None:
    with pytest.raises(CorruptData, match="tolerance is"):
        Samples.from_bytes(replace(samples_of(two), tolerance=tolerance).to_bytes(), "there")


def test_samples_of_a_table_that_is_not_there(two: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(two, tmp_path / "two" / "1")
    samples = samples_of(two)
    with_samples(spoilt, replace(samples, tables={**samples.tables, "more": samples.tables["large"]}))
    refused(spoilt, "self-check of two/1: there are samples of table more, which it does not have")


def test_keys_that_no_live_shard_has_are_no_proof(tmp_path: Path) -> None:
    """A table that may be lost is answered with defaults; that is no other table."""
    version = export_two(tmp_path, Two(), large=LOSABLE, small=LOSABLE)
    with local_cluster([version], shards=2) as cluster:
        again = shutil.copytree(version, version.with_name("2"))
        replace(Manifest.load(version), version=2).save(again)
        open_versions(cluster.shards, [version, again], 1)
        cluster.shards[1].stop(grace_s=0)
        with pytest.raises(Unavailable, match=r"self-check of two/2: no live shard has \d+ keys of table large"):
            cluster.head.start(cluster.shard_map, [again])


@pytest.mark.parametrize("right", [True, False], ids=["what comes back is right", "it is another table"])
def test_a_head_that_is_started_while_rows_are_lost_serves_the_rest_and_checks_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    """They may be lost for good, and the other heads serve on. After some tries: a shard may only be slow to come."""
    monkeypatch.setattr("ringpull.inference.head.head.CHECK_AGAIN_S", 0.01)
    version = export_two(tmp_path, Two(), large=LOSABLE)
    other = export_two(tmp_path / "other", Two(lambda rows: rows + 1.0), large=LOSABLE)
    with local_cluster([version], shards=2) as cluster:
        cluster.shards[1].stop(grace_s=0)
        head = HeadProcess(HeadConfig())
        try:
            for _ in range(CHECK_TRIES - 1):
                with pytest.raises(Unavailable, match="keys of small"):
                    head.start(cluster.shard_map, [version])
            head.start(cluster.shard_map, [version])
            assert head.heartbeat().versions == (("two", 1),)
            [warning] = head.heartbeat().warnings
            assert warning.startswith("two/1 is served without its self-check, which is tried again: ")
            back = [ShardProcess(shard) for shard in range(2)]
            cluster.shards.extend(back)
            shard_map = replace(open_versions(back, [version if right else other], 1, identified=False), epoch=2)
            head.route(shard_map, {"two": 1}, [("two", 1)])
            while any("tried again" in each for each in head.heartbeat().warnings):
                time.sleep(0.01)
            warnings = head.heartbeat().warnings
            assert head.heartbeat().versions == ((("two", 1),) if right else ())
            assert [each.partition(": table")[0] for each in warnings] == (
                [] if right else ["two/1 is not served: self-check of two/1"]
            )
        finally:
            head.drain(5.0)


def test_the_first_version_of_a_deployment_is_not_served_unchecked(tmp_path: Path) -> None:
    """Nothing serves yet that would have to go on."""

    class BringUp:
        def call(self, request: object, *, within_s: float | None = None) -> ChangeStatus:
            return ChangeStatus(id=1, kind=Kind.BRING_UP, phase=Phase.LOADING)

        def map(self) -> ShardMap:
            raise Unavailable("not asked here")

    version = export_two(tmp_path, Two(), large=LOSABLE)
    with local_cluster([version], shards=2) as cluster:
        cluster.shards[1].stop(grace_s=0)
        head = HeadProcess(HeadConfig(), BringUp())  # type: ignore[arg-type]
        try:
            for _ in range(2 * CHECK_TRIES):
                with pytest.raises(Unavailable, match="keys of small"):
                    head.start(cluster.shard_map, [version])
        finally:
            head.drain(5.0)


def test_what_agrees() -> None:
    nan, inf = np.nan, np.inf
    expected = np.array([1.0, 1.0, 7000.0, 7000.0, nan, nan, inf, inf, inf, 1.0, -7000.0], np.float32)
    found = np.array([1.01, 1.2, 7000.6, 7001.0, nan, 1.0, inf, -inf, 1e38, inf, -7000.6], np.float32)
    assert agree(found, expected, 0.1).tolist() == [
        *(True, False, True, False, True, False, True, False, False, False, True)
    ]
