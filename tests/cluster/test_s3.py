"""A model that lies in S3, served from there: each shard fetches what it owns, and new shards need no S3 at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringpull import Client
from ringpull.ps.store.base import Base
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import score, write_model
from tests.object_store import S3

pytestmark = [pytest.mark.ray, pytest.mark.net]

ROWS = {1: 1000, 2: 500}
"""Version -> rows of its user table."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture(scope="module")
def environment(environment: dict[str, str], s3: S3) -> dict[str, str]:
    return {**environment, **s3.environment}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def upload(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    exported = tmp_path_factory.mktemp("models") / "ranker"

    def put(version: int) -> str:
        write_model(exported, version, rows=ROWS[version])
        s3.put(exported / str(version), f"ranker/{version}")
        return "s3://models/ranker"

    return put


@pytest.fixture(scope="module")
def serving(s3: S3, upload: Callable[[int], str], data_dir: Path, serve: Callable[..., Serving]) -> Serving:
    return serve(upload(1), "--shards", 2, "--data-dir", data_dir, "--data-limit", "64MiB")


def assert_right(serving: Serving, version: int) -> None:
    """Ask for users of every part of the ring, and for two that are in no table."""
    users, genres = [*range(0, 1000, 7), 1000, 5_000], ["drama", "western"]
    with Client(serving.ready["grpc"]) as client:
        answer = client.predict("ranker", {"user_id": users, "genres": [genres] * len(users)})
    assert answer.version == version
    expected = [score(user, genres, rows=ROWS[version]) for user in users]
    assert answer.outputs["score"].tolist() == pytest.approx(expected)


def users_held(data_dir: Path, version: int) -> dict[str, int]:
    """Return how many users each shard has on its disk."""
    bases = {path.parts[-5]: Base.open(path) for path in data_dir.glob(f"shard-*/ranker/{version}/user/base-*")}
    return {shard: base.rows for shard, base in bases.items()}


def test_each_shard_has_its_part_and_the_head_no_rows(serving: Serving, data_dir: Path) -> None:
    assert_right(serving, 1)
    held = users_held(data_dir, 1)
    assert sum(held.values()) == ROWS[1]
    assert sorted(held) == ["shard-0", "shard-1"]
    assert list((data_dir / "head-0").rglob("manifest.json"))
    assert not list((data_dir / "head-0").rglob("rows"))


def test_a_version_uploaded_later_is_published(
    serving: Serving, upload: Callable[[int], str], data_dir: Path, ringpull: RingpullRun
) -> None:
    upload(2)
    ran = ringpull("publish", "ranker", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["error"] == ""
    assert_right(serving, 2)
    assert sum(users_held(data_dir, 2).values()) == ROWS[2]


def test_a_shard_that_cannot_reach_s3_gets_its_part_from_owners(
    serving: Serving, s3: S3, data_dir: Path, ringpull: RingpullRun
) -> None:
    s3.forget()
    s3.refuses = lambda key: True
    ran = ringpull("rebalance", "--shards", 3, "--yes")
    assert ran.returncode == 0, ran.stderr
    assert_right(serving, 2)
    assert "shard-2" in users_held(data_dir, 2)
    assert s3.given == {}
