"""The oracle knows every score, and the load holds every answer against it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.inference.errors import DeadlineExceeded, Unavailable
from ringpull.inference.prediction import Filled, Prediction
from ringpull.inference.top_k_answer import TopK
from ringpull.loadtest.chaos import goodput
from ringpull.loadtest.chaos.checked_load import HURRY_S, CheckedLoad
from ringpull.loadtest.chaos.checked_model import MODEL, Weights, expected, export_version, ids_of, make_requests
from ringpull.loadtest.chaos.oracle import SINGLE_COPY, Live, Oracle, Question, Verdict
from ringpull.loadtest.chaos.rankings import RANKED_EVERY, K
from ringpull.loadtest.chaos.record import LATE
from ringpull.loadtest.generator import endless_arrivals
from tests.integration.local import local_cluster

ROWS = {"user": 300, "item": 200, "genre": 19}
REQUESTS = make_requests(6, rows=ROWS)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(REQUESTS, {MODEL: 2, SINGLE_COPY: 1}, ROWS)


def answer(model: str, version: int, number: int, *, filled: tuple[str, ...] = (), off: float = 0.0) -> Prediction:
    request = REQUESTS[number]
    if "user" in filled:
        request = replace(request, user=ROWS["user"])
    scores = expected(Weights.of(version, ROWS), request).scores + off
    named = tuple(Filled(feature=name, reason="unavailable", values=1) for name in filled)
    return Prediction(model=model, version=version, outputs={"output": scores.astype(np.float32)}, filled=named)


def test_the_oracle_knows_every_score(oracle: Oracle) -> None:
    known = next(number for number, request in enumerate(REQUESTS) if request.user < ROWS["user"])
    checked, single = Question(MODEL, known), Question(SINGLE_COPY, known)
    both = frozenset({1, 2})
    assert oracle.judge(checked, answer(MODEL, 2, known), both) == (Verdict.RIGHT, "")
    assert oracle.judge(single, answer(SINGLE_COPY, 1, known), frozenset({1})) == (Verdict.RIGHT, "")
    assert oracle.judge(single, answer(SINGLE_COPY, 1, known, filled=("user",)), frozenset({1})) == (Verdict.FILLED, "")
    wrong = {
        "scored": (checked, answer(MODEL, 2, known, off=1e-3)),
        "checked/1 answered": (checked, answer(MODEL, 1, known)),
        "single_copy/2 answered": (checked, answer(SINGLE_COPY, 2, known)),
        "which has copies": (checked, answer(MODEL, 2, known, filled=("user",))),
    }
    for text, (question, given_answer) in wrong.items():
        outcome, said = oracle.judge(question, given_answer, frozenset({2}))
        assert outcome is Verdict.WRONG
        assert text in said
    named = replace(answer(SINGLE_COPY, 1, known), filled=answer(SINGLE_COPY, 1, known, filled=("user",)).filled)
    # Another request of its batch lost its user: this one names the feature, and is whole.
    assert oracle.judge(single, named, frozenset({1}))[0] is Verdict.FILLED
    unnamed = replace(answer(SINGLE_COPY, 1, known, filled=("user",)), filled=())
    assert oracle.judge(single, unnamed, frozenset({1}))[0] is Verdict.WRONG
    neither = answer(SINGLE_COPY, 1, known, filled=("user",), off=1e-3)
    assert oracle.judge(single, neither, frozenset({1}))[0] is Verdict.WRONG


def test_the_oracle_knows_every_ranking(oracle: Oracle) -> None:
    question, both = Question(MODEL, RANKED_EVERY, ranks=True), frozenset({1, 2})
    rows, ranking = Weights.of(2, ROWS).tables["item"], oracle.rankings[RANKED_EVERY]
    scores = rows @ ranking.query
    scores[ranking.excluded[ranking.excluded < len(rows)]] = -np.inf
    order = np.argsort(-scores)

    def ranked(numbers: np.ndarray, version: int = 2, off: float = 0.0, lost: int = 0) -> TopK:
        given = (rows[numbers] @ ranking.query + np.float32(off))[None]
        counts = np.array([len(numbers)])
        keys = ids_of(numbers)[None]
        return TopK(model=MODEL, version=version, table="item", keys=keys, scores=given, counts=counts, lost=lost)

    assert oracle.judge_ranking(question, ranked(order[:K]), both) == (Verdict.RIGHT, "")
    for text, given in {
        "checked/1 ranked; live was checked/[2]": ranked(order[:K], version=1),
        "9 slots lost": ranked(order[:K], lost=9),
        "scores are": ranked(order[1 : K + 1]),
        "checked/2: ranking": ranked(order[: K - 1]),
        "checked/2": ranked(order[:K], off=1e-2),
        "ranking 5": ranked(np.append(order[: K - 1], order[0])),
        "is [[": ranked(np.append(order[: K - 1], ranking.excluded[0])),
    }.items():
        verdict, said = oracle.judge_ranking(question, given, frozenset({2}))
        assert verdict is Verdict.WRONG
        assert text in said


def test_a_version_has_the_content_that_was_exported_last(oracle: Oracle) -> None:
    known = Question(MODEL, 0)
    again = Oracle(REQUESTS, {MODEL: 2}, ROWS, others={MODEL: [7]})
    assert again.judge(known, answer(MODEL, 1, 0), frozenset({1}))[0] is Verdict.RIGHT
    again.reexported(MODEL, 1, 7)
    assert again.judge(known, answer(MODEL, 1, 0), frozenset({1}))[0] is Verdict.WRONG
    scores = expected(Weights.of(7, ROWS), REQUESTS[0]).scores
    new = replace(answer(MODEL, 1, 0), outputs={"output": scores.astype(np.float32)})
    assert again.judge(known, new, frozenset({1}))[0] is Verdict.RIGHT
    assert oracle.judge(known, new, frozenset({1}))[0] is Verdict.WRONG


async def test_the_load_checks_every_answer(oracle: Oracle) -> None:
    """One answer of `checked` in three is off, one of `single_copy` in three fails."""
    asked = Counter[str]()

    async def predict(model: str, features: Mapping[str, Any], context: Mapping[str, Any]) -> Prediction:
        number = next(n for n, each in enumerate(REQUESTS) if each.features()[1]["user"] == context["user"])
        asked[model] += 1
        if asked[model] % 3 == 0 and model == SINGLE_COPY:
            raise Unavailable("no head")
        return answer(model, 1, number, off=1e-2 if asked[model] % 3 == 0 else 0.0)

    load = CheckedLoad(predict, (MODEL, SINGLE_COPY), oracle, Live({MODEL: 1, SINGLE_COPY: 1}))
    load.start(endless_arrivals(200, np.random.default_rng(1)))
    while min(asked.values(), default=0) < 30:
        await asyncio.sleep(0.01)
    await load.stop()
    counts = Counter(load.record.verdicts)
    assert counts[Verdict.WRONG] == asked[MODEL] // 3
    assert counts[Verdict.FAILED] == asked[SINGLE_COPY] // 3
    assert sum(counts.values()) == asked.total()
    assert {trouble.error for trouble in load.record.troubles} == {"wrong", "Unavailable"}
    due, took, _ = load.record.arrays()
    assert (np.diff(due) >= 0).all()
    assert (took > 0).all()


async def test_some_requests_are_in_a_hurry(oracle: Oracle) -> None:
    deadlines = Counter[tuple[str, float | None]]()

    async def predict(
        model: str, features: Mapping[str, Any], context: Mapping[str, Any], /, *, timeout_s: float | None = None
    ) -> Prediction:
        deadlines[model, timeout_s] += 1
        raise Unavailable("no head") if timeout_s is None else DeadlineExceeded("Deadline Exceeded")

    load = CheckedLoad(predict, (MODEL, SINGLE_COPY), oracle, Live({MODEL: 1, SINGLE_COPY: 1}))
    await load.ask_all()
    assert {deadline for _, deadline in deadlines} == {None}
    with load.hurried():
        record = await load.ask_all()
    assert Counter(trouble.error for trouble in record.troubles)[LATE] == load.record.hurried > 0
    assert deadlines[MODEL, HURRY_S] > 0
    assert deadlines[SINGLE_COPY, HURRY_S] > 0
    hurried = deadlines.total()
    await load.ask_all()
    assert sum(count for (_, deadline), count in deadlines.items() if deadline == HURRY_S) < hurried / 4


async def test_it_does_not_begin_with_a_wrong_answer(oracle: Oracle) -> None:
    async def predict(model: str, features: Mapping[str, Any], context: Mapping[str, Any]) -> Prediction:
        return answer(model, 2, 0)

    load = CheckedLoad(predict, (MODEL,), oracle, Live({MODEL: 1}))
    with pytest.raises(RuntimeError, match="checked/2 answered; live was checked/\\[1\\]"):
        await load.warm_up()


def test_two_versions_may_answer_while_they_change() -> None:
    live = Live({MODEL: 1})
    live.may_become(MODEL, 2)
    assert live.now(MODEL) == {1, 2}
    live.is_now(MODEL, 2)
    assert live.now(MODEL) == {2}


@pytest.mark.medium
@pytest.mark.net
async def test_goodput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goodput, "WARM_UP_S", 0.1)
    monkeypatch.setattr(goodput, "TOP_S", 0.4)
    monkeypatch.setattr(goodput, "DEADLINE_S", 60.0)  # that some are good on however busy a machine
    requests = make_requests(3, rows=ROWS, candidates=16)
    export_version(tmp_path / MODEL, 1, ROWS)
    with local_cluster([tmp_path / MODEL / "1"]) as cluster:
        found, wrong = [
            await goodput.measure(cluster.target, Oracle(requests, {MODEL: 2}, ROWS), live, seconds=0.5, seed=1)
            for live in (Live({MODEL: 1}), Live({MODEL: 2}))
        ]
    assert found.wrong == 0
    assert found.top_rate > 0
    assert found.offered_rate > found.top_rate
    assert 0 < found.ratio == found.good_rate / found.top_rate
    assert wrong.wrong > 0
