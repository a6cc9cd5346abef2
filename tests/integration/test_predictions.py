"""What a head over real shards answers equals the module's own predictions, however slots and requests are cut."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ringpull.inference.schema.columns import Column
from ringpull.ps.errors import NotFound
from ringpull.ps.spec import ALL, Replicas
from tests.integration.local import LocalCluster, local_cluster
from tests.integration.ranker import Ranker, export_ranker, offline, random_columns, repeated
from tests.reference import assert_close

pytestmark = pytest.mark.net

Exported = tuple[Ranker, Path]


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert_close(actual[name], values)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("shards", "replicas"), [(1, 1), (2, 1), (3, 1), (5, 1), (8, 1), (2, 2), (5, 2), (3, ALL), (8, ALL), (1, 3)]
)
def test_served_predictions_equal_the_modules_own(exported: Exported, shards: int, replicas: Replicas):
    module, folder = exported
    rng = np.random.default_rng(shards)
    with local_cluster([folder], shards=shards, replicas=replicas) as cluster, cluster.client() as client:
        for rows in (1, 2, 33, 200):
            columns = random_columns(rng, rows)
            prediction = client.predict("ranker", columns)
            assert prediction.version == 1
            assert_same(dict(prediction.outputs), offline(module, columns, rows))


@pytest.fixture(scope="module")
def cluster(exported: Exported) -> Iterator[LocalCluster]:
    with local_cluster([exported[1]], shards=3) as cluster:
        yield cluster


@pytest.mark.medium
def test_context_and_candidates_equal_row_by_row_whatever_is_context(exported: Exported, cluster: LocalCluster):
    module, _ = exported
    rng = np.random.default_rng(3)
    names = sorted(random_columns(rng, 1))
    with cluster.client() as client:
        for _ in range(25):
            rows = int(rng.integers(1, 12))
            in_context = set(rng.choice(names, rng.integers(0, len(names)), replace=False))
            context = {name: column for name, column in random_columns(rng, 1).items() if name in in_context}
            candidates = {name: column for name, column in random_columns(rng, rows).items() if name not in in_context}
            whole: dict[str, Column] = {**candidates, **repeated(context, rows)}
            prediction = client.predict("ranker", candidates, context)
            assert_same(dict(prediction.outputs), offline(module, whole, rows))


@pytest.mark.medium
def test_callers_at_once_share_batches_and_get_their_own_rows(exported: Exported, cluster: LocalCluster):
    module, _ = exported

    def ask(seed: int) -> int:
        rng = np.random.default_rng(seed)
        rows = int(rng.integers(1, 20))
        user = {name: column for name, column in random_columns(rng, 1).items() if name in ("user", "town", "history")}
        rest = {name: column for name, column in random_columns(rng, rows).items() if name not in user}
        candidates, context = (rest, user) if seed % 2 else ({**rest, **repeated(user, rows)}, {})
        prediction = client.predict("ranker", candidates, context, with_timings=True)
        assert_same(dict(prediction.outputs), offline(module, {**rest, **repeated(user, rows)}, rows))
        assert prediction.timings is not None
        return prediction.timings.batch_rows - rows

    with cluster.client() as client, ThreadPoolExecutor(16) as threads:
        others = list(threads.map(ask, range(120)))
    assert max(others) > 0  # some rode with others


@pytest.mark.medium
def test_both_versions_of_a_model_answer_and_the_newest_is_live(exported: Exported):
    first, folder = exported
    second, second_folder = export_ranker(folder.parent.parent, version=2, seed=9)
    columns = random_columns(np.random.default_rng(0), 7)
    with local_cluster([folder, second_folder]) as cluster, cluster.client() as client:
        for version, module in ((1, first), (2, second)):
            prediction = client.predict("ranker", columns, version=version)
            assert prediction.version == version
            assert_same(dict(prediction.outputs), offline(module, columns, 7))
        assert client.predict("ranker", columns).version == 2
        assert list(client.model("ranker").versions) == [1, 2]
        with pytest.raises(NotFound, match="no version 3"):
            client.predict("ranker", columns, version=3)


def test_status_shows_shards_tables_and_missing_keys(exported: Exported):
    _, folder = exported
    with local_cluster([folder], shards=2) as cluster, cluster.client() as client:
        columns = random_columns(np.random.default_rng(0), 4)
        columns["user"] = np.array([5, -5, 5, 6])  # all unknown
        checked = {table.table: table for table in client.status().tables}  # by the head, before it served
        client.predict("ranker", columns)
        status = client.status()
    assert [(shard.shard, shard.alive, shard.ranges) for shard in status.shards] == [(0, True, 1), (1, True, 1)]
    assert sum(shard.share for shard in status.shards) == 1
    tables = {table.table: table for table in status.tables}
    assert tables["user"].keys - checked["user"].keys == 4
    assert tables["user"].missing - checked["user"].missing == 4
    assert tables["user"].rows == 200
    assert sum(table.rows for shard in status.shards for table in shard.tables if table.table == "user") == 200
    assert (status.requests, status.failed, status.epoch) == (1, 0, 1)
    assert status.device
