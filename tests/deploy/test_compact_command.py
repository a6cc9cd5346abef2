"""`ringpull compact` through the same entry as the shell, over real shards; the coordinator's verbs are faked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull import TableOptions, export_tables
from ringpull.deploy import coordinator_client
from ringpull.deploy.view import change_watch
from ringpull.inference.model.manifest import Manifest
from tests.deploy.running import Run
from tests.integration.deployed import Deployed

pytestmark = [pytest.mark.net]
TARGET = ("--target", "127.0.0.1:8500")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    given = (np.arange(100), np.ones((100, 4), np.float32))
    options = {"user": TableOptions(live=True)}
    export_tables({"user": given, "fixed": given}, tmp_path / "feed", 1, options=options, quiet=True)
    return tmp_path / "feed"


@pytest.fixture
def deployed(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    with Deployed(models, tmp_path / "data", 1) as running:

        @contextmanager
        def connect(target: str) -> Iterator[Deployed]:
            yield running

        monkeypatch.setattr(coordinator_client, "connect", connect)
        monkeypatch.setattr(change_watch, "POLL_S", 0.0)
        yield running


def test_it_is_written_and_published(ringpull: Run, deployed: Deployed, models: Path) -> None:
    deployed.push("user", [0, 200], np.full((2, 4), 5, np.float32))
    ran = ringpull("compact", "feed", *TARGET)
    assert ran.status == 0, ran.err
    assert "user: 101 rows, written anew\nfixed: 100 rows, as before\n" in ran.out
    assert f"feed/2 was written to {models / '2'}; publish it with: ringpull publish feed/2" in ran.out
    ran = ringpull("compact", "feed", "--version", 7, "--max-mb-per-s", 100, "--publish", "--json", *TARGET)
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert (told["model"], told["version"], told["follows"], told["folder"]) == ("feed", 7, 1, str(models / "7"))
    assert told["lineage"] == Manifest.load(models / "1").identity
    assert told["includes"].startswith("0:")
    assert [(each["name"], each["rows"], each["written"]) for each in told["tables"]] == [
        ("user", 101, True),
        ("fixed", 100, False),
    ]
    assert told["published"]["subject"] == "feed/7"
    ran = ringpull("compact", "feed", "--to", models.parent / "other place", *TARGET)
    assert ran.status == 0, ran.err
    assert f"publish it with: ringpull publish feed/8 --folder '{models.parent / 'other place'}'" in ran.out
    [published] = deployed.published
    assert (published.model, published.version, published.folder) == ("feed", 7, "")
    rows, found = deployed.rows("user", [0, 200, 300], as_exported=True)
    assert rows[:2] == [np.full(4, 5, np.float32).tobytes()] * 2
    assert found.tolist() == [True, True, False]


def test_what_cannot_be_is_refused_with_what_would_be_right(
    ringpull: Run, deployed: Deployed, models: Path, tmp_path: Path
) -> None:
    for arguments, reason in (
        (("feed/1",), "'feed/1': give the name of the model alone"),
        (("other",), "model 'other' is not served; there is feed"),
        (("feed", "--version", "1"), "--version is 1; it must be above 1"),
        (("feed", "--version", "0"), "--version is 0; it must be 1 or more"),
        (("feed", "--max-mb-per-s", "0"), "--max-mb-per-s is 0"),
        (("feed", "--to", str(models / "1")), "1 is one version of a model; give the model's folder"),
        (("feed", "--tls-cert", str(models / "none.pem"), "--tls-key", "x"), "none.pem"),
    ):
        ran = ringpull("compact", *arguments, *TARGET)
        assert (ran.status, ran.out) == (1, ""), ran
        assert reason in ran.err
    assert [path.name for path in models.iterdir()] == ["1"]
    [placed] = deployed.spec.versions
    deployed.spec = replace(deployed.spec, versions=(replace(placed, folder="s3://bucket/feed/1"),))
    ran = ringpull("compact", "feed", *TARGET)
    assert "feed/1 lies at s3://bucket/feed, where ringpull writes nothing: give --to FOLDER" in ran.err
    plain = replace(placed, live_tables=())
    deployed.spec = replace(deployed.spec, versions=(plain,))
    ran = ringpull("compact", "feed", *TARGET)
    assert (ran.status, ran.out) == (
        0,
        "nothing to compact: the live version of feed has no deltas, and no table of it takes pushes\n",
    )
    assert json.loads(ringpull("compact", "feed", "--json", *TARGET).out)["version"] is None
