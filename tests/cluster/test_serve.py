"""A private Ray in the foreground: served, predicted, inspected, and gone at the end."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable

import psutil
import pytest

from ringpull import Client
from tests.cluster.conftest import RingpullRun, Serving, alive
from tests.cluster.models import score, write_model
from tests.metrics_page import Page

pytestmark = pytest.mark.ray

ROWS = [(7, ["drama", "crime"]), (999, []), (5_000, ["western", "comedy"])]
"""The last user and its first genre are in no table."""

LOGS = "logs of test_serve"
"""Folder below pytest's own."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    """One deployment for all tests here; the last of them ends it."""
    model = write_model(tmp_path_factory.mktemp("models") / "ranker", 3, user_replicas=2)
    logs = ("--log-dir", tmp_path_factory.getbasetemp() / LOGS, "--log-format", "json")
    return serve(
        model, "--shards", 3, "--replicas", "genre=all", "--prefault", "--verify", "--local-reads", "auto", *logs
    )


def test_the_ready_line_is_true(serving: Serving) -> None:
    assert serving.ready["shards"] == "3"
    assert serving.ready["models"] == "ranker/3"
    with urllib.request.urlopen(f"http://{serving.ready['http']}/healthz") as answer:
        assert answer.status == 200


def test_a_client_gets_the_models_answers(serving: Serving) -> None:
    features = {"user_id": [user for user, _ in ROWS], "genres": [genres for _, genres in ROWS]}
    with Client(serving.ready["grpc"]) as client:
        outputs = client.predict("ranker", features).outputs
    assert outputs["score"].tolist() == pytest.approx([score(user, genres) for user, genres in ROWS])


def test_predict_finds_the_last_served(serving: Serving, ringpull: RingpullRun) -> None:
    """Without a target, and with rows in short form."""
    arguments = [part for user, genres in ROWS for part in ("--features", f"user_id={user},genres={'|'.join(genres)}")]
    ran = ringpull("predict", "ranker", *arguments, "--json", "--timings")
    assert (ran.returncode, ran.stderr) == (0, "")
    answer = json.loads(ran.stdout)
    assert (answer["model"], answer["version"]) == ("ranker", 3)
    assert answer["outputs"]["score"] == pytest.approx([score(user, genres) for user, genres in ROWS])
    assert answer["timings"]["batch_rows"] >= 3


def test_predict_a_request_from_standard_input(serving: Serving, ringpull: RingpullRun) -> None:
    request = {"context": {"user_id": 7}, "features": {"genres": [["drama"], ["crime"]]}}
    ran = ringpull(
        "predict", "ranker", "--json-request", "-", "--target", serving.ready["grpc"], stdin=json.dumps(request)
    )
    assert ran.returncode == 0
    assert "ranker version 3" in ran.stdout
    for genre in ("drama", "crime"):
        assert f"{score(7, [genre]):.6g}" in ran.stdout


def test_one_address_leads_a_scraper_to_every_process(serving: Serving) -> None:
    with Client(serving.ready["grpc"]) as client:
        client.predict("ranker", {"user_id": [1, 2], "genres": [["drama"], []]})
    with urllib.request.urlopen(f"http://{serving.ready['http']}/metrics/targets") as answer:
        targets = json.load(answer)
    assert [each["labels"]["member"] for each in targets] == ["head-0", "shard-0", "shard-1", "shard-2"]
    assert targets[0]["targets"] == [serving.ready["http"]]
    head, *shards = [Page.of(*each["targets"][0].rsplit(":", 1)) for each in targets]
    assert head.value("ringpull_requests_total", model="ranker", code="OK") >= 1
    assert [shard.value("ringpull_shard_info", shard=str(number)) for number, shard in enumerate(shards)] == [1, 1, 1]
    # The files are on the head's machine: no shard is asked, but for the self-check.
    assert 0 < head.total("ringpull_keys_total") == head.total("ringpull_local_keys_total")
    assert head.value("ringpull_pull_messages_total") == head.value("ringpull_local_refused_total") == 0


def test_every_process_logs_to_a_file_of_its_own(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / LOGS
    lines = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}
    assert set(lines) == {"ringpull-coordinator", "ringpull-head-0", *(f"ringpull-shard-{i}" for i in range(3))}
    for stem, told in lines.items():
        assert {line["member"] for line in told} == {stem.removeprefix("ringpull-")}
    assert {"change under way", "change done"} <= {line["event"] for line in lines["ringpull-coordinator"]}
    assert {"version loaded", "head listens"} <= {line["event"] for line in lines["ringpull-head-0"]}
    assert [line["event"] for line in lines["ringpull-shard-0"]] == [
        "shard listens",
        "shard prepared",
        "shard assigned",
    ]


def test_a_wrong_feature_is_one_clear_line(serving: Serving, ringpull: RingpullRun) -> None:
    ran = ringpull("predict", "ranker", "--features", "usr=7")
    assert ran.returncode == 1
    assert ran.stderr == "error: feature usr is not one of this model; it takes genres, user_id\n"
    unknown = ringpull("predict", "nobody", "--features", "a=1")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr


def test_status_counts_everything(serving: Serving, ringpull: RingpullRun) -> None:
    before = json.loads(ringpull("status", "--json").stdout)
    with Client(serving.ready["grpc"]) as client:
        client.predict("ranker", {"user_id": [1, 2, 5_000], "genres": [["drama"], ["western"], []]})
    after = json.loads(ringpull("status", "--json").stdout)

    assert (after["epoch"], after["failed"]) == (1, before["failed"])
    shards = after["shards"]
    assert [shard["shard"] for shard in shards] == [0, 1, 2]
    assert all(shard["alive"] and shard["memory_bytes"] > 0 for shard in shards)
    assert sum(shard["share"] for shard in shards) == pytest.approx(1)
    rows = {(shard["shard"], table["table"]): table["rows"] for shard in shards for table in shard["tables"]}
    assert sum(rows[shard, "user"] for shard in range(3)) == 2 * 1000, "two copies"
    assert [rows[shard, "genre"] for shard in range(3)] == [3, 3, 3], "a copy on every shard"

    def tables(status: dict) -> dict:
        return {table["table"]: table for table in status["tables"]}

    old, new = tables(before), tables(after)
    assert (new["user"]["replicas_wanted"], new["user"]["replicas_effective"]) == ("2", 2)
    assert (new["genre"]["replicas_wanted"], new["genre"]["replicas_effective"]) == ("all", 3)
    for table, keys, missing in (("user", 3, 1), ("genre", 2, 1)):
        assert new[table]["keys"] - old[table]["keys"] == keys
        assert new[table]["missing"] - old[table]["missing"] == missing


def test_status_as_people_read_it(serving: Serving, ringpull: RingpullRun) -> None:
    ran = ringpull("status")
    assert ran.returncode == 0
    for part in ("100% of keys local", serving.ready["grpc"], "3/3 shards", "ranker/user", "2 of 2", "3 of all"):
        assert part in ran.stdout


def test_ctrl_c_stops_everything(serving: Serving, ringpull: RingpullRun) -> None:
    """SIGINT to the whole group, as a terminal sends it: exit 0, no process of it left, and the record is gone."""
    below = psutil.Process(serving.process.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in below)
    assert serving.end(signal.SIGINT) == 0
    assert alive(below) == []
    assert "nothing is served from here" in ringpull("status").stderr
