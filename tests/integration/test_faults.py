"""Shards that die and heads that stop, over real TCP: an answer or an honest error, and service goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from ringpull import TableOptions
from ringpull.inference.client.client import Client
from ringpull.inference.head.config import HeadConfig
from ringpull.ps.errors import InvalidInput, LimitExceeded, Unavailable
from ringpull.ps.placement import ServedRanges
from ringpull.ps.process import ShardProcess
from ringpull.router.shard_map import ShardMap
from tests.inference.tiny import Tiny, export_tiny
from tests.integration.local import local_cluster, open_versions
from tests.integration.ranker import Ranker, offline, random_columns
from tests.reference import assert_close

pytestmark = pytest.mark.net

Exported = tuple[Ranker, Path]


def test_dead_shard_is_unavailable_naming_the_tables_and_shown_by_status(exported: Exported):
    with local_cluster([exported[1]], shards=2) as cluster, cluster.client() as client:
        columns = random_columns(np.random.default_rng(0), 30)
        client.predict("ranker", columns)
        cluster.shards[1].stop(grace_s=0)
        with pytest.raises(Unavailable, match=r"keys of .*item.*shard 1"):
            client.predict("ranker", columns)
        status = client.status()
        assert [shard.alive for shard in status.shards] == [True, False]
        assert status.shards[1].error
        assert status.failed == 1


def test_with_two_copies_a_dead_shard_changes_nothing(exported: Exported):
    module, folder = exported
    with local_cluster([folder], shards=3, replicas=2) as cluster, cluster.client() as client:
        columns = random_columns(np.random.default_rng(0), 30)
        client.predict("ranker", columns)
        cluster.shards[1].stop(grace_s=0)
        for _ in range(5):
            prediction = client.predict("ranker", columns)
            assert_close(prediction.outputs["score"], offline(module, columns, 30)["score"])


def test_table_that_may_be_lost_is_answered_with_defaults_and_the_feature_is_named(tmp_path: Path):
    options = TableOptions(default="mean", on_unavailable="default")
    folder = export_tiny(tmp_path, item=options)
    table = Tiny().item.weight.detach().numpy()
    with local_cluster([folder], shards=1) as cluster, cluster.client() as client:
        columns = {"item": [1, 2, 99], "price": [1.0, 2.0, 3.0]}
        known = client.predict("tiny", columns)
        assert known.filled == ()
        cluster.shards[0].stop(grace_s=0)
        lost = client.predict("tiny", columns)
    prices, default = np.array([1, 2, 3]), table.mean(axis=0)
    assert_close(known.outputs["score"], np.stack([table[1], table[2], default]).sum(1) + prices)
    assert_close(lost.outputs["score"], default.sum() + prices)
    assert [(each.feature, each.reason, each.values) for each in lost.filled] == [("item", "unavailable", 3)]


def test_new_shard_map_brings_a_head_back(exported: Exported):
    module, folder = exported
    with local_cluster([folder], shards=1) as cluster, cluster.client() as client:
        columns = random_columns(np.random.default_rng(0), 10)
        cluster.shards[0].stop(grace_s=0)
        with pytest.raises(Unavailable):
            client.predict("ranker", columns)
        successors = [ShardProcess(0), ShardProcess(1)]
        try:
            first = open_versions(successors, [folder], 1)
            newer = ShardMap(epoch=2, shards=first.shards, ring=first.ring, replicas=first.replicas)
            for shard in successors:
                shard.assign(2, [ServedRanges(newer.ring, newer.replicas)], {("ranker", 1)})
            cluster.head.route(newer, {"ranker": 1}, {("ranker", 1)})
            prediction = client.predict("ranker", columns)
            assert_close(prediction.outputs["score"], offline(module, columns, 10)["score"])
            cluster.head.route(cluster.shard_map, {"ranker": 1}, {("ranker", 1)})  # late news
            assert client.status().epoch == 2
        finally:
            for shard in successors:
                shard.stop(grace_s=0)


@pytest.mark.medium
def test_bad_requests_of_every_kind_leave_the_head_serving(exported: Exported):
    module, folder = exported
    config = HeadConfig(max_message_bytes=200_000, max_candidates=100, default_timeout_s=60)
    rng = np.random.default_rng(0)
    good = random_columns(rng, 5)
    with local_cluster([folder], config=config) as cluster, cluster.client() as client:
        for features, error in (
            ({**good, "user": good["town"]}, InvalidInput),
            ({**good, "price": np.full((5, 2), np.nan, np.float32)}, InvalidInput),
            ({**good, "history": np.zeros(5, np.int64)}, InvalidInput),
            ({"user": good["user"]}, InvalidInput),
            (random_columns(rng, 101), LimitExceeded),
            ({**good, "history": np.zeros((5, 9_000), np.int64)}, LimitExceeded),
        ):
            with pytest.raises(error):
                client.predict("ranker", features)
            prediction = client.predict("ranker", good)
            assert_close(prediction.outputs["score"], offline(module, good, 5)["score"])
        status = client.status()
    assert status.requests == 12
    # gRPC ends the call whose message is over its limit: to the head that is a failure, or a caller who went away.
    assert status.failed in (5, 6)


@pytest.mark.medium
def test_drain_answers_what_is_in_flight_and_then_refuses(exported: Exported):
    module, folder = exported
    with local_cluster([folder]) as cluster:
        stop = threading.Event()
        answered: list[np.ndarray] = []
        columns = random_columns(np.random.default_rng(0), 20)

        def ask_on() -> None:
            with cluster.client() as client:
                try:
                    while not stop.is_set():
                        answered.append(client.predict("ranker", columns).outputs["score"])
                except Unavailable:
                    return

        threads = [threading.Thread(target=ask_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 20:
            stop.wait(0.001)
        cluster.head.drain(timeout_s=60)
        for thread in threads:
            thread.join()
        cluster.head.drain(timeout_s=60)  # again, it does nothing
        expected = offline(module, columns, 20)["score"]
        for scores in answered:
            assert_close(scores, expected)
        with Client(cluster.target, timeout_s=60) as client, pytest.raises(Unavailable):
            client.predict("ranker", columns)


@pytest.mark.medium
def test_http_and_process_status(exported: Exported):
    with local_cluster([exported[1]], shards=2) as cluster:
        base = f"http://127.0.0.1:{cluster.address.http_port}"
        assert httpx.get(f"{base}/healthz").json() == {"status": "SERVING"}
        status = httpx.get(f"{base}/status").json()
        assert [shard["alive"] for shard in status["shards"]] == [True, True]
        assert httpx.get(f"{base}/v1/models").json()["models"][0]["name"] == "ranker"
        assert cluster.head.pid() > 0
        assert cluster.head.memory()["Pss"] > 0
        with grpc.insecure_channel(cluster.target) as channel:
            assert grpc.channel_ready_future(channel).result(timeout=60) is None
