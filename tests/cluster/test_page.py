"""The page of a deployment with two heads, in a real browser: sums that are the same whoever answers, and growth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ringpull import Client
from ringpull.inference.client.operations import Control, ControlChange, OperationsClient, Rebalance
from tests.chromium import chromium, tab
from tests.cluster.conftest import RingpullRun, Serving
from tests.cluster.models import DIM, score, write_model
from tests.cluster.watching import until

pytestmark = pytest.mark.ray

ROWS = 20_000
ASKED = 40


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Serving]) -> Serving:
    model: Path = write_model(tmp_path_factory.mktemp("models") / "ranker", rows=ROWS)
    return serve(model, "--shards", 3, "--heads", 2, "--data-dir", tmp_path_factory.mktemp("data"), "--live", "user")


def status_of(serving: Serving) -> dict[str, Any]:
    """Ask over a connection of its own, which the kernel gives to either head."""
    answer: dict[str, Any] = httpx.get(f"http://{serving.ready['http']}/status", trust_env=False, timeout=60).json()
    return answer


def answers_of_both(serving: Serving) -> dict[int, dict[str, Any]]:
    """Return the newest answer of each head, by its number."""
    found: dict[int, dict[str, Any]] = {}
    told = 0

    def both() -> bool:
        nonlocal told
        status = status_of(serving)
        assert int(status["requests"]) >= told, "sums do not go back because another head answers"
        told = int(status["requests"])
        [own] = [each["head"] for each in status["heads"] if each["heard_s"] == 0]
        found[own] = status
        return len(found) == 2

    until("an answer of each head", both)
    return found


def test_sums_are_the_same_whichever_head_answers(serving: Serving, ringpull: RingpullRun) -> None:
    before = int(status_of(serving)["requests"])
    for _ in range(ASKED):
        with Client(serving.ready["grpc"]) as client:
            client.predict("ranker", {"user_id": [7], "genres": [[]]})
    until("all of them", lambda: int(status_of(serving)["requests"]) == before + ASKED)
    for status in answers_of_both(serving).values():
        assert int(status["requests"]) == before + ASKED
        assert [each["alive"] for each in status["heads"]] == [True, True]
        everything, ranker = status["recent"]
        assert (everything["model"], ranker["model"], ranker["requests"]) == ("", "ranker", str(ASKED))
        assert ranker["p99_ms"] >= ranker["p50_ms"] > 0
    told = json.loads(ringpull("status", "--json", "--target", serving.ready["grpc"]).stdout)
    assert told["requests"] == before + ASKED
    assert [each["head"] for each in told["heads"]] == [0, 1]
    text = ringpull("status", "--target", serving.ready["grpc"]).stdout
    assert re.search(rf"last 15 min: {ASKED} requests, .*p50 [\d.]+ ms, p99", text)


def test_a_push_through_one_head_is_seen_through_both(serving: Serving) -> None:
    """Through heads, as where tokens are asked for, and straight to the shards."""
    for key, straight in ((ROWS, False), (ROWS + 1, True)):
        with Client(serving.ready["grpc"], straight_pushes=straight) as client:
            client.push("ranker", "user", [key], np.full((1, DIM), 2.5, np.float32))
        seen: dict[int, float] = {}
        while len(seen) < 2:  # the kernel gives each connection to either head
            with Client(serving.ready["grpc"], channels=1) as client:
                number = client.status().head_number
                [seen[number]] = client.predict("ranker", {"user_id": [key], "genres": [[]]}).outputs["score"]
        assert seen == {0: 2.5 * DIM, 1: 2.5 * DIM}


def test_growth_is_seen_live_and_a_prediction_tried(serving: Serving) -> None:
    with (
        chromium() as browser,
        tab(browser, f"http://{serving.ready['http']}/") as opened,
        OperationsClient(serving.ready["grpc"]) as operations,
    ):
        page = opened.page
        page.wait_for_selector("#main:not([hidden])")
        assert page.locator("#shards tr").count() == 3
        # So slow that the page sees it, and held until it has.
        operations.call(Rebalance(shards=4, bytes_per_s=20_000))
        operations.call(ControlChange(Control.PAUSE))
        page.wait_for_function("() => document.getElementById('change-title').textContent === 'Change, paused'")
        assert page.inner_text("#change-what") == "rebalance shards 3 → 4"
        assert page.locator("#ring path.next").count() > 0
        operations.call(ControlChange(Control.RESUME))
        page.wait_for_function("() => document.querySelectorAll('#shards tr').length === 4")
        page.wait_for_selector("#change", state="hidden")
        assert "The ring of 4 shards" in page.text_content("#ring-text")
        page.fill("[aria-label='user_id, all rows']", "16")
        page.fill("[aria-label='genres, row 1']", "drama, crime")
        page.click("#try button.main")
        page.wait_for_selector("#try-answer:not([hidden]), #try-error:not([hidden])")
        rows = [row.split("\t") for row in page.inner_text("#out-rows").splitlines()]
        assert rows[0] == ["1", f"{score(16, ['drama', 'crime'], rows=ROWS):g}"], page.inner_text("#try-error")
