"""The whole of `make rebalance-check` without Ray: every step, under load, every answer checked."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from ringpull.deploy.model_folders import parse_replicas
from ringpull.inference.client.operations import OperationsClient
from ringpull.loadtest.chaos.checked_model import MODEL, export_version, make_requests
from ringpull.loadtest.chaos.oracle import Oracle
from ringpull.loadtest.chaos.rebalance_check import FIRST_REPLICAS, FIRST_SHARDS, VERSIONS, check
from ringpull.loadtest.chaos.serving import RunCommand
from ringpull.router.control.operations import ChangeRequest, PlanRebalance, Publish, Rebalance, Rollback
from tests.loadtest.live_cluster import LiveCluster, live_cluster

ROWS = {"user": 30_000, "item": 15_000, "genre": 19}


def request_of(arguments: tuple[str, ...]) -> ChangeRequest:
    match arguments:
        case "publish", version:
            model, number = version.split("/")
            return Publish(model=model, version=int(number))
        case "rollback", model:
            return Rollback(model=model)
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    wanted = [value for option, value in itertools.pairwise(arguments) if option == "--replicas"]
    return Rebalance(
        shards=int(options["--shards"]) if "--shards" in options else None, replicas=dict(map(parse_replicas, wanted))
    )


def commands(cluster: LiveCluster) -> RunCommand:
    """Carry command lines out on the coordinator, as the commands do."""

    def run(arguments: tuple[str, ...]) -> dict[str, Any]:
        asked = request_of(tuple(word for word in arguments if word not in ("--dry-run", "--yes")))
        if "--dry-run" in arguments:
            assert isinstance(asked, Rebalance)
            plan = cluster.coordinator.call(PlanRebalance(asked))
            return {"copied_bytes": plan.copied_bytes, "least_bytes": plan.min_bytes}
        return {"copied_bytes": cluster.wait(cluster.coordinator.call(asked)).copied_bytes}

    async def run_aside(*arguments: str) -> dict[str, Any]:
        return await asyncio.to_thread(run, arguments)

    return run_aside


@pytest.mark.slow
async def test_no_request_fails_and_no_score_is_wrong(tmp_path: Path) -> None:
    requests = make_requests(40, rows=ROWS)
    for version in range(1, VERSIONS + 1):
        export_version(tmp_path / "made" / MODEL, version, ROWS)
    served = tmp_path / MODEL
    served.mkdir()
    (tmp_path / "made" / MODEL / "1").rename(served / "1")
    replicas = [text for text in FIRST_REPLICAS if "=" in text]
    with live_cluster(served, tmp_path, shards=FIRST_SHARDS, replicas=replicas) as cluster:
        for version in range(2, VERSIONS + 1):
            (tmp_path / "made" / MODEL / str(version)).rename(served / str(version))
        oracle = Oracle(requests, {MODEL: VERSIONS}, ROWS)
        # The coordinator itself has the verbs.
        operations, quiet = cast(OperationsClient, cluster.coordinator), Console(quiet=True)
        line = await check(cluster.target, commands(cluster), operations, oracle, quiet, before_s=0.2, after_s=0.2)
    assert (line["failed"], line["wrong"]) == (0, 0)
    assert line["predicts"] > len(requests)
    assert line["versions_published"] == 3
    assert line["versions_seen"] == [1, 2, 3, 4]
    assert line["copied_vs_planned"] == 1
    assert line["most_copied_vs_planned"] <= 1
    assert line["moved_vs_least"] <= 1.06
