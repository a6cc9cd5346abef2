"""The checking client: right answers pass, wrong ones and failures are counted, and the oracle is the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull import AsyncClient
from ringpull.inference.prediction import Filled, Prediction
from ringpull.loadtest import rebalance_check
from ringpull.loadtest.chaos.checked_model import MODEL, Weights, expected, export_version, make_requests
from ringpull.loadtest.chaos.rebalance_check import STEPS, CheckingClient, Moved, Oracle, Seen, last_line
from tests.integration.local import LocalCluster, local_cluster

ROWS = {"user": 300, "item": 200, "genre": 19}
REQUESTS = make_requests(12, rows=ROWS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("check") / MODEL
    export_version(folder, 1, ROWS)
    with local_cluster([folder / "1"]) as running:
        yield running


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(REQUESTS, 2, ROWS)


def answer(version: int, scores: np.ndarray, filled: tuple[Filled, ...] = ()) -> Prediction:
    return Prediction(
        model=MODEL, version=version, outputs={"score": scores}, filled=filled, timings=None, request_id=""
    )


async def test_what_is_served_is_what_the_oracle_says(served: LocalCluster, oracle: Oracle) -> None:
    async with AsyncClient(served.target) as connection:
        client = CheckingClient(connection, REQUESTS, oracle)
        await client.warm_up()
        assert (client.seen.predicts, client.seen.failed, client.seen.wrong) == (len(REQUESTS), 0, 0), client.seen
        assert client.seen.versions == {1}
        client.live = {2}
        await client.warm_up()
    assert client.seen.wrong == len(REQUESTS)
    assert client.seen.complaints[0] == "wrong: version 1 answered; live was [2]"


async def test_failures_are_counted(oracle: Oracle) -> None:
    async with AsyncClient("127.0.0.1:1") as connection:
        client = CheckingClient(connection, REQUESTS[:2], oracle)
        await client.warm_up()
    assert (client.seen.predicts, client.seen.failed, client.seen.wrong) == (2, 2, 0)
    assert client.seen.complaints[0].startswith("failed: Unavailable: 127.0.0.1:1")


def test_a_score_that_is_a_little_off_is_wrong(oracle: Oracle) -> None:
    right = expected(Weights.of(2, ROWS), REQUESTS[3]).scores
    assert oracle.complaint(3, answer(2, right.astype(np.float32)), {1, 2}) == ""
    assert "scores" in oracle.complaint(3, answer(2, right + 1e-3), {2})
    assert "scores" in oracle.complaint(3, answer(1, right), {1})
    filled = Filled(feature="user", reason="unavailable", values=1)
    assert oracle.complaint(3, answer(2, right, (filled,)), {2}) == "user: unavailable"


def test_requests_ask_for_known_and_unknown_ids() -> None:
    requests = make_requests(200, rows=ROWS)
    items = np.concatenate([bag for request in requests for bag in request.items])
    assert 0 < (items >= ROWS["item"]).mean() < 0.1
    assert {len(bag) for request in requests for bag in request.items} == set(range(13))
    assert make_requests(3, seed=1)[2] != replace(requests[0], user=-1)


def test_the_last_line() -> None:
    seen = Seen(predicts=10, wrong=1, versions={2, 1})
    seen.seconds["before"] = [0.002] * 100
    seen.seconds["during"] = [0.003] * 100
    line = last_line(seen, Moved(copied=101, least=98, copied_vs_planned=[1.01, 0.7]), 3)
    assert line["predicts"] == 10
    assert (line["failed"], line["wrong"], line["versions_published"]) == (0, 1, 3)
    assert (line["copied_vs_planned"], line["most_copied_vs_planned"]) == (1.01, 1.01)
    assert line["moved_vs_least"] == 1.0306
    assert line["p99_during_vs_before"] == pytest.approx(1.5)
    assert last_line(Seen(), Moved(), 0)["moved_vs_least"] is None


def test_the_steps_go_where_they_say() -> None:
    """Shards 2 -> 4 -> 3 -> 8 -> 2, and the version that each step leaves live."""
    shards = [step.command[step.command.index("--shards") + 1] for step in STEPS if "--shards" in step.command]
    assert shards == ["4", "3", "8", "2"]
    live = 1
    for step in STEPS:
        if step.command[0] == "publish":
            live = int(step.command[1].split("/")[1])
        elif step.command[0] == "rollback":
            live -= 1
        assert step.live == live
    assert max(step.live for step in STEPS) == rebalance_check.VERSIONS
    assert all(a.command != b.command for a, b in itertools.pairwise(STEPS))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebalance_check.console, "quiet", True)


def test_versions_are_exported_with_their_own_numbers(tmp_path: Path) -> None:
    assert not np.array_equal(Weights.of(1, ROWS).top, Weights.of(2, ROWS).top)
    assert np.array_equal(Weights.of(2, ROWS).tables["item"], Weights.of(2, ROWS).tables["item"])
