"""Damaged files as an operator meets them: a publish that refuses them, a copy that is repaired while it is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringpull import Client
from tests.cluster.conftest import RingpullRun, Serving, StatusOf
from tests.cluster.models import score, write_model
from tests.cluster.watching import until
from tests.ps.damaging import flip, zero

pytestmark = [pytest.mark.ray, pytest.mark.net]

ROWS = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("models") / "ranker"
    for version in (2, 3):
        write_model(model, version, rows=ROWS)
    (model / "2").rename(model.parent / "2")
    (model / "3").rename(model.parent / "3")
    return write_model(model, 1, rows=ROWS)


def right(serving: Serving, version: int) -> bool:
    """Return whether every user is answered for, and right."""
    with Client(serving.ready["grpc"], retries=0) as client:
        answer = client.predict("ranker", {"user_id": list(range(ROWS)), "genres": [["drama"]] * ROWS})
    assert answer.outputs["score"].tolist() == pytest.approx([score(user, ["drama"]) for user in range(ROWS)])
    return answer.version == version


def test_a_publish_refuses_damaged_rows_and_a_copy_is_repaired(
    folder: Path, serve: Callable[..., Serving], status_of: StatusOf, tmp_path: Path
) -> None:
    serving = serve(folder, "--shards", 2, "--replicas", "user=2", "--data-dir", tmp_path, "--scrub-rate", "1GiB")
    assert right(serving, 1)
    for copy in (tmp_path / "shard-0").rglob("user/*/rows"):
        zero(copy, 0, 64)

    def repaired() -> bool:
        found = [copy.read_bytes() for copy in (tmp_path / "shard-0").rglob("user/base-*/rows")]
        return bool(found) and not any(content.startswith(bytes(64)) for content in found)

    until("the copy is repaired", repaired)
    assert right(serving, 1)
    until("nobody warns", lambda: not status_of(serving.ready["grpc"])["warnings"])
    serving.end()


def test_a_publish_of_files_in_place_checks_them(
    folder: Path, serve: Callable[..., Serving], ringpull: RingpullRun
) -> None:
    serving = serve(folder, "--shards", 2, "--scrub-rate", "0")
    target = ("--target", serving.ready["grpc"])
    rows = folder.parent / "2" / "user" / "rows"
    zero(rows, 0, 4096)
    for version in (2, 3):
        (folder.parent / str(version)).rename(folder / str(version))
    refused = ringpull("publish", "ranker/2", *target)
    assert refused.returncode == 1
    assert f"{folder}/2/user/rows: block 0, rows 0 to" in refused.stderr
    assert right(serving, 1)
    status = json.loads(ringpull("rebalance", "--status", "--json", *target).stdout)
    assert "rows: block 0" in status["error"]
    trusted = ringpull("publish", "ranker/2", "--trust-files", *target)
    assert trusted.returncode == 0, trusted.stderr
    done = json.loads(ringpull("publish", "ranker/3", "--json", *target).stdout)
    assert done["checked_bytes"] == done["bytes_to_check"] > 0
    assert right(serving, 3)
    flip(folder / "2" / "user" / "rows", -1)
    assert "ranker/2" in ringpull("rollback", "ranker", "2", *target).stdout
    serving.end()
