"""The script of changes and its last line; and the checked load: right answers pass, wrong ones and failures count."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringpull import AsyncClient
from ringpull.inference.prediction import Filled, Prediction
from ringpull.loadtest.chaos.checked_load import CheckedLoad
from ringpull.loadtest.chaos.checked_model import MODEL, Weights, expected, export_version, make_requests
from ringpull.loadtest.chaos.oracle import Live, Oracle, Question, Verdict
from ringpull.loadtest.chaos.rebalance_check import SCRIPT, SETTLED_S, VERSIONS, Moved, by_command, last_line
from ringpull.loadtest.chaos.record import Record, Span
from ringpull.loadtest.chaos.schedule import Kind
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
    return Oracle(REQUESTS, {MODEL: 2}, ROWS)


def answer(version: int, scores: np.ndarray, filled: tuple[Filled, ...] = ()) -> Prediction:
    return Prediction(
        model=MODEL, version=version, outputs={"score": scores}, filled=filled, timings=None, request_id=""
    )


async def asked(target: str, oracle: Oracle, live: int) -> CheckedLoad:
    """Ask everything once or more, four requests at a time."""
    async with AsyncClient(target, retries=0) as client:
        load = CheckedLoad(client.predict, (MODEL,), oracle, Live({MODEL: live}), client.top_k)
        load.start_closed(4, 0.001)
        while len(load.record.verdicts) < len(REQUESTS) + len(oracle.rankings):
            await asyncio.sleep(0.01)
        await load.stop()
    return load


async def test_what_is_served_is_what_the_oracle_says(served: LocalCluster, oracle: Oracle) -> None:
    load = await asked(served.target, oracle, live=1)
    assert set(load.record.verdicts) == {Verdict.RIGHT}, load.record.troubles
    assert load.versions == {1}
    load = await asked(served.target, oracle, live=2)
    assert set(load.record.verdicts) == {Verdict.WRONG}
    assert load.record.troubles[0].text == "checked/1 answered; live was checked/[2]"


async def test_a_wrong_answer_while_warming_up_is_counted(served: LocalCluster, oracle: Oracle) -> None:
    async with AsyncClient(served.target, retries=0) as client:
        load = CheckedLoad(client.predict, (MODEL,), oracle, Live({MODEL: 2}))
        warm_up = await load.ask_all()
    assert list(warm_up.verdicts) == [Verdict.WRONG] * len(REQUESTS)
    assert not load.record.verdicts


async def test_failures_are_counted(oracle: Oracle) -> None:
    load = await asked("127.0.0.1:1", oracle, live=1)
    assert set(load.record.verdicts) == {Verdict.FAILED}
    assert len(load.record.troubles) == len(load.record.verdicts)
    assert load.record.troubles[0].error == "Unavailable"
    assert "127.0.0.1:1" in load.record.troubles[0].text


def test_a_score_that_is_a_little_off_is_wrong(oracle: Oracle) -> None:
    right = expected(Weights.of(2, ROWS), REQUESTS[3]).scores
    question = Question(MODEL, 3)
    assert oracle.judge(question, answer(2, right.astype(np.float32)), frozenset({1, 2})) == (Verdict.RIGHT, "")
    filled = Filled(feature="user", reason="unavailable", values=1)
    wrong = {
        "scored": answer(2, right + 1e-3),
        "checked/1 answered": answer(1, right),
        "user (unavailable)": answer(2, right, (filled,)),
    }
    for text, given in wrong.items():
        verdict, said = oracle.judge(question, given, frozenset({2}))
        assert verdict is Verdict.WRONG
        assert text in said
    assert "scored" in oracle.judge(question, answer(1, right), frozenset({1}))[1]


def test_requests_ask_for_known_and_unknown_ids() -> None:
    requests = make_requests(200, rows=ROWS)
    items = np.concatenate([bag for request in requests for bag in request.items])
    assert 0 < (items >= ROWS["item"]).mean() < 0.1
    assert {len(bag) for request in requests for bag in request.items} == set(range(13))
    assert make_requests(3, seed=1)[2] != replace(requests[0], user=-1)


def test_the_last_line() -> None:
    """100 requests in calm, 100 while a change is under way, some while its command starts and ends."""
    record = Record(spans=[Span(Kind.REBALANCE, 10.0, 20.0)])
    under_way = [Span(Kind.REBALANCE, 11.0, 19.0)]
    for due_s, took_s, count in ((5.0, 0.002, 99), (10.5, 9.0, 3), (15.0, 0.003, 100), (20.0 + SETTLED_S / 2, 9.0, 3)):
        for _ in range(count):
            record.ended(due_s, due_s + took_s, Verdict.RIGHT)
    record.ended(25.0, 25.002, Verdict.WRONG, "wrong", "scored")
    for due_s in (5.0, 15.0):  # in no percentile: they were not answered
        record.ended(due_s, due_s + 60.0, Verdict.FAILED, "Unavailable", "checked: gone")
    warm_up = Record()
    for verdict in (*[Verdict.RIGHT] * 8, Verdict.WRONG, Verdict.FAILED):
        warm_up.ended(0.0, 9.0, verdict)
    line = last_line(record, under_way, Moved(copied=101, least=98, copied_vs_planned=[1.01, 0.7]), warm_up)
    assert line["predicts"] == 218
    assert (line["failed"], line["wrong"]) == (3, 2)
    assert (line["copied_vs_planned"], line["most_copied_vs_planned"]) == (1.01, 1.01)
    assert line["moved_vs_least"] == 1.0306
    assert (line["p99_before_ms"], line["p99_during_ms"]) == (2.0, 3.0)
    assert line["p99_during_vs_before"] == pytest.approx(1.5)
    assert last_line(Record(), [], Moved(), Record())["moved_vs_least"] is None


def test_the_steps_go_where_they_say() -> None:
    """Shards 2 -> 4 -> 3 -> 8 -> 2, and the version that each step leaves live."""
    shards = [step.words[step.words.index("--shards") + 1] for step in SCRIPT if "--shards" in step.words]
    assert shards == ["4", "3", "8", "2"]
    live = 1
    for step in SCRIPT:
        if step.kind is Kind.PUBLISH:
            live = int(step.words[1].split("/")[1])
        elif step.kind is Kind.ROLLBACK:
            live -= 1
        assert step.live == live
    assert max(step.live for step in SCRIPT) == VERSIONS
    assert all(a.words != b.words for a, b in itertools.pairwise(SCRIPT))


def test_versions_are_exported_with_their_own_numbers(tmp_path: Path) -> None:
    assert not np.array_equal(Weights.of(1, ROWS).top, Weights.of(2, ROWS).top)
    assert np.array_equal(Weights.of(2, ROWS).tables["item"], Weights.of(2, ROWS).tables["item"])


def test_the_tail_is_told_by_command() -> None:
    """Each command has the requests that were due while its own change was under way, and no other's."""
    record = Record()
    for second in range(100):
        late = 10 <= second <= 19
        record.ended(second, second + (0.5 if late else 0.01), Verdict.FAILED if second == 15 else Verdict.RIGHT)
    for begin_s, end_s in ((8.0, 22.0), (30.0, 40.0)):
        record.begin(Kind.REBALANCE, begin_s).end_s = end_s
    under_way = [Span(Kind.REBALANCE, 10.0, 19.0), Span(Kind.REBALANCE, 31.0, 34.0)]
    first, second = by_command(record, under_way)
    assert first == {"command": "rebalance --shards 4", "requests": 9, "p50_ms": 500.0, "p99_ms": 500.0}
    assert second == {"command": f"publish {MODEL}/2", "requests": 4, "p50_ms": 10.0, "p99_ms": 10.0}
