"""The open loop: its arrivals, its count beside the server's own, what it says of itself, and the command around it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpull.deploy.cli import app
from ringpull.inference.errors import InvalidInput, RingpullError, Unavailable
from ringpull.inference.head.frontends.grpc.decoding import decode_request
from ringpull.inference.head.request.received import Limits
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest import open_loop_report
from ringpull.loadtest.find_max import Found, Trial
from ringpull.loadtest.generator import arrival_times
from ringpull.loadtest.messages import prepare_messages
from ringpull.loadtest.open_loop import GeneratorHealth, OpenLoopPlan, run_open_loop
from ringpull.loadtest.open_loop_report import measure_rate, search_rate
from ringpull.loadtest.options import WorkloadOptions
from ringpull.loadtest.report import Summary
from tests.integration.local import LocalCluster
from tests.ports import free_port

OPTIONS = WorkloadOptions(candidates=4, requests=16, context=("user", "town"))

COMMAND = ("loadtest", "--rate", "40", "--seconds", "1", "--candidates", "4", "--context", "user,town")


@pytest.fixture(scope="module")
def closed_port() -> str:
    return f"127.0.0.1:{free_port()}"


def test_arrivals_are_a_poisson_process_of_the_rate_and_the_seed() -> None:
    times = arrival_times(1000.0, 20.0, seed=1)
    assert len(times) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert times.min() >= 0
    assert times.max() <= 20
    gaps = np.diff(times)
    assert gaps.min() >= 0
    # The deviation of exponential gaps is their mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    np.testing.assert_array_equal(times, arrival_times(1000.0, 20.0, seed=1))
    assert not np.array_equal(times[:100], arrival_times(1000.0, 20.0, seed=2)[:100])


@pytest.mark.medium
@pytest.mark.net
def test_it_counts_what_the_server_counts(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        messages = prepare_messages(client, None, OPTIONS, with_timings=True)
        plan = OpenLoopPlan(rate=80.0, seconds=1.5, timeout_s=60.0)
        run, summary = measure_rate(client, messages, plan, settings={})
    assert run.sent == len(arrival_times(plan.rate, plan.seconds, plan.seed))
    assert summary.requests == summary.server_requests == run.sent
    assert summary.failures == 0
    assert set(summary.stages_us) == {"decode", "features", "queue", "lookup", "dense", "total"}
    assert sum(moment.requests for moment in summary.timeline) == run.sent
    # The server's part of a request is in the whole of it.
    assert summary.stages_us["total"]["p50"] / 1000 <= summary.percentiles_ms["50"]


@pytest.mark.medium
@pytest.mark.net
def test_failed_requests_are_counted_with_their_reason(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        messages = prepare_messages(client, "ranker", OPTIONS)
    broken = [payload.replace(b"ranker", b"nobody") for payload in messages.payloads]
    run = run_open_loop(cluster.target, broken, OpenLoopPlan(rate=50.0, seconds=0.5, timeout_s=60.0))
    assert run.latencies.failures == run.latencies.requests == run.sent > 0
    ((reason, count),) = run.latencies.errors.items()
    assert reason.startswith("NOT_FOUND: ")
    assert count == run.sent


@pytest.mark.net
def test_nobody_there_is_told_at_once(closed_port: str) -> None:
    with pytest.raises(Unavailable, match=closed_port):
        run_open_loop(closed_port, [b""], OpenLoopPlan(rate=10.0, seconds=1.0, timeout_s=0.3))


@pytest.mark.medium
@pytest.mark.net
def test_a_search_finds_a_rate_that_a_generous_bound_allows(cluster: LocalCluster) -> None:
    told = []
    with cluster.client() as client:
        messages = prepare_messages(client, None, OPTIONS)
        plan = OpenLoopPlan(rate=20.0, seconds=0.5)
        # No server answers within a hundredth of a millisecond; the search must end, and say so.
        found = search_rate(client.target, messages, plan, p99_ms=0.01, on_trial=told.append)
    assert found.rate == 0
    assert list(found.trials) == told


def test_a_generator_at_its_end_says_so() -> None:
    well = GeneratorHealth(cpu_s=1.0, wall_s=10.0, late_p50_ms=0.1, late_p99_ms=1.0, unsent=0)
    assert well.warnings(p99_ms=5.0) == []
    busy = GeneratorHealth(cpu_s=9.8, wall_s=10.0, late_p50_ms=5.0, late_p99_ms=50.0, unsent=3)
    cpu, late, unsent = busy.warnings(p99_ms=60.0)
    assert "98% of a core" in cpu
    assert "50.0 ms late" in late
    assert "3 requests were not sent" in unsent


@pytest.mark.medium
@pytest.mark.net
def test_ids_the_model_cannot_take_are_found_before_the_run(cluster: LocalCluster) -> None:
    with cluster.client() as client:
        with pytest.raises(InvalidInput, match="no feature colour"):
            prepare_messages(client, None, WorkloadOptions(replay_columns={"colour": "x"}))
        messages = prepare_messages(client, None, OPTIONS)
        messages.rehearse(client)
    assert (messages.model, messages.version) == ("ranker", 1)
    requests = [decode_request(pb.PredictRequest.FromString(each), Limits(4, 1_000)) for each in messages.payloads]
    assert {request.columns.row_counts for request in requests} == {(4,)}


@pytest.mark.medium
@pytest.mark.net
def test_the_command_reports_as_json_and_in_a_folder(cluster: LocalCluster, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        [*COMMAND, "--target", cluster.target, "--report", str(tmp_path), "--json"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["requests"] == figures["server_requests"] > 0
    assert figures["failures"] == 0
    assert Path(figures["report"]).is_file()


@pytest.mark.medium
@pytest.mark.net
def test_the_command_fails_when_nothing_was_answered(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its figures: a script that takes the exit status for an answer must not go on."""

    def all_fail(*args: Any, **named: Any) -> tuple[Any, Summary]:
        run, summary = measure_rate(*args, **named)
        return run, replace(summary, failures=summary.requests)

    monkeypatch.setattr(open_loop_report, "measure_rate", all_fail)
    done = CliRunner().invoke(app, [*COMMAND, "--target", cluster.target, "--json"])
    figures = json.loads(done.stdout)
    assert figures["failures"] == figures["requests"] > 0
    assert isinstance(done.exception, RingpullError)
    assert "none was answered" in str(done.exception)


@pytest.mark.medium
@pytest.mark.net
def test_a_search_fails_when_no_rate_holds(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Found(
        rate=0.0, bound_ms=20.0, trials=[Trial(rate=5.0, p50_ms=30.0, p99_ms=40.0)], limited_by_generator=False
    )
    monkeypatch.setattr(open_loop_report, "search_rate", lambda *args, **named: found)
    search = ["loadtest", "--find-max", "--target", cluster.target, "--report", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, search)
    assert json.loads(done.stdout)["rate"] == 0
    assert isinstance(done.exception, RingpullError)
    assert str(done.exception) == "no rate keeps a p99 of 20 ms"


def test_the_command_wants_a_rate_or_a_search() -> None:
    with pytest.raises(InvalidInput, match="--rate R"):
        CliRunner().invoke(app, ["loadtest", "--target", "127.0.0.1:1"], catch_exceptions=False)
