"""Chains wherever they lie and whatever becomes of them: at URLs, in watched folders, and with older folders gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from ringpull.deploy.model_folders import choose_versions, find_version, find_versions, loss_of
from ringpull.inference.export.delta.versions import delta_of
from ringpull.inference.export.tables_alone import export_tables
from ringpull.inference.head.watch import Watch
from ringpull.ps.errors import InvalidInput
from ringpull.router.control.change import CoordinatorState, Kind
from ringpull.router.control.changes import begin_of, published
from ringpull.router.control.deployment_spec import DeploymentSpec, initial_spec
from ringpull.router.control.model_search import ModelSearch
from ringpull.router.control.operations import (
    VERBS,
    ChangeStatus,
    DeploymentStatus,
    GetChange,
    GetStatus,
    LoadModel,
    ModelSource,
    Publish,
    ServeModels,
)
from ringpull.router.control.placements import StreamSources, placements_of
from ringpull.router.control.verbs import Request
from ringpull.router.shard_map import ShardAddress
from tests.integration.test_delta_versions import (
    Written,
    answers,
    copied,
    expected,
    running,
    serve,
    spec_of,
    wait_tidied,
    written,
)
from tests.object_store import S3

R = TypeVar("R")

__all__ = ["written"]


# -- at a URL ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.mark.net
def test_a_chain_at_a_url_is_fetched_by_range(written: Written, tmp_path: Path, s3: S3) -> None:
    """Each shard reads its ranges of base and deltas; who comes later needs no folder and no URL."""
    s3.put(written.folder, "m")
    placed = find_versions(ModelSource(name="m", folder="s3://models/m", latest=2))
    assert [each.name for each in placed] == ["m/2", "m/3"]
    assert placed[1].tables["users"].folder == "s3://models/m/1/tables/users"
    spec = spec_of(*placed, shards=2)
    s3.forget()
    with running([0, 1, 2], tmp_path) as processes:
        old = {shard: processes[shard] for shard in (0, 1)}
        serve(old, spec)
        for number in (2, 3):
            found = answers(old, spec.ring, written.gone, number, bytes_=written.is_bytes)
            assert found == expected(written, spec, number), number
        for part in ("1/tables/users", "2/tables/users", "2/gone/users", "3/tables/users", "3/gone/users"):
            # Of so small a table each shard reads the one block that has its rows; once, for both versions.
            size = (written.folder / part / "rows").stat().st_size
            assert s3.given_of(f"m/{part}/rows") <= 2 * size, part
        s3.refuses = lambda key: True
        after = DeploymentSpec(spec.ring.with_shards([0, 1, 2]), spec.replicas, spec.versions, spec.live)
        live = {
            shard: ShardAddress(shard, *each.address(), each.heartbeat().incarnation) for shard, each in old.items()
        }
        for shard, process in processes.items():
            process.prepare(placements_of(shard, [spec, after] if shard < 2 else [after], StreamSources(spec, live)))
        for process in processes.values():
            process.assign(2, [after.served_ranges], {("m", each.version): each.identity for each in after.versions})
            wait_tidied(process)
        found = answers(processes, after.ring, written.gone, 3, bytes_=written.is_bytes)
        assert found == expected(written, after, 3)


# -- in a watched folder -----------------------------------------------------------------------------------------------


class Publishing:
    """Coordinator that finds what is to be published on disk, checks it, and has it live at once."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.last = ChangeStatus()

    def call(self, request: Request[R]) -> R:
        return VERBS.answer(self, request)

    def change(self, request: GetChange) -> ChangeStatus:
        return self.last

    def status(self, request: GetStatus) -> DeploymentStatus:
        return DeploymentStatus(
            spec=self.spec, resident_bytes={}, nodes={}, requests=0, traffic={}, highest_live=self.spec.live
        )

    def publish(self, request: Publish) -> ChangeStatus:
        self.spec = published(self.spec, find_version(request, self.spec), keep=1)
        subject = f"{request.model}/{request.version}"
        self.last = ChangeStatus(id=self.last.id + 1, kind=Kind.PUBLISH, subject=subject)
        return self.last


