"""Reports: what is written can be read again and says the same; histograms of several processes add up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.loadtest.find_max import Found, Trial
from ringpull.loadtest.latencies import STAGES, Latencies, stages_of
from ringpull.loadtest.open_loop_report import write_search
from ringpull.loadtest.report import NINES, Moment, ServerCounts, Summary, summarize, write_report

PNG = b"\x89PNG"


def some_latencies(answered: int = 100, failed: int = 1) -> Latencies:
    """Answers after 1, 2, 3, ... milliseconds, and failures after 500."""
    latencies = Latencies()
    for number in range(answered):
        latencies.answered((number + 1) / 1000, dict.fromkeys(STAGES, number + 1))
    for _ in range(failed):
        latencies.failed(0.5, "UNAVAILABLE: no | one\nthere")
    return latencies


def some_summary(latencies: Latencies, **others: Any) -> Summary:
    fields: dict[str, Any] = {
        "tool": "locust",
        "target": "127.0.0.1:1",
        "model": "ranker",
        "seconds": 10.0,
        "settings": {"shape": "steady", "zipf": "1|2"},
        "timeline": [Moment(0, 50, 0, 4), Moment(1, 51, 1, 4)],
        "warnings": ["too busy"],
        **others,
    }
    before, after = ServerCounts(7, 1000, 10), ServerCounts(108, 3000, 60)
    return summarize(latencies, before=before, after=after, started_s=0.0, **fields)


def test_histograms_of_processes_add_up() -> None:
    together = some_latencies()
    together.add(Latencies.from_message(some_latencies().to_message()))
    assert (together.requests, together.failures) == (202, 2)
    assert together.errors == {"UNAVAILABLE: no | one\nthere": 2}
    assert together.percentile_ms(50) == pytest.approx(some_latencies().percentile_ms(50), rel=0.02)
    assert together.stages["dense"].get_total_count() == 200


def test_percentiles_keep_three_digits_and_count_failures() -> None:
    latencies = some_latencies()
    assert latencies.percentile_ms(50) == pytest.approx(51, rel=0.001)
    assert latencies.percentile_ms(100) == pytest.approx(500, rel=0.001)
    assert Latencies().percentile_ms(99) == 0


def test_stages_are_those_of_the_reply() -> None:
    timings = pb.Timings(decode_us=1, features_us=2, queue_us=3, lookup_us=4, dense_us=5, total_us=20, batch_rows=7)
    stages = stages_of(pb.PredictResponse(timings=timings).SerializeToString())
    assert list(stages.items()) == [
        ("decode", 1),
        ("features", 2),
        ("queue", 3),
        ("lookup", 4),
        ("dense", 5),
        ("total", 20),
    ]
    assert stages_of(pb.PredictResponse().SerializeToString()) == {}


@pytest.mark.medium
def test_a_report_holds_what_was_measured(tmp_path: Path) -> None:
    summary = some_summary(some_latencies())
    text = write_report(tmp_path / "new", summary).read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))
    assert (rows["requests"], rows["failures"], rows["requests by the server's count"]) == ("101", "1", "101")
    assert rows["ids that no table had"] == "2.50%"
    assert float(rows["99"]) == summary.percentiles_ms["99"]
    assert "**Warning:** too busy" in text
    assert "| 1 | UNAVAILABLE: no \\| one there |" in text
    plots = re.findall(r"!\[\w+\]\((.+?)\)", text)
    assert plots == ["latency.png", "timeline.png", "stages.png"]
    assert all((tmp_path / "new" / plot).read_bytes().startswith(PNG) for plot in plots)


@pytest.mark.medium
def test_the_summary_for_programs_has_the_figures_of_the_last_line(tmp_path: Path) -> None:
    summary = some_summary(some_latencies())
    write_report(tmp_path, summary)
    read = json.loads((tmp_path / "summary.json").read_text())
    assert {name: read[name] for name in summary.line} == summary.line
    assert summary.line["rps"] == 10.1
    assert len(read["curve_ms"]) == len(NINES)


def test_a_run_without_requests_has_a_report_too(tmp_path: Path) -> None:
    summary = some_summary(Latencies(), timeline=(), seconds=0.0)
    text = write_report(tmp_path, summary).read_text()
    assert "0 requests" in text
    assert "png" not in text


def test_a_search_is_drawn_and_its_trials_kept(tmp_path: Path) -> None:
    trials = [Trial(rate=rate, p50_ms=1.0, p99_ms=rate / 10) for rate in (50.0, 100.0, 400.0)]
    plot = write_search(tmp_path / "search", Found(100.0, 20.0, trials, limited_by_generator=False))
    assert plot.read_bytes().startswith(PNG)
    read = json.loads((plot.parent / "trials.json").read_text())
    assert [Trial(**trial) for trial in read] == trials
