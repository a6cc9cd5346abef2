"""`load`, `unload` and `label` through the same entry as the shell; the coordinator is faked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.deploy import coordinator_client
from ringpull.deploy.view import change_watch
from ringpull.router.control.change import Kind
from ringpull.router.control.operations import ChangeStatus, LabelVersion, LoadModel, UnloadModel
from tests.deploy.fake_operations import FakeOperations, connected
from tests.deploy.running import Run

TARGET = ("--target", "127.0.0.1:8500")


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> FakeOperations:
    fake = FakeOperations()
    monkeypatch.setattr(coordinator_client, "connect", lambda target: connected(fake))
    monkeypatch.setattr(change_watch, "POLL_S", 0.0)
    return fake


def test_load_tells_the_phases_and_what_is_live(ringpull: Run, operations: FakeOperations, tmp_path: Path) -> None:
    ran = ringpull(
        *("load", tmp_path / "other", "--version", 3, "--replicas", "item=2", "--replicas", "other/user=all"),
        *("--trust-files", *TARGET),
    )
    assert (ran.status, ran.out) == (0, "other/3 is live\n")
    assert "✓ loading" in ran.err
    assert operations.submitted == [
        LoadModel(
            folder=str(tmp_path / "other"),
            version=3,
            pinned=True,
            replicas={"item": 2, "other/user": "all"},
            trust_files=True,
        )
    ]


def test_paths_are_made_absolute_and_urls_are_left(
    ringpull: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ringpull("load", "other", *TARGET).status == 0
    assert ringpull("load", "s3://bucket/other", *TARGET).status == 0
    folders = [request.folder for request in operations.submitted if isinstance(request, LoadModel)]
    assert folders == [str(tmp_path / "other"), "s3://bucket/other"]


def test_what_is_live_already_is_said_to_be(
    ringpull: Run, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "load", lambda request: ChangeStatus(kind=Kind.LOAD, subject="ranker/3"))
    ran = ringpull("load", "/m/ranker", *TARGET)
    assert (ran.status, ran.out) == (0, "ranker/3 is live already\n")
    assert json.loads(ringpull("load", "/m/ranker", "--json", *TARGET).out)["id"] == 0


@pytest.mark.parametrize("arguments", [("--version", 0), ("--replicas", "item"), ("--replicas", "item=0")], ids=str)
def test_load_refuses_what_makes_no_sense(
    ringpull: Run, operations: FakeOperations, arguments: tuple[object, ...]
) -> None:
    ran = ringpull("load", "/m/other", *arguments, *TARGET)
    assert ran.status == 1
    assert str(arguments[0]) in ran.err
    assert operations.submitted == []


def test_a_model_that_cannot_be_loaded_is_an_error_with_the_reason(ringpull: Run, operations: FakeOperations) -> None:
    operations.error = "shard 0: damaged"
    ran = ringpull("load", "/m/other", *TARGET)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == "error: load other/1 was given up: shard 0: damaged"


def test_unload_tells_that_it_is_done(ringpull: Run, operations: FakeOperations) -> None:
    assert ringpull("unload", "other", *TARGET).out == "other is served no more\n"
    assert json.loads(ringpull("unload", "other", "--json", *TARGET).out)["kind"] == "unload"
    assert operations.submitted == [UnloadModel(model="other")] * 2


def test_labels_are_set_and_taken_away_and_what_there_is_is_told(ringpull: Run, operations: FakeOperations) -> None:
    operations.status_now = replace(
        operations.status_now, spec=replace(operations.status_now.spec, labels={"ranker": {"canary": 8, "stable": 7}})
    )
    ran = ringpull("label", "ranker", "stable=7", "canary=8", "--remove", "old", *TARGET)
    assert (ran.status, ran.out) == (0, "labels of ranker: canary=8, stable=7\n")
    assert operations.submitted == [LabelVersion(model="ranker", labels={"stable": 7, "canary": 8}, remove=("old",))]
    fields = json.loads(ringpull("label", "ranker", "--remove", "old", "--json", *TARGET).out)
    assert (fields["kind"], fields["labels"]) == ("label", {"canary": 8, "stable": 7})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give LABEL=VERSION, or --remove LABEL"),
        (("stable",), "write LABEL=VERSION"),
        (("stable=",), "write LABEL=VERSION"),
        (("=7",), "write LABEL=VERSION"),
        (("stable=0",), "write LABEL=VERSION"),
        (("stable=7", "stable=8"), "label stable is given twice"),
        (("sta/ble=7",), "letters, digits"),
        (("stable=7", "--remove", "stable"), "label 'stable' is to be set and removed"),
    ],
    ids=str,
)
def test_label_refuses_what_makes_no_sense(
    ringpull: Run, operations: FakeOperations, arguments: tuple[str, ...], said: str
) -> None:
    ran = ringpull("label", "ranker", *arguments, *TARGET)
    assert (ran.status, operations.submitted) == (1, [])
    assert said in ran.err
