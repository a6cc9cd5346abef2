"""Models at URLs, as `serve`, `publish` and `plan` find them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.deploy.config import ServeConfig
from ringpull.deploy.model_folders import choose_versions, find_version
from ringpull.deploy.planned_tables import planned_tables
from ringpull.deploy.view.folder_summary import read_table, read_version
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.router.control.deployment_spec import initial_spec
from ringpull.router.control.operations import Publish
from ringpull.router.control.traffic import TableLoad
from tests.deploy.folders import write_version

URL = "memory://store/ranker"


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[object]:
    files = fsspec.filesystem("memory")

    def put(number: int, name: str = "ranker") -> None:
        folder = write_version(tmp_path / name, number, {"user": 2})
        files.put(str(folder), f"/store/{name}/{number}", recursive=True)

    yield put
    files.rm("/store", recursive=True)


def test_the_highest_complete_version_is_chosen(upload) -> None:
    upload(2)
    upload(10)
    fsspec.filesystem("memory").pipe_file("/store/ranker/11/schema.json", b"{}")
    [chosen] = choose_versions([f"{URL}/"], ["user=3"])
    assert (chosen.model, chosen.version, chosen.folder) == ("ranker", 10, f"{URL}/10")
    table = chosen.tables["user"]
    assert (table.folder, table.rows, table.row_bytes, table.replicas) == (f"{URL}/10/tables/user", 100, 16, 3)


def test_what_is_no_model_is_said(upload) -> None:
    upload(3)
    with pytest.raises(InvalidInput, match=f"{URL}/3 is one version of a model; give the model's folder, {URL}"):
        choose_versions([f"{URL}/3"])
    with pytest.raises(InvalidInput, match="memory://store/nobody holds no complete version"):
        choose_versions(["memory://store/nobody"])
    fsspec.filesystem("memory").rm_file("/store/ranker/3/manifest.json")
    with pytest.raises(InvalidInput, match=r"holds no complete version.*; 3 without manifest.json \(half written\?\)"):
        choose_versions([URL])


def test_a_damaged_version_is_refused(upload) -> None:
    upload(3)
    fsspec.filesystem("memory").pipe_file("/store/ranker/3/dense.pt2", b"PROGRAM")
    with pytest.raises(CorruptData, match=f"{URL}/3/dense.pt2: the checksum"):
        choose_versions([URL])


def test_publishing_looks_beside_the_live_version_or_where_it_is_told(upload, tmp_path: Path) -> None:
    upload(1)
    upload(2)
    spec = initial_spec([0], choose_versions([URL]))
    upload(3)
    assert find_version(Publish(model="ranker"), spec).folder == f"{URL}/3"
    assert find_version(Publish(model="ranker", version=1), spec).folder == f"{URL}/1"
    local = find_version(Publish(model="ranker", version=3, folder=f"file://{tmp_path}/ranker"), spec)
    assert local.folder == str(tmp_path / "ranker" / "3")
    with pytest.raises(InvalidInput, match="ranker/7 is no complete version"):
        find_version(Publish(model="ranker", version=7), spec)
    upload(1, "other")
    with pytest.raises(InvalidInput, match="holds a version of model other, not of ranker"):
        find_version(Publish(model="ranker", folder="memory://store/other"), spec)


def test_shards_need_a_folder_for_the_rows(upload, tmp_path: Path) -> None:
    upload(1)
    versions = choose_versions([URL])
    with pytest.raises(InvalidInput, match=f"{URL}/1 is a URL: give --data-dir"):
        ServeConfig(versions=versions, head=HeadConfig(), state_dir="/state")
    assert ServeConfig(versions=versions, head=HeadConfig(), state_dir="/state", data_dir=tmp_path).versions == versions


def test_a_plan_needs_no_rows(upload) -> None:
    upload(1)
    [table] = planned_tables(choose_versions([URL]), {"user": TableLoad(5, 1)})
    assert (table.name, table.rows, table.row_bytes) == ("ranker/user", 100, 16)


def test_what_lies_at_a_url_can_be_inspected(upload) -> None:
    upload(1)
    fields = read_version(f"{URL}/1", verify=True)
    assert fields.plain()["tables"][0]["folder"] == f"{URL}/1/tables/user"
    assert [(table.rows, table.blocks, table.bad_blocks) for table in fields.tables] == [(100, 1, ())]
    assert read_table(f"{URL}/1/tables/user", verify=False).bytes == fields.tables[0].bytes
    ran = CliRunner().invoke(app, ["inspect", URL, "--json"])
    assert [version["version"] for version in json.loads(ran.output)["versions"]] == [1]
