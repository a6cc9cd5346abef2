"""How tables come to take pushes: by `serve --live`, by an export or import; and what people are told of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ringpull import TableOptions, export_tables
from ringpull.deploy import doors
from ringpull.deploy.model_folders import choose_versions
from ringpull.deploy.view.status_view import live_tables, tables_table
from ringpull.inference.importers.tables.import_tables import import_tables
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.ps.errors import InvalidInput
from ringpull.ps.live.settings import Durability
from tests.deploy.folders import write_version
from tests.deploy.running import Run

Serve = Callable[..., SimpleNamespace]


def live_of(folder: Path) -> list[str]:
    return [entry.spec.name for entry in Manifest.load(folder).tables if entry.live]


def test_serve_makes_a_table_live(serve: Serve, tmp_path: Path) -> None:
    config = serve("--live", "user", "--data-dir", tmp_path / "data", "--log-limit", "16MiB").config
    assert config.versions[0].live_tables == ("user",)
    assert (config.live.durability, config.live.log_limit_bytes) == (Durability.SYNC, 16 << 20)
    config = serve("--live", "ranker/user", "--push-durability", "memory", "--newer-memory", "3MiB").config
    assert (config.live.durability, config.live.newer_memory_bytes) == (Durability.MEMORY, 3 << 20)
    assert serve().config.versions[0].live_tables == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--live", "usr", "--data-dir", "data"), "--live usr: there is no table usr; there is ranker/user"),
        (("--live", "user"), "--live needs --data-dir, where each shard has its log"),
        (("--live", "user", "--push-durability", "sync"), "--push-durability sync goes with --data-dir"),
        (("--push-durability", "written"), "--push-durability written goes with --data-dir"),
        (("--push-durability", "always"), "--push-durability is 'always'; it must be one of sync, written, memory"),
        (("--log-limit", "0"), "--log-limit '0'"),
        (("--log-limit", "15MiB"), "--log-limit is 15728640 bytes; 16777216 are the least"),
        (("--newer-memory", "much"), "--newer-memory 'much'"),
        (("--max-push-bytes", "0"), "--max-push-bytes is 0"),
    ],
)
def test_what_cannot_be_is_refused_by_its_option(serve: Serve, options: tuple[str, ...], message: str) -> None:
    said = serve(*options)
    assert said.config is None
    assert message in said.err


def test_a_name_of_two_models_is_asked_for_whole(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_version(folder, 1)
    with pytest.raises(InvalidInput, match="--live user: user could be a/user and b/user; write MODEL/TABLE"):
        choose_versions(folders, live=["user"])
    assert [each.live_tables for each in choose_versions(folders, live=["b/user", "b/user"])] == [(), ("user",)]


def test_exports_and_imports_make_tables_live(ringpull: Run, tmp_path: Path) -> None:
    given: dict[str, Any] = {name: ([1, 2], np.ones((2, 3), np.float32)) for name in ("a", "b")}
    report = export_tables(given, tmp_path / "one", 1, options={"b": TableOptions(live=True)}, quiet=True)
    assert live_of(report.path) == ["b"]
    assert choose_versions([tmp_path / "one"], live=["a"])[0].live_tables == ("a", "b")
    np.savez(tmp_path / "a.npz", id=np.array([1]), vector=np.ones((1, 2), np.float32))
    ran = ringpull("import", "table", tmp_path / "a.npz", tmp_path / "two", "--live", "a")
    assert ran.status == 0, ran.err
    assert live_of(tmp_path / "two" / "1") == ["a"]
    ran = ringpull("import", "table", tmp_path / "a.npz", tmp_path / "three", "--live", "b")
    assert "--live b: there is no table b; there is a" in ran.err
    with pytest.raises(InvalidInput, match="table a: live is 1; it must be True or False"):
        import_tables({"a": tmp_path / "a.npz"}, tmp_path / "four", 1, options={"a": TableOptions(live=1)})  # type: ignore[arg-type]
    text = ringpull("inspect", tmp_path / "two").out
    assert "float32, live" in text


def test_people_are_told_who_may_push_and_what_takes_none(serve: Serve, tmp_path: Path) -> None:
    open_to_all = serve("--live", "user", "--data-dir", tmp_path, "--host", "0.0.0.0").config
    [warning] = doors.warnings(open_to_all)
    assert "whoever reaches it can predict, and look at everything, and push rows of ranker/user" in warning
    assert doors.warnings_of_live_tables(open_to_all) == []
    [version] = open_to_all.versions
    exported_live = replace(serve().config, versions=(version,))
    [warning] = doors.warnings_of_live_tables(exported_live)
    assert "ranker/user take no pushes: there is no --data-dir" in warning


def test_status_says_which_tables_are_live() -> None:
    infos = [pb.TableInfo(name="user", live=True), pb.TableInfo(name="item")]
    tables = [pb.TableStatus(model="ranker", table=name, version=1) for name in ("user", "item")]
    status = pb.ClusterStatus(models=[pb.Model(name="ranker", tables=infos)], tables=tables)
    console = Console(file=StringIO(), width=120)
    console.print(tables_table(status.tables, live_tables(status)))
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert "ranker/user (live)" in shown
    assert "ranker/item (live)" not in shown