def test_a_watched_folder_publishes_deltas_and_refuses_broken_chains(written: Written, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(written.folder / "1", folder / "1")
    operations = Publishing(initial_spec(range(1), choose_versions([folder])))
    now_s = [0.0]
    watch = Watch(
        lambda: {"m": folder},
        operations,
        loaded=lambda: [(each.model, each.version) for each in operations.spec.versions],
        clock=lambda: now_s[0],
    )
    watch.look()
    shutil.copytree(written.folder / "2", folder / "2")
    watch.look()
    assert (operations.spec.live, watch.warnings) == ({"m": 2}, ())
    # One that follows another content of version 1 than ours.
    other = tmp_path / "other" / "m"
    export_tables({"users": ([1], [b"a"]), "fixed": ([1], [b"b"])}, other, 1, quiet=True)
    export_tables({"users": ([2], [b"c"]), "fixed": ([1], [b"b"])}, other, 2, quiet=True)
    delta_of(other / "1", other / "2", other / "3")
    shutil.copytree(other / "3", folder / "3")
    watch.look()
    [warning] = watch.warnings
    assert f"m/3 in {folder} is not published: m/3 in {folder / '3'} is a delta of m/1" in warning
    assert operations.spec.live == {"m": 2}
    delta_of(folder / "2", written.whole / "3", folder / "4")
    now_s[0] += 1000
    watch.look()
    assert (operations.spec.live, watch.warnings) == ({"m": 4}, ())


# -- once older folders are gone ---------------------------------------------------------------------------------------


def test_what_is_open_is_found_loaded_and_served_again_without_older_folders(written: Written, tmp_path: Path) -> None:
    folder = copied(written, tmp_path)
    spec = spec_of(*find_versions(ModelSource(name="m", folder=str(folder), versions=(2,))))
    shutil.rmtree(folder / "1")
    looking = ModelSearch(find_versions, None)
    state = CoordinatorState(spec=spec)

    def begun(request: LoadModel | ServeModels) -> DeploymentSpec:
        found = looking.all_of(request, spec)
        return begin_of(request, state, find=lambda source: found[source.name]).target

    with pytest.raises(InvalidInput, match="which is not there"):
        find_versions(ModelSource(name="m", folder=str(folder), versions=(3,)))
    third = begun(LoadModel(model="m", folder=str(folder)))
    assert third.live == {"m": 3}
    assert third.versions[-1].tables["users"].folder == str(folder / "1" / "tables" / "users")
    assert begun(ServeModels(models=(ModelSource(name="m", folder=str(folder), latest=1),))).live == {"m": 3}
    assert begun(ServeModels(models=(ModelSource(name="m", folder=str(folder), versions=(2,)),))).live == {"m": 2}
    with running([0]) as processes:
        before = spec_of(*find_versions(ModelSource(name="m", folder=str(written.folder), versions=(2,))))
        serve(processes, before)
        serve(processes, replace(third, versions=(before.versions[0], third.versions[-1])), 2)
        found = answers(processes, third.ring, written.gone, 3, bytes_=written.is_bytes)
        assert found == expected(written, third, 3)


def test_a_chain_whose_older_folders_are_gone_is_lost_only_where_nobody_has_its_rows(
    written: Written, tmp_path: Path
) -> None:
    """A shard that is restarted has them on its own disk, or from the others."""
    folder = copied(written, tmp_path)
    [third] = find_versions(ModelSource(name="m", folder=str(folder), versions=(3,)))
    spec = spec_of(third)
    assert loss_of(third) == ""
    with running([0], tmp_path / "data") as processes:
        serve(processes, spec)
        wait_tidied(processes[0])
    shutil.rmtree(folder / "1")
    assert "m/1" in loss_of(third).replace(str(folder), "m") or str(folder / "1") in loss_of(third)
    with running([0], tmp_path / "data") as processes:
        serve(processes, spec)
        found = answers(processes, spec.ring, written.gone, 3, bytes_=written.is_bytes)
    assert found == expected(written, spec, 3)
