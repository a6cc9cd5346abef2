"""Locust for real, in processes of its own: it counts what the server counts, reports, and ends by itself."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringpull.loadtest.local import LOCUSTFILE, run_locust
from tests.integration.local import LocalCluster
from tests.ports import free_port

pytestmark = [pytest.mark.net, pytest.mark.medium]

OPTIONS = ("--candidates", "4", "--requests", "16", "--context", "user,town", "--timeout", "60")
STAGES = {"decode", "features", "queue", "lookup", "dense", "total"}


def summary_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return read


def test_it_ends_by_itself_and_counts_what_the_server_counts(cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        before = client.status().requests
        line = run_locust(cluster.target, tmp_path, seconds=3, users=4, options=OPTIONS)
        counted = client.status().requests - before
    rehearsals = 1
    assert line["requests"] == counted - rehearsals > 0
    assert line["failures"] == 0
    assert Path(line["report"]).is_file()
    assert summary_of(tmp_path)["server_requests"] == line["requests"]
    with (tmp_path / "locust_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"ranker", "Aggregated", *STAGES}
    # A stage is a row of its own, and no request.
    assert {int(row["Request Count"]) for row in rows.values()} == {line["requests"]}
    # All of locust's figures are milliseconds; our own report has stages in microseconds.
    mean_us = summary_of(tmp_path)["stages_us"]["total"]["mean"]
    assert float(rows["total"]["Average Response Time"]) == pytest.approx(mean_us / 1000, rel=0.01)
    assert float(rows["total"]["Average Response Time"]) <= float(rows["ranker"]["Average Response Time"])
    assert "<html" in (tmp_path / "locust.html").read_text()


def test_a_master_and_two_workers_count_together(cluster: LocalCluster, tmp_path: Path) -> None:
    # The second step is long: a busy machine's workers take a while to start its users, and to tell the master.
    shape = ["--shape", "step", "--steps", "2"]
    line = run_locust(cluster.target, tmp_path, seconds=8, users=4, workers=2, options=[*OPTIONS, *shape])
    summary = summary_of(tmp_path)
    assert line["requests"] == summary["server_requests"] > 0
    assert line["failures"] == 0
    assert max(moment["users"] for moment in summary["timeline"]) == 4


def test_the_web_ui_starts_runs_and_shows_the_same_count(cluster: LocalCluster, tmp_path: Path) -> None:
    ui = ["--web-host", "127.0.0.1", "--web-port", str(free_port()), "--autostart", "--autoquit", "1"]
    locust(*ui, "-H", cluster.target, "-u", "2", "-t", "2s", "--report", str(tmp_path), *OPTIONS)
    summary = summary_of(tmp_path)
    assert summary["requests"] == summary["server_requests"] > 0


def test_what_is_wrong_is_said_before_the_run(cluster: LocalCluster) -> None:
    done = locust("--headless", "-H", cluster.target, "-t", "5s", "--zipf", "colour=1", status=1)
    assert "no feature colour" in done.stderr
    assert "Traceback" not in done.stderr


def locust(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run locust to its end; the time limit is a guard against hanging for ever, not a measurement."""
    environment = {**os.environ, "PYTHONPATH": str(LOCUSTFILE.parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done
