"""The changes of a schedule on a deployment that can change, in this process, under load: no Ray and no faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from ringpull import AsyncClient
from ringpull.inference.client.operations import OperationsClient
from ringpull.loadtest.chaos.changes import Deployed, Operator, command
from ringpull.loadtest.chaos.checked_load import CheckedLoad
from ringpull.loadtest.chaos.checked_model import MODEL, export_version, make_requests
from ringpull.loadtest.chaos.driver import Driver
from ringpull.loadtest.chaos.oracle import Live, Oracle
from ringpull.loadtest.chaos.report import find
from ringpull.loadtest.chaos.schedule import FAULTS, Command, Fault, Kind, schedule
from ringpull.loadtest.generator import endless_arrivals
from ringpull.router.control.operations import ChangeRequest, Publish, Rebalance, Rollback
from tests.loadtest.live_cluster import LiveCluster, live_cluster

ROWS = {"user": 3_000, "item": 2_000, "genre": 19}
VERSIONS = 3


def request_of(words: tuple[str, ...]) -> ChangeRequest:
    match words:
        case "publish", version:
            return Publish(model=MODEL, version=int(version.removeprefix(f"{MODEL}/")))
        case "rollback", model, version:
            return Rollback(model=model, version=int(version))
        case "rebalance", "--shards", count, "--yes":
            return Rebalance(shards=int(count))
    raise AssertionError(words)


class Changed:
    """The deployment as the driver sees it."""

    def __init__(self, cluster: LiveCluster, live: Live) -> None:
        self._cluster = cluster
        # The coordinator itself has the verbs.
        self._operator = Operator(self._run, cast(OperationsClient, cluster.coordinator), live, VERSIONS)

    async def _run(self, *words: str) -> dict[str, Any]:
        await asyncio.to_thread(lambda: self._cluster.wait(self._cluster.coordinator.call(request_of(words))))
        return {}

    async def execute(self, change: Fault | Command) -> str:
        assert isinstance(change, Fault)
        return await self._operator.execute(change)

    async def inject(self, fault: Fault, injected: Callable[[], None]) -> None:
        raise AssertionError(fault)


@pytest.mark.medium
async def test_no_request_fails_and_no_score_is_wrong(tmp_path: Path) -> None:
    requests = make_requests(20, rows=ROWS)
    for version in range(1, VERSIONS + 1):
        export_version(tmp_path / "made" / MODEL, version, ROWS)
    served = tmp_path / MODEL
    served.mkdir()
    (tmp_path / "made" / MODEL / "1").rename(served / "1")
    events = schedule(3, 60.0, [*FAULTS, Kind.RESTART])[:6]
    live = Live({MODEL: 1})
    with live_cluster(served, tmp_path, shards=4, replicas=["item=2", "genre=all"]) as cluster:
        for version in range(2, VERSIONS + 1):
            (tmp_path / "made" / MODEL / str(version)).rename(served / str(version))
        async with AsyncClient(cluster.target, timeout_s=60) as client:
            oracle = Oracle(requests, {MODEL: VERSIONS}, ROWS)
            load = CheckedLoad(client.predict, (MODEL,), oracle, live)
            await load.warm_up()
            load.start(endless_arrivals(50.0, np.random.default_rng(1)))
            # Their times do not matter here: one comes when the one before it is over.
            changed, quiet = Changed(cluster, live), Console(quiet=True)
            player = Driver(changed, load.record, lambda: 1e3 + load.now_s(), quiet, settle_s=0.0)
            await player.play(events, until_s=1e9)
            await load.stop()
    found = find(load.record, seed=3, heads=1, goodput=None)
    assert player.played == len(events)
    assert {event.change.kind for event in events if event.change} == {Kind.PUBLISH, Kind.ROLLBACK, Kind.REBALANCE}
    assert not any(span.said for span in load.record.spans)
    assert found.good, (found.last_line(), load.record.troubles[:3])
    assert found.predicts > 20


def test_a_version_whose_folder_is_away_is_not_published() -> None:
    """It was open when it was removed, and is let go of then."""
    now = Deployed(3, (3,), 2)
    for n in range(10):
        asked = command(Fault(Kind.PUBLISH, n / 10, without=1), now, VERSIONS)
        assert asked.words == ("publish", f"{MODEL}/2")
