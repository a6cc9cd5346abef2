"""Roots of models: what lies below one is told by its name, and nothing is read to tell it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.ps.errors import Forbidden, InvalidInput, RingpullError
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedVersion
from ringpull.router.control.model_roots import ModelRoots
from ringpull.router.control.operations import Publish
from ringpull.router.control.process import CoordinatorProcess
from ringpull.router.control.state_files import FolderFiles
from ringpull.router.control.state_store import Owner, StateStore
from tests.router.members import FakeMembers
from tests.router.test_process import FAST, over, settings, spec, version

ROOTS = ModelRoots.of(["/models", "s3://bucket/a", "https://host:8443/m", "simplecache::s3://bucket/c"])


@pytest.mark.parametrize(
    ("folder", "plain"),
    [
        ("/models", "/models"),
        ("/models/ranker", "/models/ranker"),
        ("/models/ranker/", "/models/ranker"),
        ("//models//ranker", "/models/ranker"),
        ("/models/./ranker", "/models/ranker"),
        ("/models/x/../ranker", "/models/ranker"),
        ("/other/../models/ranker", "/models/ranker"),
        ("file:///models/ranker", "/models/ranker"),
        ("FILE:///models/ranker", "/models/ranker"),
        ("s3://bucket/a/ranker/", "s3://bucket/a/ranker"),
        ("S3://bucket/a/ranker", "s3://bucket/a/ranker"),
        ("s3://bucket/a/my%20model", "s3://bucket/a/my%20model"),
        ("https://host:8443/m/x", "https://host:8443/m/x"),
        ("https://host:8443/m/a b;v=2/..x/x..", "https://host:8443/m/a b;v=2/..x/x.."),
        ("s3://bucket/a/caf\u00e9%C3%A9/\u00bd", "s3://bucket/a/caf\u00e9%C3%A9/\u00bd"),
        ("simplecache::s3://bucket/c/x", "simplecache::s3://bucket/c/x"),
    ],
)
def test_what_lies_below_a_root_is_read_by_its_plain_name(folder: str, plain: str) -> None:
    assert ROOTS.admit(folder) == plain


@pytest.mark.parametrize(
    "folder",
    [
        *("/models-evil", "/models-evil/ranker", "/model", "/", "/modelsx", "/Models/ranker", "/etc/models"),
        *("/models/..", "/models/../etc", "/models/a/../../etc", "/models/../models-evil", "models/ranker", "", " "),
        *(
            "../models",
            "~/models",
            "/models\0/x",
            "/models\n",
            "file://etc",
            "file:///etc",
            "FILE:///etc",
            "local:///etc",
        ),
        *("file:///models/../etc", "file:/models", "file://localhost/models/x", "file://host/models"),
        *("s3://bucket/ab", "s3://bucket/a-evil/x", "s3://bucket", "s3://bucket/", "s3://bucket2/a", "s3://Bucket/a"),
        *(
            "s3://bucket/b/../a",
            "s3://bucket/a/../b",
            "s3://bucket/a/%2e%2e/b",
            "s3://bucket/a/%2E./b",
            "s3://bucket/a/.",
        ),
        *("s3://bucket/a/%252e%252e/b", "s3://bucket/a/..%2fb", "s3://bucket/a/x%5c..%5cb", "s3://bucket/a\\..\\b"),
        *(
            "s3://user:secret@bucket/a/x",
            "s3://evil@bucket/a",
            "s3://bucket@evil/a",
            "s3:///bucket/a",
            "s3a://bucket/a",
        ),
        *(
            "gs://bucket/a",
            "http://host:8443/m",
            "https://host/m/x",
            "https://host:8443@evil/m",
            "https://evil/#host:8443/m",
        ),
        *(
            "https://host:8443/m/..;x/s",
            "https://host:8443/m/.. /s",
            "https://host:8443/m/ ../s",
            "https://host:8443/m/. ./s",
        ),
        *("https://host:8443/m/..%00/s", "https://host:8443/m/%2e%2e%3bx/s", "https://host:8443/m/..%20/s"),
        *("https://host:8443/m/..%09/s", "https://host:8443/m/..%0d%0a/s", "https://host:8443/m/..%c2%a0/s"),
        *(
            "https://host:8443/m/\uff0e\uff0e/s",
            "https://host:8443/m/%ef%bc%8e%ef%bc%8e/s",
            "https://host:8443/m/\u2025/s",
        ),
        *("https://host:8443/m/..\uff0fs", "https://host:8443/m/..\uff1bx/s", "https://host:8443/m/\uff052e\uff052e/s"),
        *(
            "https://host:8443/m/.%e2%80%8b./s",
            "https://host:8443/m/x%00/s",
            "https://host:8443/m/..%3fx/s",
            "s3://bucket/a/..;/b",
        ),
        *("https://host:8443/m/../x", "https://host:8443/m/%2e%2e/x", "https://host:8443/mx"),
        *(
            "simplecache::s3://bucket/a/x",
            "filecache::s3://bucket/c",
            "s3://bucket/c/x",
            "zip://x::s3://bucket/a/evil.zip",
        ),
        *("s3://bucket/a/x::file:///etc", "simplecache::s3://bucket/c/x::file:///etc", "/models/x::s3://evil/y"),
        *(
            "simplecache::/models/x",
            "/models/x::memory",
            "::s3://bucket/a",
            "memory://models/x",
            "s3:/bucket/a",
            "s3:bucket",
        ),
    ],
)
def test_what_lies_elsewhere_is_refused(folder: str) -> None:
    with pytest.raises((Forbidden, InvalidInput)):
        ROOTS.admit(folder)


def test_the_error_names_the_roots_and_the_option() -> None:
    with pytest.raises(Forbidden, match=r"/models-evil lies outside .*\(/models, s3://bucket/a, .*--models-root"):
        ROOTS.admit("/models-evil")


def test_roots_by_default_are_the_parents(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    roots = ModelRoots.around([f"{tmp_path}/link/ranker", f"{tmp_path}/x/../other/ranker/", "s3://bucket/a/ranker"])
    for folder in (f"{tmp_path}/link/next", f"{tmp_path}/real/next", f"{tmp_path}/other/next", "s3://bucket/a/next"):
        assert roots.admit(folder) == folder
    for folder in (str(tmp_path), f"{tmp_path}/x/ranker", "s3://bucket/b", "s3://bucket"):
        with pytest.raises(Forbidden):
            roots.admit(folder)


@pytest.mark.parametrize(
    ("folder", "beside"), [("/ranker", "/etc"), ("s3://bucket", "s3://other"), ("s3://b/", "s3://c")]
)
def test_a_root_is_never_everything(folder: str, beside: str) -> None:
    roots = ModelRoots.around([folder])
    assert roots.admit(f"{folder.rstrip('/')}/1")
    with pytest.raises(Forbidden):
        roots.admit(beside)


@pytest.mark.parametrize("root", ["models", "", "s3://bucket/../x", "zip://a::s3://b/c", "/a::b"])
def test_a_root_must_be_one_folder(root: str) -> None:
    with pytest.raises(InvalidInput, match="--models-root"):
        ModelRoots.of([root])


class Disk:
    """What is asked of the disk, instead of it."""

    def __init__(self) -> None:
        self.asked: list[Publish] = []

    def place(self, request: Publish, spec: DeploymentSpec) -> PlacedVersion:
        self.asked.append(request)
        return version(request.version)


def serving(tmp_path: Path, disk: Disk, roots: list[str]) -> CoordinatorProcess:
    coordinator = CoordinatorProcess(
        StateStore(FolderFiles(tmp_path / "state")),
        FakeMembers(1),
        owner=Owner("this one"),
        settings=replace(settings(), place=disk.place, roots=ModelRoots.of(roots)),
        timing=FAST,
    )
    coordinator.bring_up(spec(1))
    assert not over(coordinator).error
    return coordinator


def test_the_coordinator_refuses_before_anything_is_read(tmp_path: Path) -> None:
    """Whoever asks, an operator or a head that watches: the model of the state is served from where it lies."""
    (tmp_path / "state").mkdir()
    disk = Disk()
    coordinator = serving(tmp_path, disk, ["/models"])
    try:
        for folder in ("/models-evil/ranker", "/models/../etc", "s3://bucket/ranker"):
            with pytest.raises(RingpullError, match=r"--models-root|models"):
                coordinator.call(Publish(model="ranker", version=2, folder=folder))
        assert disk.asked == []
        for number, folder in enumerate(("", "/models/ranker", "/models//next/"), 2):
            coordinator.call(Publish(model="ranker", version=number, folder=folder))
            assert not over(coordinator).error
        assert [each.folder for each in disk.asked] == ["", "/models/ranker", "/models/next"]
    finally:
        coordinator.stop()


def test_a_state_whose_model_lies_elsewhere_is_served_and_nothing_new_is_taken_from_there(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    disk = Disk()
    coordinator = serving(tmp_path, disk, ["/releases"])
    try:
        for folder in ("", "/models/ranker"):
            with pytest.raises(Forbidden, match="/models/ranker lies outside"):
                coordinator.call(Publish(model="ranker", version=2, folder=folder))
        assert disk.asked == []
    finally:
        coordinator.stop()
